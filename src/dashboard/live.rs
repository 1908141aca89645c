//! What all viewers share: the table is looked at once a second at the most, however many look on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use serde_json::{Value, json};

use super::answer::Problem;
use super::chart::{Chart, Span};
use super::line::Line;
use crate::callers::Callers;
use crate::clock::Timestamp;
use crate::events::{Event, Kind};
use crate::lock::lock;
use crate::outcome::Class;
use crate::record::histogram::Histogram;
use crate::snapshot::CeilingSnapshot;
use crate::watch::changes::{LATE, ours};

/// Seconds after which latencies are counted anew.
const WINDOW: u64 = 60;
/// Seconds for which an incident that is over is still shown.
const RECENT: f64 = 86_400.0;
/// Events in an overview.
const SHOWN: usize = 100;

/// The callers at one second.
pub(super) struct Picture {
    pub(super) now: Timestamp,
    /// Heaviest first.
    pub(super) lines: Vec<Line>,
    callers: Callers,
    rendered: [OnceLock<Bytes>; Span::ALL.len()],
}

type Latencies = HashMap<String, Histogram>;

#[derive(Default)]
struct Past {
    /// When the latencies in `then` were read, and those that will take their place.
    since: u64,
    then: Arc<Latencies>,
    next: Arc<Latencies>,
}

pub(super) struct Live {
    callers: Callers,
    latest: tokio::sync::Mutex<Option<Arc<Picture>>>,
    past: Arc<Mutex<Past>>,
}

impl Live {
    pub(super) fn new(callers: Callers) -> Self {
        Self {
            callers,
            latest: tokio::sync::Mutex::default(),
            past: Arc::default(),
        }
    }

    /// The callers now. Whoever comes while another looks waits for what that one sees; the look itself is taken
    /// off the threads that serve requests.
    pub(super) async fn picture(&self) -> Result<Arc<Picture>, Problem> {
        let mut latest = self.latest.lock().await;
        let now = self.callers.now();
        if let Some(picture) = latest.as_ref()
            && picture.now.as_secs() == now.as_secs()
        {
            return Ok(Arc::clone(picture));
        }
        let (callers, past) = (self.callers.clone(), Arc::clone(&self.past));
        let picture = aside(move || Picture::take(callers, &past, now)).await?;
        let picture = Arc::new(picture);
        *latest = Some(Arc::clone(&picture));
        Ok(picture)
    }

    /// The overview as JSON, written once for all who ask for it in the same second.
    pub(super) async fn overview(&self, span: Span) -> Result<Bytes, Problem> {
        let picture = self.picture().await?;
        if let Some(text) = picture.cell(span).and_then(OnceLock::get) {
            return Ok(text.clone());
        }
        aside(move || match picture.cell(span) {
            Some(cell) => cell.get_or_init(|| picture.render(span)).clone(),
            None => picture.render(span),
        })
        .await
    }
}

/// Does it on a thread that serves no requests.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        Problem::new(
            http::StatusCode::INTERNAL_SERVER_ERROR,
            "what was asked for could not be put together",
        )
    })
}

impl Picture {
    fn take(callers: Callers, past: &Mutex<Past>, now: Timestamp) -> Self {
        callers.upkeep().roll(now);
        let registry = &callers.upkeep().core.registry;
        let entries = registry.entries();
        let mut lines: Vec<_> = entries
            .iter()
            .filter_map(|entry| Line::of(entry, registry, now))
            .collect();
        lines.sort_by(|a, b| {
            let heavier = b.weight.total_cmp(&a.weight);
            heavier.then_with(|| a.caller.cmp(&b.caller))
        });
        let then = lock(past).turn(&lines, now.as_secs());
        for line in &mut lines {
            let before = then.get(&line.caller);
            line.time(before);
        }
        Self {
            now,
            lines,
            callers,
            rendered: Default::default(),
        }
    }

