//! Log time: entries in their order, a tick every 250 ms, and what is said at each.

use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Uri};

use super::line::{Entry, Named, Origin};
use super::outcome::{Episode, Outcome, Read};
use super::{Deploy, ReplayError};
use crate::admit::Mode;
use crate::caller::{Provenance, Source};
use crate::callers::Callers;
use crate::clock::{ManualClock, Timestamp};
use crate::events::{Change, Event, Kind, Pin};
use crate::identify::{Identity, from_fn};
use crate::lock::lock;
use crate::registry::InferredLabel;
use crate::upkeep::TICK;
use crate::watch::words::in_words;

/// Lines may be out of order by so much.
const REORDER: Duration = Duration::from_secs(5);
/// Paths that are kept parsed.
const PATHS: usize = 1_024;
/// Episodes that are told of; later ones are counted.
const EPISODES: usize = 1_000;

/// What the stages look at instead of headers.
#[derive(Clone, Debug, Default)]
struct Seen {
    named: Named,
    name: String,
    route: String,
}

/// What the log says, put in order by its time.
#[derive(Debug, Default)]
struct Order {
    /// What came in order, which is nearly everything.
    straight: VecDeque<Entry>,
    late: BinaryHeap<Late>,
    numbers: u64,
    latest: Timestamp,
}

/// An entry that came after a later one; the earliest is the greatest, and what came first of equals.
#[derive(Debug)]
struct Late(Entry, u64);

impl PartialEq for Late {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Late {}
impl PartialOrd for Late {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Late {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.0.at, other.1).cmp(&(self.0.at, self.1))
    }
}

impl Order {
    fn push(&mut self, entry: Entry) {
        if entry.at >= self.latest {
            self.latest = entry.at;
            self.straight.push_back(entry);
        } else {
            self.numbers += 1;
            self.late.push(Late(entry, self.numbers));
        }
    }

    /// The earliest, if it is not after `until`.
    fn pop(&mut self, until: Timestamp) -> Option<Entry> {
        let straight = self.straight.front().map(|entry| entry.at);
        let late = self.late.peek().map(|late| late.0.at);
        let is_late = late.is_some_and(|late| straight.is_none_or(|straight| late < straight));
        if is_late {
            late.filter(|at| *at <= until)?;
            return self.late.pop().map(|late| late.0);
        }
        straight.filter(|at| *at <= until)?;
        self.straight.pop_front()
    }
}

/// The run of a log.
pub(super) struct Drive {
    config: Option<PathBuf>,
    deploys: VecDeque<Deploy>,
    out: Option<BufWriter<File>>,
    path_of_events: PathBuf,
    with_reports: bool,
    order: Order,
    /// Known from the first request on.
    origin: Option<Origin>,
    table: Option<Table>,
    said: u64,
    episodes: Vec<Episode>,
    by_id: BTreeMap<Arc<str>, usize>,
    more_episodes: u64,
    /// Whether the log has latencies.
    timed: bool,
}

/// The table of callers, which exists from the first request on.
struct Table {
    callers: Callers,
    clock: ManualClock,
    now: Timestamp,
    first: Timestamp,
    next: Timestamp,
    heard: Arc<Mutex<Vec<Event>>>,
    request: Request<()>,
    paths: HashMap<Box<str>, Uri>,
}

