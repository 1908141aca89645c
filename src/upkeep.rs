//! Who ticks: the flush to the recorder, and the upkeep of a second.

use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use metrics::{IntoF64, Key, Label, Recorder};

use crate::admit::Gate;
use crate::caller::{Provenance, Source};
use crate::clock::Timestamp;
#[cfg(feature = "config")]
use crate::config::Config;
use crate::gauges::Gauges;
use crate::lock::lock;
use crate::pipeline::Core;
use crate::record::flush::{Reading, count_sources};
use crate::record::handles::{CounterHandle, Flush, GaugeHandle, METADATA, Sources};
use crate::record::names;
use crate::watch::Watch;

/// How often counts go to the recorder.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// After this long every handle is resolved again, so that an idle series does not die of an idle timeout.
const RENEW: Duration = Duration::from_secs(30);

/// Histogram samples that the flush of a tick hands over at the most, two for each request; the rest waits for the
/// next. An exporter takes about 50 ns for each.
const SAMPLES_OF_TICK: u64 = 250_000;

/// Rows of displaced callers that are kept for a recorder that comes late; where none ever comes, they must not pile
/// up.
const KEPT: usize = 64;

/// The flush: one at a time.
#[derive(Debug)]
pub(crate) struct Exporter(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The address of the recorder that was found last.
    recorder: Option<usize>,
    renewed: Timestamp,
    route_series: usize,
    identified: HashMap<(Source, Provenance), CounterHandle>,
    /// Requests by source and provenance in rows that are gone.
    gone: Sources,
    impersonations: CounterHandle,
    overflow: CounterHandle,
    build_info: GaugeHandle,
    gauges: Gauges,
    told_missing: bool,
    /// Room for what is read of a row.
    reading: Box<Reading>,
}

/// A value that notes whether anybody asks for it: a handle of the recorder that discards everything does not.
struct Probe<'a> {
    value: f64,
    asked: &'a Cell<bool>,
}

impl IntoF64 for Probe<'_> {
    fn into_f64(self) -> f64 {
        self.asked.set(true);
        self.value
    }
}

/// Whether anything that is recorded now reaches a recorder: sets the gauge of tracked callers and looks.
fn is_live(recorder: &dyn Recorder, tracked: usize) -> bool {
    let asked = Cell::new(false);
    let gauge = recorder.register_gauge(&Key::from_static_name(names::TRACKED), &METADATA);
    gauge.set(Probe {
        value: tracked as f64,
        asked: &asked,
    });
    asked.get()
}

impl Exporter {
    pub(crate) fn new(route_series: usize) -> Self {
        Self(Mutex::new(State {
            recorder: None,
            renewed: Timestamp::ZERO,
            route_series,
            identified: HashMap::new(),
            gone: Default::default(),
            impersonations: CounterHandle::new(names::IMPERSONATIONS, Vec::new()),
            overflow: CounterHandle::new(names::OVERFLOW, Vec::new()),
            build_info: GaugeHandle::new(
                names::BUILD_INFO,
                vec![Label::from_static_parts(
                    "version",
                    env!("CARGO_PKG_VERSION"),
                )],
            ),
            gauges: Gauges::new(),
            told_missing: false,
            reading: Box::default(),
        }))
    }

    /// Brings the recorder up to date, on a tick except for the samples of the last second. Where there is none nothing is consumed: a recorder that is installed late
    /// gets all counts since the beginning.
    pub(crate) fn flush(&self, upkeep: &Upkeep, now: Timestamp, tick: bool) {
        let core = &upkeep.core;
        let mut state = lock(&self.0);
        metrics::with_recorder(|recorder| {
            if is_live(recorder, core.registry.tracked()) {
                state.flush(upkeep, recorder, now, tick);
                return;
            }
            let gone = &mut state.gone;
            core.registry.dismiss(KEPT, |row| {
                row.with_lanes(|lanes| count_sources(row, lanes, gone))
            });
            if !std::mem::replace(&mut state.told_missing, true) {
                tracing::warn!(
                    "callerid: no metrics recorder is installed yet; counts are kept until there is one, and \
                     `Callers::snapshot` works without (said once)"
                );
            }
        });
    }
}

