//! Wakes people: events that do harm go to Alertmanager and to a webhook, once for the outage of a caller, in however
//! many signals it shows.
//!
//! All of it happens on a thread of its own. What it holds is bounded: the subscription drops what it cannot take, and
//! at most [`MOST`] pages are open at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use axum::http::{Request, StatusCode, Uri, header};
use callerid::events::{Event, Finding, Kind, Subscription};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_stream::StreamExt;

/// Pages beyond this many do not begin: nobody reads them.
pub const MOST: usize = 256;

/// The address of a receiver. The client speaks plain HTTP: what needs TLS, a proxy on this host adds.
pub fn receiver(text: &str) -> Result<Uri, String> {
    let uri = text.parse::<Uri>().ok();
    let is_plain = |uri: &Uri| uri.scheme_str() == Some("http") && uri.authority().is_some();
    uri.filter(is_plain).ok_or_else(|| {
        format!("{text:?} is not an address of plain HTTP; use one such as http://127.0.0.1:9093")
    })
}

/// Where pages go, and how long things may take.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Such as `http://alertmanager:9093/api/v2/alerts`.
    pub alertmanager: Option<Uri>,
    /// What takes a `POST` of JSON.
    pub webhook: Option<Uri>,
    /// Alertmanager is told again this often, and takes a page for over after four times as long.
    pub repeat: Duration,
    /// So long after its end a page stays open in Alertmanager, where it keeps the rules of Prometheus quiet: they hear of
    /// the end with the next scrape, and would page anew.
    pub linger: Duration,
    /// One attempt.
    pub timeout: Duration,
    /// Between attempts: twice as long each time, from the first to the second.
    pub backoff: (Duration, Duration),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            alertmanager: None,
            webhook: None,
            repeat: Duration::from_secs(60),
            linger: Duration::from_secs(20),
            timeout: Duration::from_secs(5),
            backoff: (Duration::from_millis(250), Duration::from_secs(15)),
        }
    }
}

/// Listens until the last handle of `Callers` is gone, and what it then still has to say is said or was tried once.
pub fn start(
    events: Subscription,
    settings: Settings,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("pager".to_owned())
        .spawn(move || runtime.block_on(run(events, settings)))
}

async fn run(mut events: Subscription, settings: Settings) {
    let (tell, pages) = watch::channel(Pages::default());
    let alertmanager = settings.alertmanager.clone().map(|uri| {
        let told = Told::new(uri, settings.clone());
        tokio::spawn(told.keep_alertmanager(pages.clone()))
    });
    let webhook = settings.webhook.clone().map(|uri| {
        let told = Told::new(uri, settings.clone());
        tokio::spawn(told.keep_webhook(pages.clone()))
    });
    let mut missed = 0;
    while let Some(event) = events.next().await {
        tell.send_if_modified(|pages| pages.hear(&event, SystemTime::now()));
        if events.missed() > missed {
            missed = events.missed();
            tracing::error!(missed, "pager: events came faster than they were taken");
        }
    }
    drop(tell);
    for target in [alertmanager, webhook].into_iter().flatten() {
        if let Err(error) = target.await {
            tracing::error!("pager: {error}");
        }
    }
}

/// What is worth waking somebody: the outage of one caller, in all its signals, or a state of the service.
#[derive(Clone, Debug)]
struct Page {
    /// Its episodes, by the id of their events; that of the first is the page's own.
    episodes: BTreeMap<Arc<str>, Episode>,
    began: SystemTime,
    ended: Option<SystemTime>,
}

#[derive(Clone, Debug)]
struct Episode {
    event: Arc<Event>,
    /// It has ended, or somebody has it in hand.
    over: bool,
}

impl Page {
    fn is_of(&self, event: &Event) -> bool {
        let caller = event.caller();
        let mut known = self.episodes.values().map(|episode| &episode.event);
        caller.is_some() && known.any(|known| known.caller() == caller)
    }

    /// The last word on the episode that says it best: one that goes on, if any does.
    fn event(&self) -> Option<&Arc<Event>> {
        let rank = |episode: &&Episode| {
            let signal = episode.event.finding().and_then(|finding| finding.signal);
            (episode.over, signal.map_or(0, |signal| signal as u8))
        };
        Some(&self.episodes.values().min_by_key(rank)?.event)
    }

    fn signals(&self) -> Vec<&'static str> {
        let findings = self.episodes.values().filter_map(|of| of.event.finding());
        let signals = findings.filter_map(|finding| finding.signal);
        signals.map(|signal| signal.as_str()).collect()
    }
}

/// What there is to tell, by the id of the event that began it.
#[derive(Clone, Debug, Default)]
pub struct Pages(BTreeMap<Arc<str>, Page>);

