//! Medians, ratios and tables.

/// Whether only a smoke test is wanted: `--quick`, or `CALLERID_BENCH_QUICK` in the environment.
pub fn quick() -> bool {
    std::env::args().any(|arg| arg == "--quick")
        || std::env::var_os("CALLERID_BENCH_QUICK").is_some()
}

/// The middle of the samples; 0 where there are none.
pub fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(0.0)
}

/// Median and half the distance of the quartiles, in percent of the median: what the noise is.
pub fn spread(samples: &mut [f64]) -> (f64, f64) {
    let middle = median(samples);
    let at = |quarter: usize| {
        samples
            .get(samples.len() * quarter / 4)
            .copied()
            .unwrap_or(0.0)
    };
    (
        middle,
        (at(3) - at(1)) / 2.0 / middle.max(f64::MIN_POSITIVE) * 100.0,
    )
}

/// One line that sets a figure against its goal.
pub fn verdict(what: &str, measured: f64, goal: f64, must: f64, unit: &str, more_is_better: bool) {
    let reaches = |limit: f64| {
        if more_is_better {
            measured >= limit
        } else {
            measured <= limit
        }
    };
    let word = if reaches(goal) {
        "reached"
    } else if reaches(must) {
        "missed, within what must not be missed"
    } else {
        "MISSED"
    };
    println!(
        "  {what:<58} goal {goal:>8.3}{unit}  must {must:>8.3}{unit}  measured {measured:>8.3}{unit}  {word}"
    );
}