impl State {
    fn flush(&mut self, upkeep: &Upkeep, recorder: &dyn Recorder, now: Timestamp, tick: bool) {
        let core = &upkeep.core;
        let address = std::ptr::from_ref(recorder).cast::<()>() as usize;
        let another = self.recorder.replace(address) != Some(address);
        if another {
            names::describe(recorder);
        }
        let renew = another || now.since(self.renewed) >= RENEW;
        if renew {
            self.renewed = now;
        }
        let mut flush = Flush {
            recorder,
            now,
            renew,
            samples: if tick { SAMPLES_OF_TICK } else { u64::MAX },
            at_once: !tick,
            route_series: self.route_series,
            limits: core.admission.gate() == Gate::Guarded,
            identified: self.gone,
        };
        let gone = &mut self.gone;
        core.registry.dismiss(0, |row| {
            flush.at_once = true; // it is the last time
            row.handles().flush(row, &mut flush, &mut self.reading);
            flush.at_once = !tick;
            row.with_lanes(|lanes| count_sources(row, lanes, gone));
        });
        for row in core.registry.rows() {
            row.handles().flush(&row, &mut flush, &mut self.reading);
        }
        self.route_series = flush.route_series;
        for source in Source::ALL {
            for provenance in Provenance::ALL {
                let count = flush.identified[source as usize][provenance as usize];
                if count > 0 {
                    let handle = self
                        .identified
                        .entry((source, provenance))
                        .or_insert_with(|| {
                            CounterHandle::new(
                                names::IDENTIFIED,
                                vec![
                                    Label::from_static_parts("source", source.as_str()),
                                    Label::from_static_parts("provenance", provenance.as_str()),
                                ],
                            )
                        });
                    handle.bring_to(count, &flush);
                }
            }
        }
        self.gauges.flush(upkeep, &flush);
        self.impersonations
            .bring_to(core.registry.impersonations(), &flush);
        self.overflow.bring_to(core.registry.overflow(), &flush);
        self.build_info.set(1.0, &flush);
    }
}

/// What the handles, the layers and the thread share: a service that keeps only the layer is still flushed.
#[derive(Debug)]
pub(crate) struct Upkeep {
    pub(crate) core: Arc<Core>,
    pub(crate) watch: Watch,
    #[cfg(feature = "config")]
    pub(crate) config: Config,
    #[cfg(feature = "dashboard")]
    pub(crate) keeper: Arc<crate::kept::Keeper>,
    exporter: Exporter,
    rolled: Mutex<Timestamp>,
}

impl Upkeep {
    pub(crate) fn new(core: Arc<Core>, watch: Watch, route_series: usize) -> Self {
        let exporter = Exporter::new(route_series);
        Self {
            exporter,
            rolled: Mutex::new(core.ticker.now()),
            core,
            watch,
            #[cfg(feature = "config")]
            config: Config::default(),
            #[cfg(feature = "dashboard")]
            keeper: Arc::default(),
        }
    }

    #[cfg(feature = "config")]
    pub(crate) fn with_config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Tells the recorder everything.
    pub(crate) fn flush(&self, now: Timestamp) {
        self.exporter.flush(self, now, false);
    }

    pub(crate) fn tick(&self, now: Timestamp) {
        self.core.ticker.keep_in_step();
        self.core.admission.tick(now);
        self.core.left_alone.sweep(now);
        self.watch.tick(&self.core, now);
        self.roll(now);
        #[cfg(all(feature = "dashboard", feature = "redis"))]
        self.share(now);
        self.watch.log.tell();
        self.exporter.flush(self, now, true);
    }

    /// Rolls rates and series on, once a second.
    pub(crate) fn roll(&self, now: Timestamp) {
        let mut rolled = lock(&self.rolled);
        if now.as_secs() > rolled.as_secs() {
            *rolled = now;
            self.core.registry.roll(now);
            #[cfg(feature = "dashboard")]
            self.remember();
        }
    }

    /// Starts the thread that ticks, which ends with the last handle. A panic in a tick is said and does not end
    /// it.
    pub(crate) fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let upkeep = Arc::downgrade(self);
        std::thread::Builder::new()
            .name("callerid".into())
            .spawn(move || run(&upkeep))?;
        Ok(())
    }
}

impl Drop for Upkeep {
    /// What was counted since the last tick is told before the table goes.
    fn drop(&mut self) {
        let last = catch_unwind(AssertUnwindSafe(|| self.flush(self.core.ticker.now())));
        if last.is_err() {
            tracing::error!("callerid: the last flush panicked");
        }
    }
}

fn run(upkeep: &Weak<Upkeep>) {
    let mut told = false;
    loop {
        std::thread::park_timeout(TICK);
        let Some(upkeep) = upkeep.upgrade() else {
            return;
        };
        let tick = catch_unwind(AssertUnwindSafe(|| upkeep.tick(upkeep.core.ticker.now())));
        if tick.is_err() && !std::mem::replace(&mut told, true) {
            tracing::error!("callerid: a tick panicked; ticking goes on (said once)");
        }
    }
}