impl Table {
    fn new(config: Option<&Path>, first: Timestamp) -> Result<Self, ReplayError> {
        let clock = ManualClock::at(first);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        let mut builder = Callers::builder()
            .identify(from_fn(|head| {
                let seen = head.extensions().get::<Seen>()?;
                match seen.named {
                    Named::Not => None,
                    Named::Name => Some(Identity::verified(&seen.name)),
                    Named::Address => Some(Identity::inline(
                        &[&seen.name],
                        Provenance::Inferred,
                        Source::Forwarded,
                    )),
                }
            }))
            .route(|head| {
                let route = head.extensions().get::<Seen>()?.route.as_str();
                (!route.is_empty()).then_some(route)
            })
            .inferred(InferredLabel::Export)
            .inferred_key(*b"log")
            .service("replay")
            .instance("log")
            .clock(clock.clone())
            .manual_tick()
            .on_event(move |event| {
                // The log does not tell when its service started.
                if event.kind != Kind::Ours {
                    lock(&hears).push(event.clone());
                }
            });
        let problems = |problems: Vec<String>| ReplayError::Config(problems);
        let all = |found: &mut dyn Iterator<Item = &str>| found.map(str::to_owned).collect();
        if let Some(path) = config {
            let read = builder.config(path);
            builder = read.map_err(|error| problems(all(&mut error.problems())))?;
            builder = builder.without_fleet();
        }
        let built = builder.build();
        let callers = built.map_err(|error| problems(all(&mut error.problems())))?;
        // Whatever the files say, nothing is refused: the log tells what was done.
        let core = &callers.upkeep().core;
        core.admission.set_mode(Mode::Shadow);
        core.paths.close();
        let mut request = Request::new(());
        request.extensions_mut().insert(Seen::default());
        Ok(Self {
            callers,
            clock,
            now: first,
            first,
            next: first + TICK,
            heard,
            request,
            paths: HashMap::new(),
        })
    }

    fn set(&mut self, now: Timestamp) {
        self.clock.advance(now.since(self.now));
        self.now = self.now.max(now);
    }

    fn request(&mut self, entry: &Entry) {
        self.set(entry.at);
        *self.request.method_mut() = entry.method.clone();
        let path = entry.route();
        match self.paths.get(path) {
            Some(uri) => *self.request.uri_mut() = uri.clone(),
            None => {
                let uri: Uri = path.parse().unwrap_or_default();
                if self.paths.len() < PATHS {
                    self.paths.insert(path.into(), uri.clone());
                }
                *self.request.uri_mut() = uri;
            }
        }
        if let Some(seen) = self.request.extensions_mut().get_mut::<Seen>() {
            seen.named = entry.named;
            seen.name.clear();
            seen.name.push_str(entry.name());
            seen.route.clear();
            seen.route.push_str(path);
        }
        let core = &self.callers.upkeep().core;
        core.replay(&mut self.request, entry.logged);
    }
}

impl Drive {
    pub(super) fn new(
        config: Option<&Path>,
        deploys: Vec<Deploy>,
        events: Option<(PathBuf, BufWriter<File>)>,
        with_reports: bool,
    ) -> Self {
        // Where the table is full, chance decides who leaves it: the same in every run.
        fastrand::seed(1);
        let (path_of_events, out) = events.unzip();
        Self {
            config: config.map(Path::to_owned),
            deploys: deploys.into(),
            out,
            path_of_events: path_of_events.unwrap_or_default(),
            with_reports,
            order: Order::default(),
            origin: None,
            table: None,
            said: 0,
            episodes: Vec::new(),
            by_id: BTreeMap::new(),
            more_episodes: 0,
            timed: false,
        }
    }

    /// Takes the next line's request, and goes on as far as is sure to be in order.
    pub(super) fn entry(&mut self, mut entry: Entry) -> Result<(), ReplayError> {
        let origin = *self
            .origin
            .get_or_insert_with(|| Origin::of(&entry, REORDER));
        origin.set_back(&mut entry);
        self.timed |= !entry.logged.took.is_zero();
        self.order.push(entry);
        let until = self.order.latest - REORDER;
        while let Some(entry) = self.order.pop(until) {
            self.request(&entry)?;
        }
        Ok(())
    }

    fn request(&mut self, entry: &Entry) -> Result<(), ReplayError> {
        if self.table.is_none() {
            self.table = Some(Table::new(self.config.as_deref(), entry.at)?);
        }
        self.go_to(entry.at)?;
        if let Some(table) = &mut self.table {
            table.request(entry);
        }
        Ok(())
    }

    /// Ticks up to `t`. Steps double in a silence, so that a long one costs little.
    fn go_to(&mut self, t: Timestamp) -> Result<(), ReplayError> {
        let mut step = 1;
        while let Some(next) = self.table.as_ref().map(|table| table.next)
            && next <= t
        {
            self.tick(next)?;
            let left = t.since(next).as_nanos() / TICK.as_nanos() + 1;
            let ticks = left.min(step);
            step *= 2;
            if let Some(table) = &mut self.table {
                table.next = next + TICK * u32::try_from(ticks).unwrap_or(u32::MAX);
            }
        }
        Ok(())
    }

