//! Latency histograms: cells that one thread writes and a flush reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds, in seconds, of the buckets of `callerid_request_duration_seconds` and
/// `callerid_time_to_first_byte_seconds`. OpenTelemetry's for HTTP servers, with two below them.
///
/// Pass them to the exporter, or it keeps a summary of 123 KB for every series:
///
/// ```
/// # use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let recorder = PrometheusBuilder::new()
///     .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &callerid::LATENCY_BUCKETS)?
///     .build_recorder();
/// # Ok(()) }
/// ```
pub const LATENCY_BUCKETS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Upper bounds in microseconds, inclusive. Contains every bound of [`LATENCY_BUCKETS`], so that what is exported
/// is exact, and some between them, so that a quantile is close.
const BOUNDS_US: [u64; 32] = [
    100, 250, 500, 750, 1_000, 1_500, 2_500, 3_500, 5_000, 7_500, 10_000, 15_000, 25_000, 35_000,
    50_000, 75_000, 100_000, 150_000, 250_000, 350_000, 500_000, 750_000, 1_000_000, 1_500_000,
    2_500_000, 3_500_000, 5_000_000, 7_500_000, 10_000_000, 15_000_000, 30_000_000, 60_000_000,
];

pub(crate) const BUCKETS: usize = BOUNDS_US.len() + 1;

/// Adds to a cell. A cell that only this thread writes needs no locked instruction.
#[inline]
pub(crate) fn add(cell: &AtomicU64, by: u64, own: bool) {
    if own {
        cell.store(
            cell.load(Ordering::Relaxed).wrapping_add(by),
            Ordering::Release,
        );
    } else {
        cell.fetch_add(by, Ordering::Release);
    }
}

/// A histogram that is written on the request path.
#[derive(Debug)]
#[repr(C)] // what a quick request writes lies in one cache line
pub(crate) struct HistogramCells {
    /// Requests; written last, so that a reader who sees it sees the rest.
    count: AtomicU64,
    sum_nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for HistogramCells {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            sum_nanos: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

/// The bucket of a time. The position of its highest bit leaves a choice of at most three.
#[inline]
fn bucket_of(nanos: u64) -> usize {
    let mut bucket = usize::from(LOWEST[(64 - nanos.leading_zeros()) as usize]);
    while bucket < BOUNDS_US.len() && BOUNDS_NANOS[bucket] < nanos {
        bucket += 1;
    }
    bucket
}

static BOUNDS_NANOS: [u64; BUCKETS - 1] = {
    let mut bounds = BOUNDS_US;
    let mut index = 0;
    while index < bounds.len() {
        bounds[index] *= 1_000;
        index += 1;
    }
    bounds
};

/// For every number of significant bits, the lowest bucket of such times.
static LOWEST: [u8; 65] = {
    let mut lowest = [0; 65];
    let mut bits = 1;
    while bits <= 64 {
        let least = 1u64 << (bits - 1);
        let mut bucket = 0;
        while bucket < BOUNDS_US.len() && BOUNDS_US[bucket] * 1_000 < least {
            bucket += 1;
        }
        lowest[bits] = bucket as u8;
        bits += 1;
    }
    lowest
};

impl HistogramCells {
    #[inline]
    pub(crate) fn record(&self, took: Duration, own: bool) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get(bucket_of(nanos)) {
            add(bucket, 1, own);
        }
        add(&self.sum_nanos, nanos, own);
        add(&self.count, 1, own);
    }

    #[inline]
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    pub(crate) fn sum_nanos(&self) -> u64 {
        self.sum_nanos.load(Ordering::Acquire)
    }

    /// Adds what is here to `total`.
    pub(crate) fn read_into(&self, total: &mut Histogram) {
        for (sum, cell) in total.buckets.iter_mut().zip(&self.buckets) {
            *sum = sum.wrapping_add(cell.load(Ordering::Acquire));
        }
        total.sum_nanos = total
            .sum_nanos
            .wrapping_add(self.sum_nanos.load(Ordering::Acquire));
    }

    /// Adds what `other` holds. For cells whose writer is gone.
    pub(crate) fn absorb(&self, other: &Self) {
        for (cell, theirs) in self.buckets.iter().zip(&other.buckets) {
            add(cell, theirs.load(Ordering::Acquire), false);
        }
        add(
            &self.sum_nanos,
            other.sum_nanos.load(Ordering::Acquire),
            false,
        );
        add(&self.count, other.count(), false);
    }
}

/// A histogram that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Histogram {
    buckets: [u64; BUCKETS],
    sum_nanos: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            sum_nanos: 0,
        }
    }
}

