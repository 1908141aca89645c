//! Small arithmetic that several signals share. Everything is finite for finite input.

use std::sync::LazyLock;

/// How much of an exponentially weighted sum is left after `dt` seconds with time constant `tau`.
pub(super) fn decay(dt: f32, tau: f32) -> f32 {
    (-(dt.max(0.0)) / tau).exp()
}

/// `a / b`, and zero where that is not a number to work with.
pub(super) fn ratio(a: f32, b: f32) -> f32 {
    if b > 0.0 && a.is_finite() {
        (a / b).min(1e9)
    } else {
        0.0
    }
}

/// A rate as an exponentially weighted moving average, fed with counts over intervals of any length.
pub(super) fn smooth(rate: &mut f32, count: f32, dt: f32, tau: f32) {
    blend(rate, count, dt, decay(dt, tau), tau);
}

/// The same, given what is left of it.
#[inline]
pub(super) fn blend(rate: &mut f32, count: f32, dt: f32, keep: f32, tau: f32) {
    if dt > 0.0 {
        *rate = *rate * keep + count / dt * (1.0 - keep);
    } else {
        *rate += count / tau;
    }
}

/// The median; the slice is reordered. `None` where it is empty.
pub(super) fn median(values: &mut [f32]) -> Option<f32> {
    let middle = values.len().checked_sub(1)? / 2;
    let (_, median, _) = values.select_nth_unstable_by(middle, f32::total_cmp);
    Some(*median)
}

/// A rate in one byte, on a logarithmic scale with steps of 6 %: a remembered maximum need not be exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Height(u8);

impl Height {
    pub(super) fn of(rate: f32) -> Self {
        if rate <= 0.0 {
            return Self(0); // most classes of most callers, in every tick
        }
        let steps = 16.0 * (16.0 * rate.max(0.0)).ln_1p();
        let whole = steps as u8;
        Self(whole.saturating_add(u8::from(steps > f32::from(whole))))
    }

    /// Raises it to that of `rate`, where that is higher than `floor` is too. Most rates of most ticks are not.
    #[inline]
    pub(super) fn raise(&mut self, rate: f32, floor: Self) {
        let known = usize::from((*self).max(floor).0);
        if rate > RATES.get(known).copied().unwrap_or_default() {
            *self = Self::of(rate);
        }
    }

    /// The rate, or up to 6 % more.
    pub(super) fn rate(self) -> f32 {
        (f32::from(self.0) / 16.0).exp_m1() / 16.0
    }

    /// The height of a rate that was a height before.
    pub(super) fn at_least(rate: f32) -> Self {
        Self((16.0 * (16.0 * rate.max(0.0)).ln_1p()).round() as u8)
    }

    /// Forgets a little: one step.
    pub(super) fn lower(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }
}

/// Rates that are not above a height, whatever the rounding.
static RATES: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let mut height = 0;
    [(); 256].map(|()| {
        let rate = Height(height).rate();
        height = height.saturating_add(1);
        rate * (1.0 - 1e-4)
    })
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_smooths_to_its_rate_whatever_the_tick() {
        for dt in [0.01_f32, 0.25, 1.0, 30.0] {
            let mut rate = 0.0;
            let ticks = (200.0 / dt) as u32 + 10;
            for _ in 0..ticks {
                smooth(&mut rate, 5.0 * dt, dt, 8.0);
            }
            assert!((rate - 5.0).abs() < 0.01, "{dt}: {rate}");
        }
    }

    #[test]
    fn nothing_divides_by_zero() {
        let mut rate = 1.0;
        smooth(&mut rate, 3.0, 0.0, 8.0);
        assert!(rate.is_finite());
        assert_eq!(ratio(1.0, 0.0), 0.0);
        assert_eq!(ratio(f32::NAN, 1.0), 0.0);
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn a_height_is_raised_as_if_it_were_worked_out_every_time() {
        let mut random = fastrand::Rng::with_seed(3);
        for known in 0..=u8::MAX {
            let exact = Height(known).rate();
            let near = [0.999_8, 0.999_9, 1.0, 1.000_1].map(|part| exact * part);
            let any = [0.0, random.f32(), 1e3 * random.f32(), 1e7];
            for rate in near.into_iter().chain(any) {
                for (mut height, floor) in [(Height(known), Height(0)), (Height(0), Height(known))]
                {
                    height.raise(rate, floor);
                    let all = Height::of(rate).max(Height(known));
                    assert_eq!(height.max(floor), all, "{rate} {known}");
                }
            }
        }
    }

    #[test]
    fn remembered_heights_are_right_to_six_percent() {
        for rate in [0.0_f32, 0.25, 1.0, 77.0, 1e5] {
            let height = Height::of(rate).rate();
            assert!(
                height >= rate * 0.999 && height <= rate * 1.07 + 0.01,
                "{rate}: {height}"
            );
        }
    }
}
