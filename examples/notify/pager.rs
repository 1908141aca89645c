//! Wakes people: events that do harm go to Alertmanager and to a webhook, once for each episode.
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
const MOST: usize = 256;

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

/// One episode that is worth waking somebody.
#[derive(Clone, Debug)]
struct Page {
    event: Arc<Event>,
    began: SystemTime,
    ended: Option<SystemTime>,
}

/// What there is to tell, by event id.
#[derive(Clone, Debug, Default)]
struct Pages(BTreeMap<Arc<str>, Page>);

impl Pages {
    /// Says whether that changes anything.
    fn hear(&mut self, event: &Arc<Event>, now: SystemTime) -> bool {
        // What is over is kept until everybody can have heard of it.
        let old = Duration::from_secs(3_600);
        self.0.retain(|_, page| {
            page.ended
                .is_none_or(|ended| now.duration_since(ended).is_ok_and(|ago| ago < old))
        });
        let Some(finding) = event.finding() else {
            return false;
        };
        let over = matches!(
            event.kind,
            Kind::RunawayEnded | Kind::ServiceRecovered | Kind::CrowdEnded
        );
        let in_hand = finding.expected || finding.acknowledged_by.is_some();
        let full = self.0.len() >= MOST;
        match self.0.get_mut(&event.id) {
            Some(page) if over || in_hand => {
                if page.ended.is_some() {
                    return false;
                }
                page.ended = Some(now);
                page.event = Arc::clone(event);
            }
            // Harm that comes and goes within one episode is one page.
            Some(page) if page.ended.is_none() || finding.pages() => {
                page.ended = None;
                page.event = Arc::clone(event);
            }
            Some(_) => return false,
            None if over || !finding.pages() => return false,
            None if full => {
                tracing::error!(id = &*event.id, "pager: too many pages are open; dropped");
                return false;
            }
            None => {
                let since =
                    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(finding.since.max(0.0));
                let page = Page {
                    event: Arc::clone(event),
                    began: since.min(now),
                    ended: None,
                };
                self.0.insert(Arc::clone(&event.id), page);
            }
        }
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
                let lasts = now + 4 * self.settings.repeat;
                let alerts = due.iter().map(|(_, page)| alert(page, lasts)).collect();
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
                if self.deliver(&note(page)).await {
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
                // The same again would be refused again.
                status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS
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

/// What makes the alert: labels that stay the same for the whole episode, and on every replica.
fn labels(event: &Event, finding: &Finding) -> Value {
    let name = match event.kind {
        Kind::RunawayStarted | Kind::RunawayUpdated | Kind::RunawayEnded => "CalleridRunaway",
        Kind::Crowd | Kind::CrowdEnded => "CalleridCrowd",
        _ => "CalleridServiceDegraded",
    };
    let all = [
        ("alertname", Some(name)),
        ("service", Some(&*event.service)),
        ("severity", Some("page")),
        ("caller", finding.caller.as_deref()),
        ("signal", finding.signal.map(|signal| signal.as_str())),
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

fn alert(page: &Page, lasts: SystemTime) -> Value {
    let Some(finding) = page.event.finding() else {
        return Value::Null;
    };
    let time = |time| humantime::format_rfc3339_millis(time).to_string();
    json!({
        "labels": labels(&page.event, finding),
        "annotations": {
            "summary": summary(&page.event, finding),
            "event": page.event.id,
            "harm": finding.harm.as_str(),
            "acknowledged_by": finding.acknowledged_by.as_deref().unwrap_or_default(),
        },
        "startsAt": time(page.began),
        "endsAt": time(page.ended.unwrap_or(lasts)),
    })
}

fn note(page: &Page) -> Value {
    let finding = page.event.finding();
    let event: Value = serde_json::from_str(&page.event.to_json()).unwrap_or_default();
    json!({
        "status": if page.ended.is_some() { "resolved" } else { "firing" },
        "id": page.event.id,
        "summary": finding.map(|finding| summary(&page.event, finding)),
        "event": event,
    })
}