impl Histogram {
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The upper bound of each bucket in seconds, if it has one, and what is in it.
    #[cfg(feature = "dashboard")]
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (Option<f64>, u64)> + '_ {
        let bounds = BOUNDS_US.iter().map(|bound| Some(*bound as f64 / 1e6));
        bounds.chain([None]).zip(self.buckets.iter().copied())
    }

    /// What has come since `earlier`, a reading of the same cells.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let mut delta = self.clone();
        for (now, then) in delta.buckets.iter_mut().zip(&earlier.buckets) {
            *now = now.wrapping_sub(*then);
        }
        delta.sum_nanos = self.sum_nanos.wrapping_sub(earlier.sum_nanos);
        delta
    }

    /// Whether this can be a later reading of the same cells.
    #[cfg(feature = "dashboard")]
    pub(crate) fn follows(&self, earlier: &Self) -> bool {
        let mut cells = self.buckets.iter().zip(&earlier.buckets);
        cells.all(|(now, then)| now >= then)
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.sum_nanos = self.sum_nanos.wrapping_add(other.sum_nanos);
    }

    /// Hands at most `limit` samples to `sink` as (seconds, how many) and returns what was handed over.
    ///
    /// Every sample stays in its bucket, and the values add up to the true sum: with all buckets' samples at
    /// the same fraction of their bucket, there is one fraction that gives it. Where a reading caught a sample
    /// whose time was not written yet (or the reverse), there is none; what is handed then has the sum that it
    /// has, and the difference is made up for by the samples that come next.
    pub(crate) fn drain(&self, limit: u64, mut sink: impl FnMut(f64, u64)) -> Self {
        let mut handed = Self::default();
        let present = self.present();
        if present == 0 {
            return handed;
        }
        let mut room = limit;
        let fraction = self.fraction(present);
        let last = BUCKETS - 1;
        let sum = self.signed_sum();
        let mut rest = sum;
        let mut whole = true;
        for index in ones(present) {
            let (wanted, (lower, upper)) = (self.buckets[index], BOUNDS[index]);
            let samples = wanted.min(room);
            whole &= samples == wanted;
            if samples == 0 {
                break;
            }
            room -= samples;
            let value = if index == last {
                (rest / samples as f64).max(upper)
            } else {
                (lower + fraction * (upper - lower)).min(upper)
            };
            rest -= value * samples as f64;
            sink(value, samples);
            handed.buckets[index] = samples;
        }
        let is_rounding = rest.abs() < 1e-6;
        handed.sum_nanos = if is_rounding && whole {
            self.sum_nanos
        } else {
            (((sum - rest) * 1e9).round() as i64).cast_unsigned()
        };
        handed
    }

    /// The sum in seconds; of a difference it may be negative.
    fn signed_sum(&self) -> f64 {
        self.sum_nanos.cast_signed() as f64 / 1e9
    }

    /// Which buckets have samples, by bit: of a flush's news few have, and the rest need no arithmetic.
    fn present(&self) -> u64 {
        let bit = |(index, samples): (usize, &u64)| u64::from(*samples > 0) << index;
        self.buckets.iter().enumerate().map(bit).sum()
    }

    fn fraction(&self, present: u64) -> f64 {
        let (mut lowest, mut width) = (0.0, 0.0);
        for index in ones(present & !(1 << (BUCKETS - 1))) {
            let (samples, (lower, upper)) = (self.buckets[index] as f64, BOUNDS[index]);
            lowest += lower * samples;
            width += (upper - lower) * samples;
        }
        if width == 0.0 || self.buckets[BUCKETS - 1] > 0 {
            return 0.5;
        }
        // A value at the lower bound would count one bucket lower.
        ((self.signed_sum() - lowest) / width).clamp(1e-3, 1.0)
    }

    /// The time, in seconds, below which the share `q` of the samples lies; interpolated within a bucket.
    /// `None` where there is no sample.
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * count as f64;
        let mut below = 0.0;
        for (index, &samples) in self.buckets.iter().enumerate() {
            let samples = samples as f64;
            if samples > 0.0 && below + samples >= rank {
                let (lower, upper) = BOUNDS[index];
                return Some(lower + (upper - lower) * ((rank - below) / samples).clamp(0.0, 1.0));
            }
            below += samples;
        }
        None
    }
}

