//! What all viewers share: the table is looked at once a second at the most, however many look on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;

use super::answer::Problem;
use super::chart::{Chart, Span};
use super::line::Line;
use crate::callers::Callers;
use crate::clock::Timestamp;
use crate::record::histogram::Histogram;
use crate::record::row::lock;

/// Seconds after which latencies are counted anew.
const WINDOW: u64 = 60;

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
        let registry = &self.callers.upkeep().core.registry;
        let suspects = HashMap::new();
        let chart = Chart::draw(&registry.entries(), &suspects, span, self.now.as_secs());
        let overview = serde_json::json!({
            "v": 1,
            "at": self.now.as_secs_f64(),
            "scope": "replica",
            "instance": "local",
            "mode": self.callers.mode(),
            "episodes": [],
            "events": [],
            "incidents": [],
            "braked": {},
            "chart": chart,
            "callers": self.lines,
        });
        Bytes::from(overview.to_string())
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
