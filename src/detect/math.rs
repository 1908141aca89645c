//! Small arithmetic that several signals share. Everything is finite for finite input.

/// How much of an exponentially weighted sum is left after `dt` seconds with time constant `tau`.
pub(super) fn decay(dt: f32, tau: f32) -> f32 {
    (-(dt.max(0.0)) / tau).exp()
}

/// `a / b`, and zero where that is not a number to work with.
pub(super) fn ratio(a: f32, b: f32) -> f32 {
    if b > 0.0 && a.is_finite() && b.is_finite() {
        (a / b).min(1e9)
    } else {
        0.0
    }
}

/// A rate as an exponentially weighted moving average, fed with counts over intervals of any length.
pub(super) fn smooth(rate: &mut f32, count: f32, dt: f32, tau: f32) {
    if dt > 0.0 {
        let keep = decay(dt, tau);
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
}