/// The positions of the bits that are set, the lowest first.
#[inline]
pub(crate) fn ones(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = bits.trailing_zeros() as usize;
        let some = bits != 0;
        bits &= bits.wrapping_sub(1);
        some.then_some(lowest)
    })
}

/// Lower and upper bound of every bucket in seconds; the last one has no upper bound, so its lower one stands for both.
static BOUNDS: [(f64, f64); BUCKETS] = {
    let mut bounds = [(0.0, 0.0); BUCKETS];
    let mut index = 0;
    let mut lower = 0.0;
    while index < BUCKETS {
        let upper = if index < BOUNDS_US.len() {
            BOUNDS_US[index] as f64 / 1e6
        } else {
            lower
        };
        bounds[index] = (lower, upper);
        lower = upper;
        index += 1;
    }
    bounds
};

#[cfg(test)]
mod tests {
    use super::*;

    fn read(cells: &HistogramCells) -> Histogram {
        let mut total = Histogram::default();
        cells.read_into(&mut total);
        total
    }

    #[test]
    fn own_buckets_contain_the_exported_ones() {
        for bound in LATENCY_BUCKETS {
            assert!(BOUNDS_US.contains(&((bound * 1e6) as u64)), "{bound}");
        }
        assert!(BOUNDS_US.is_sorted());
    }

    #[test]
    fn every_time_is_in_the_bucket_that_its_bounds_say() {
        let near_bounds = BOUNDS_NANOS
            .iter()
            .flat_map(|bound| [bound - 1, *bound, bound + 1]);
        let near_powers = (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for nanos in near_bounds.chain(near_powers).chain([u64::MAX]) {
            let expected = BOUNDS_NANOS.partition_point(|bound| *bound < nanos);
            assert_eq!(bucket_of(nanos), expected, "{nanos}");
        }
    }

    #[test]
    fn what_is_drained_falls_into_the_same_exported_bucket_and_adds_up() {
        let cells = HistogramCells::default();
        let mut random = fastrand::Rng::with_seed(7);
        let mut exact = [0; LATENCY_BUCKETS.len() + 1];
        let mut sum = 0.0;
        let place = |seconds: f64| LATENCY_BUCKETS.partition_point(|bound| *bound < seconds);
        for index in 0..10_000 {
            // Bounds themselves are in: an observation on a bound belongs to the bucket below it.
            let nanos = if index % 10 == 0 {
                5_000_000
            } else {
                (10f64.powf(random.f64() * 5.5 + 4.5)) as u64
            };
            cells.record(Duration::from_nanos(nanos), index % 2 == 0);
            exact[place(nanos as f64 / 1e9)] += 1;
            sum += nanos as f64 / 1e9;
        }
        let mut drained = [0; LATENCY_BUCKETS.len() + 1];
        let mut drained_sum = 0.0;
        let handed = read(&cells).drain(u64::MAX, |value, samples| {
            drained[place(value)] += samples;
            drained_sum += value * samples as f64;
        });
        assert_eq!(drained, exact);
        assert!(
            (drained_sum / sum - 1.0).abs() < 1e-6,
            "{drained_sum} {sum}"
        );
        assert_eq!(handed, read(&cells));
    }

    #[test]
    fn a_limit_leaves_the_rest_for_later() {
        let cells = HistogramCells::default();
        for millis in 1..=100 {
            cells.record(Duration::from_millis(millis), true);
        }
        let total = read(&cells);
        let first = total.drain(30, |_, _| {});
        assert_eq!(first.count(), 30);
        let second = total.since(&first).drain(u64::MAX, |_, _| {});
        assert_eq!(second.count(), 70);
        assert_eq!(first.sum_nanos + second.sum_nanos, total.sum_nanos);
    }

    #[test]
    fn quantiles_are_close() {
        let cells = HistogramCells::default();
        for millis in 1..=1_000 {
            cells.record(Duration::from_millis(millis), true);
        }
        let total = read(&cells);
        for q in [0.1, 0.5, 0.9, 0.99] {
            let found = total.quantile(q).unwrap();
            assert!((found / q - 1.0).abs() < 0.15, "{q}: {found}");
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn an_endless_request_has_a_bucket() {
        let cells = HistogramCells::default();
        cells.record(Duration::from_secs(600), true);
        let mut seen = Vec::new();
        read(&cells).drain(u64::MAX, |value, samples| seen.push((value, samples)));
        assert_eq!(seen, [(600.0, 1)]);
        assert_eq!(read(&cells).quantile(0.5), Some(60.0));
    }
}
