//! Max-min fairness, as pure arithmetic.
//!
//! The water level is the share per unit of weight at which a capacity is used up when everyone gets what they
//! ask for, or the level times their weight, whichever is less (Bertsekas and Gallager, Data Networks, 1992,
//! section 6.5.2).

/// What one party asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Demand {
    /// Requests that it has, or would have: infinite for a party that was refused.
    pub(super) wants: f64,
    pub(super) weight: f64,
}

/// The level at which `capacity` is used up; infinite where everyone gets what they ask for and some is left.
/// Sorts `demands`.
pub(super) fn water_level(capacity: f64, demands: &mut [Demand]) -> f64 {
    demands.sort_by(|a, b| (a.wants / a.weight).total_cmp(&(b.wants / b.weight)));
    let mut weight: f64 = demands.iter().map(|demand| demand.weight).sum();
    let mut left = capacity;
    for demand in demands.iter() {
        // Everyone from here on asks for at least this level.
        if demand.wants * weight >= left * demand.weight {
            return (left / weight).max(0.0);
        }
        left -= demand.wants;
        weight -= demand.weight;
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn demand(wants: f64, weight: f64) -> Demand {
        Demand { wants, weight }
    }

    #[test]
    fn the_light_get_what_they_ask_for_and_the_rest_is_shared() {
        let flood = demand(f64::INFINITY, 1.0);
        assert_eq!(
            water_level(10.0, &mut [flood, demand(2.0, 1.0), demand(3.0, 1.0)]),
            5.0
        );
        assert_eq!(water_level(10.0, &mut [flood, flood]), 5.0);
        assert_eq!(
            water_level(9.0, &mut [flood, demand(f64::INFINITY, 2.0)]),
            3.0
        );
        assert_eq!(water_level(10.0, &mut [demand(4.0, 1.0)]), f64::INFINITY);
        assert_eq!(water_level(10.0, &mut []), f64::INFINITY);
        assert_eq!(water_level(0.0, &mut [flood]), 0.0);
    }

    /// Raises the level in small steps until the capacity is used up.
    fn oracle(capacity: f64, demands: &[Demand]) -> f64 {
        let used = |level: f64| -> f64 {
            let share = |d: &Demand| d.wants.min(level * d.weight);
            demands.iter().map(share).sum()
        };
        let (mut low, mut high) = (0.0, 1e6);
        if used(high) < capacity {
            return f64::INFINITY;
        }
        for _ in 0..200 {
            let middle = (low + high) / 2.0;
            if used(middle) < capacity {
                low = middle
            } else {
                high = middle
            }
        }
        high
    }

    proptest! {
        #[test]
        fn the_level_is_the_one_that_a_naive_search_finds(
            capacity in 1.0f64..1_000.0,
            demands in prop::collection::vec(
                (prop_oneof![4 => 0.0f64..200.0, 1 => Just(f64::INFINITY)], 0.1f64..4.0),
                0..30,
            ),
        ) {
            let mut demands: Vec<_> = demands.into_iter().map(|(w, weight)| demand(w, weight)).collect();
            let naive = oracle(capacity, &demands);
            let level = water_level(capacity, &mut demands);
            if naive.is_finite() && level.is_finite() {
                prop_assert!((naive - level).abs() <= 1e-6 * naive.max(1.0), "{} {}", naive, level);
            } else {
                // Both say that there is enough for all, or that it just so suffices.
                let asked: f64 = demands.iter().map(|d| d.wants).sum();
                prop_assert!(naive == level || (asked - capacity).abs() < 1e-6);
            }
        }
    }
}