    fn cell(&self, span: Span) -> Option<&OnceLock<Bytes>> {
        self.rendered.get(span as usize)
    }

    fn render(&self, span: Span) -> Bytes {
        let upkeep = self.callers.upkeep();
        let log = &upkeep.watch.log;
        let events = self.callers.events();
        let open = self.callers.open_episodes();
        let episodes = open.iter().map(|event| {
            let mut told = self.told(event);
            let since = event.finding().map_or(event.t, |finding| finding.since);
            told["ours"] = json!(ours(&events, since + LATE));
            told
        });
        let episodes: Vec<_> = episodes.collect();
        let suspects = self.suspects();
        let now = self.now.as_secs_f64();
        let chart = Chart::draw(
            &upkeep.core.registry.entries(),
            &suspects,
            span,
            self.now.as_secs(),
        );
        let shown = events
            .iter()
            .filter(|event| event.t >= now - span.seconds() as f64 || event.kind == Kind::Ours);
        let shown: Vec<_> = shown.map(|event| self.told(event)).collect();
        let braked = self.callers.brakes().into_iter().map(|brake| {
            let held = brake.quota.unwrap_or_else(|| "blocked".to_owned());
            (brake.caller, held)
        });
        let clamped = upkeep.watch.clamped().into_iter();
        let clamped = clamped.map(|clamped| (clamped.caller.clone(), clamped));
        let kept = upkeep.keeper.kept().incidents.clone();
        let overview = json!({
            "v": 1,
            "at": now,
            "since": events.first().map_or(now, |event| event.t),
            "service": &*log.service,
            "instance": &*log.instance,
            "scope": self.callers.scope(),
            "mode": self.callers.mode(),
            "ceiling": CeilingSnapshot::take(&upkeep.core.admission),
            "chart": chart,
            "callers": self.lines,
            "episodes": episodes,
            "events": shown.get(shown.len().saturating_sub(SHOWN)..),
            "incidents": kept.open().collect::<Vec<_>>(),
            "recent": kept.over_since(now - RECENT).collect::<Vec<_>>(),
            "braked": braked.collect::<HashMap<_, _>>(),
            "clamped": clamped.collect::<HashMap<_, _>>(),
        });
        Bytes::from(overview.to_string())
    }

    /// The name of a caller that events call by its label: an address stays hidden in what is sent elsewhere, and is
    /// shown here.
    fn name<'n>(&'n self, label: &'n str) -> &'n str {
        let of_label = |line: &&Line| line.label.as_deref() == Some(label);
        self.lines
            .iter()
            .find(of_label)
            .map_or(label, |line| &line.caller)
    }

    /// An event as JSON, under the name that the table has.
    pub(super) fn told(&self, event: &Event) -> Value {
        let mut told: Value = serde_json::from_str(&event.to_json()).unwrap_or_default();
        if let (Some(label), Some(told)) = (event.caller(), told.as_object_mut()) {
            told.insert("caller".to_owned(), self.name(label).into());
        }
        told
    }

    /// Callers in a runaway, with the class that explains it.
    fn suspects(&self) -> HashMap<String, Option<Class>> {
        let open = self.callers.open_episodes();
        let suspects = open.iter().filter_map(|event| {
            let finding = event.finding()?;
            let class = finding.class.filter(|class| *class != Class::Ok);
            Some((self.name(finding.caller.as_deref()?).to_owned(), class))
        });
        suspects.collect()
    }
}

impl Past {
    /// What latencies are counted from: a reading that is a minute to two minutes old.
    fn turn(&mut self, lines: &[Line], now: u64) -> Arc<Latencies> {
        if now.saturating_sub(self.since) >= WINDOW {
            let read = lines.iter().filter_map(|line| {
                let latency = line.latency.clone()?;
                Some((line.caller.clone(), latency))
            });
            self.since = now;
            self.then = std::mem::replace(&mut self.next, Arc::new(read.collect()));
        }
        Arc::clone(&self.then)
    }
}