impl Pages {
    /// Says whether that changes anything.
    pub fn hear(&mut self, event: &Arc<Event>, now: SystemTime) -> bool {
        // What is over is kept until everybody can have heard of it.
        let old = Duration::from_secs(3_600);
        self.0.retain(|_, page| {
            page.ended
                .is_none_or(|ended| now.duration_since(ended).is_ok_and(|ago| ago < old))
        });
        let Some(finding) = event.finding() else {
            return false;
        };
        let ends = matches!(
            event.kind,
            Kind::RunawayEnded | Kind::ServiceRecovered | Kind::CrowdEnded
        );
        let over = ends || finding.expected || finding.acknowledged_by.is_some();
        let event = Arc::clone(event);
        let mut pages = self.0.values_mut();
        if let Some(page) = pages.find(|page| page.episodes.contains_key(&event.id)) {
            let Some(episode) = page.episodes.get_mut(&event.id) else {
                return false;
            };
            // Harm that comes and goes within one episode is one page.
            if episode.over && (over || !finding.pages()) {
                return false;
            }
            *episode = Episode { event, over };
            let all_over = page.episodes.values().all(|episode| episode.over);
            page.ended = all_over.then(|| page.ended.unwrap_or(now));
            return true;
        }
        if over || !finding.pages() {
            return false;
        }
        let id = Arc::clone(&event.id);
        let mut open = self.0.values_mut().filter(|page| page.ended.is_none());
        // Another signal of the same outage wakes nobody again.
        let known = open.find(|page| page.is_of(&event));
        let episode = Episode {
            event: Arc::clone(&event),
            over: false,
        };
        if let Some(page) = known {
            page.episodes.insert(id, episode);
            return true;
        }
        if self.0.values().filter(|page| page.ended.is_none()).count() >= MOST {
            tracing::error!(id = &*id, "pager: too many pages are open; dropped");
            return false;
        }
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(finding.since.max(0.0));
        let page = Page {
            episodes: BTreeMap::from([(Arc::clone(&id), episode)]),
            began: since.min(now),
            ended: None,
        };
        self.0.insert(id, page);
        true
    }
}

/// One receiver, and what it has been told.
struct Told {
    uri: Uri,
    settings: Settings,
    http: Client<HttpConnector, Full<Bytes>>,
    /// By event id: whether it was over.
    told: BTreeMap<Arc<str>, bool>,
}

type Changes = watch::Receiver<Pages>;

impl Told {
    fn new(uri: Uri, settings: Settings) -> Self {
        Self {
            uri,
            settings,
            http: Client::builder(TokioExecutor::new()).build_http(),
            told: BTreeMap::new(),
        }
    }

    /// Alertmanager keeps states: it is told all of them, again and again.
    async fn keep_alertmanager(mut self, mut changes: Changes) {
        loop {
            let mut wait = self.settings.backoff.0;
            let open = loop {
                let pages = changes.borrow_and_update().clone();
                self.told.retain(|id, _| pages.0.contains_key(id));
                let due: Vec<_> = pages
                    .0
                    .iter()
                    .filter(|(id, page)| self.is_due(id, page))
                    .collect();
                let now = SystemTime::now();
                let ends = |page: &Page| match page.ended {
                    Some(ended) => ended + self.settings.linger,
                    None => now + 4 * self.settings.repeat,
                };
                let alerts = due.iter().filter_map(|(_, page)| alert(page, ends(page)));
                let alerts = alerts.collect();
                if due.is_empty() || self.deliver(&Value::Array(alerts)).await {
                    for (id, page) in &due {
                        self.told.insert(Arc::clone(id), page.ended.is_some());
                    }
                    break due.iter().any(|(_, page)| page.ended.is_none());
                }
                if self.pause(&mut wait, &changes).await {
                    return;
                }
            };
            let again = tokio::time::sleep(self.settings.repeat);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = again, if open => {}
            }
        }
    }

    /// A page that is open is due always; one that is over, until that was told. Nobody hears only of the end.
    fn is_due(&self, id: &Arc<str>, page: &Page) -> bool {
        match (page.ended, self.told.get(id)) {
            (None, _) => true,
            (Some(_), Some(over)) => !over,
            (Some(_), None) => false,
        }
    }

    /// A webhook hears each beginning and each end once, in this order.
    async fn keep_webhook(mut self, mut changes: Changes) {
        let mut wait = self.settings.backoff.0;
        loop {
            let pages = changes.borrow_and_update().clone();
            self.told.retain(|id, _| pages.0.contains_key(id));
            let mut failed = false;
            for (id, page) in &pages.0 {
                let over = page.ended.is_some();
                let was_over = self.told.get(id).copied();
                // What was over before anybody could be told wakes nobody.
                if was_over == Some(over) || (was_over.is_none() && over) {
                    continue;
                }
                if self.deliver(&note(id, page)).await {
                    self.told.insert(Arc::clone(id), over);
                } else {
                    failed = true;
                    break;
                }
            }
            if failed {
                if self.pause(&mut wait, &changes).await {
                    return;
                }
                continue;
            }
            wait = self.settings.backoff.0;
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits before the next attempt. Says whether nobody is left who could want one.
    async fn pause(&self, wait: &mut Duration, changes: &Changes) -> bool {
        tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        *wait = (*wait * 2).min(self.settings.backoff.1);
        changes.has_changed().is_err()
    }

    /// Says whether that was taken, or never will be.
    async fn deliver(&self, body: &Value) -> bool {
        let uri = &self.uri;
        let request = Request::post(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())));
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                tracing::error!(%uri, "pager: {error}");
                return true;
            }
        };
        let answer = tokio::time::timeout(self.settings.timeout, async {
            let response = self.http.request(request).await?;
            let status = response.status();
            // Read to its end, the connection can be used again.
            let said = response.into_body().collect().await;
            let said = said.map(|body| body.to_bytes()).unwrap_or_default();
            Ok::<_, hyper_util::client::legacy::Error>((status, said))
        });
        match answer.await {
            Ok(Ok((status, _))) if status.is_success() => true,
            Ok(Ok((status, said))) => {
                let said = String::from_utf8_lossy(&said);
                tracing::error!(%uri, %status, "pager: refused: {said}");
                // What is wrong with the message stays wrong. Anything else, a token that has lapsed or a receiver that is
                // not there yet, can be mended before the next attempt.
                matches!(
                    status,
                    StatusCode::BAD_REQUEST
                        | StatusCode::PAYLOAD_TOO_LARGE
                        | StatusCode::UNPROCESSABLE_ENTITY
                )
            }
            Ok(Err(error)) => {
                tracing::warn!(%uri, "pager: {error}; it tries again");
                false
            }
            Err(_) => {
                tracing::warn!(%uri, "pager: no answer; it tries again");
                false
            }
        }
    }
}