    fn tick(&mut self, now: Timestamp) -> Result<(), ReplayError> {
        let Some(table) = &mut self.table else {
            return Ok(());
        };
        table.set(now);
        let origin = self.origin.unwrap_or_default();
        while let Some(deploy) = self.deploys.pop_front() {
            let at = origin.run(deploy.t);
            if at > now.as_secs_f64() {
                self.deploys.push_front(deploy);
                break;
            }
            let pin = Pin::new(Change::Deploy).caller(&deploy.caller);
            table.callers.pin(pin.version(&deploy.version).at(at));
        }
        table.callers.tick(now);
        let heard = std::mem::take(&mut *lock(&table.heard));
        for mut event in heard {
            event.move_to(|t| origin.told(t));
            self.hear(&event)?;
        }
        Ok(())
    }

    fn hear(&mut self, event: &Event) -> Result<(), ReplayError> {
        self.said += 1;
        if let Some(out) = &mut self.out {
            let written = writeln!(out, "{}", event.to_json());
            written.map_err(|error| ReplayError::File(self.path_of_events.clone(), error))?;
        }
        let Some(finding) = event.finding() else {
            return Ok(());
        };
        let known = self.by_id.get(&event.id).copied();
        let place = match known {
            Some(place) => place,
            None if self.episodes.len() >= EPISODES => {
                let begins = [Kind::RunawayStarted, Kind::ServiceDegraded, Kind::Crowd];
                self.more_episodes += u64::from(begins.contains(&event.kind));
                return Ok(());
            }
            None => {
                self.by_id
                    .insert(Arc::clone(&event.id), self.episodes.len());
                self.episodes.push(Episode::new(event, finding));
                self.episodes.len() - 1
            }
        };
        let ended = matches!(
            event.kind,
            Kind::RunawayEnded | Kind::ServiceRecovered | Kind::CrowdEnded
        );
        if let Some(episode) = self.episodes.get_mut(place) {
            if ended {
                episode.ended = Some(event.t);
            } else {
                episode.words = in_words(finding, None, event.t);
                episode.finding = finding.clone();
            }
            if ended && self.with_reports {
                episode.report = report(self.table.as_ref(), &event.id);
            }
        }
        if ended {
            self.by_id.remove(&event.id);
        }
        Ok(())
    }

    /// Reads what has been held back, and sums up.
    pub(super) fn finish(mut self, read: Read) -> Result<Outcome, ReplayError> {
        while let Some(entry) = self.order.pop(Timestamp::from_nanos(u64::MAX)) {
            self.request(&entry)?;
        }
        if let Some(last) = self.table.as_ref().map(|table| table.next) {
            self.tick(last)?;
        }
        if let Some(mut out) = self.out.take() {
            let flushed = out.flush();
            flushed.map_err(|error| ReplayError::File(self.path_of_events.clone(), error))?;
        }
        let table = match self.table.take() {
            Some(table) => table,
            // A configuration is checked, also where the log is empty.
            None => Table::new(self.config.as_deref(), Timestamp::ZERO)?,
        };
        if self.with_reports {
            for (id, &place) in &self.by_id {
                if let Some(episode) = self.episodes.get_mut(place) {
                    episode.report = report(Some(&table), id);
                }
            }
        }
        let origin = self.origin.unwrap_or_default();
        let mut outcome = Outcome::new(
            read,
            (
                origin.told(table.first.as_secs_f64()),
                origin.told(self.order.latest.as_secs_f64()),
            ),
            &table.callers.snapshot(),
            self.episodes,
            (self.said, self.more_episodes),
            self.config.is_some(),
        );
        if !self.timed {
            for caller in &mut outcome.callers {
                caller.p99 = None;
            }
        }
        Ok(outcome)
    }
}

fn report(table: Option<&Table>, id: &str) -> Option<String> {
    let report = table?.callers.report(id)?;
    Some(report.markdown())
}