/// What makes the alert: labels that stay the same for the whole outage, whatever signals tell of it, and on every replica.
fn labels(event: &Event, finding: &Finding) -> Value {
    let name = match event.kind {
        Kind::RunawayStarted | Kind::RunawayUpdated | Kind::RunawayEnded => "CalleridRunaway",
        Kind::Crowd | Kind::CrowdEnded => "CalleridCrowd",
        _ => "CalleridServiceDegraded",
    };
    let all = [
        ("alertname", Some(name)),
        // The rules of Prometheus say `job`: under this label the outage is one, whoever tells of it.
        ("job", Some(&*event.service)),
        ("service", Some(&*event.service)),
        ("severity", Some("page")),
        ("caller", finding.caller.as_deref()),
        ("owner", finding.owner.as_deref()),
        ("contact", finding.contact.as_deref()),
    ];
    let known = all
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)));
    known
        .map(|(key, value)| (key.to_owned(), json!(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn summary(event: &Event, finding: &Finding) -> String {
    let Some(caller) = &finding.caller else {
        return format!("{} suffers, and no one caller is to blame", event.service);
    };
    let mut text = format!("{caller} runs away on {}", event.service);
    if let Some(factor) = finding.factor {
        text += &format!(": {factor:.1} times its usual");
    }
    if let Some(route) = &finding.route {
        text += &format!(", {route}");
    }
    if let Some(class) = finding.class {
        text += &format!(", {}", class.as_str());
    }
    if let Some(deploy) = &finding.deploy {
        text += &format!(", after {}", deploy.version);
    }
    text
}

fn alert(page: &Page, ends: SystemTime) -> Option<Value> {
    let event = page.event()?;
    let finding = event.finding()?;
    let time = |time| humantime::format_rfc3339_millis(time).to_string();
    Some(json!({
        "labels": labels(event, finding),
        "annotations": {
            "summary": summary(event, finding),
            "signals": page.signals().join(", "),
            "event": event.id,
            "harm": finding.harm.as_str(),
            "acknowledged_by": finding.acknowledged_by.as_deref().unwrap_or_default(),
        },
        "startsAt": time(page.began),
        "endsAt": time(ends),
    }))
}

fn note(id: &str, page: &Page) -> Value {
    let event = page.event();
    let finding = event.and_then(|event| event.finding());
    let words = event
        .zip(finding)
        .map(|(event, finding)| summary(event, finding));
    let event = event.map(|event| event.to_json());
    let event: Value = event.map_or(Value::Null, |event| {
        serde_json::from_str(&event).unwrap_or_default()
    });
    json!({
        "status": if page.ended.is_some() { "resolved" } else { "firing" },
        "id": id,
        "signals": page.signals(),
        "summary": words,
        "event": event,
    })
}
