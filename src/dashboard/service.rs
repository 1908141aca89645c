//! From a request to its answer.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use tower::Service;

use super::Dashboard;
use super::access::Grant;
use super::alone::StatusPage;
use super::answer::{Body, HTML, JSON, Problem, TEXT, fresh, json, to_folder};
use super::ask::Ask;
use super::chart::Span;
use super::live::aside;
use super::status::Status;
use super::{assets, drill, html, operate, own, own_page, top};
use crate::events::Event;

/// The longest body of a request,
const LARGEST: usize = 64 * 1024;
/// and how long it may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// The future of [`Dashboard`] and [`StatusPage`].
pub struct ResponseFuture(Answer);

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for Dashboard
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let (head, body) = request.into_parts();
        let head = Request::from_parts(head, ());
        let page = self.clone();
        ResponseFuture(Box::pin(async move {
            let answer = page.answer(&head, body).await;
            answer.unwrap_or_else(|problem| problem.response())
        }))
    }
}

impl<B: Send + 'static> Service<Request<B>> for StatusPage {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let head = request.map(|_| ());
        let page = self.clone();
        ResponseFuture(Box::pin(async move {
            let answer = page.answer(&head).await;
            answer.unwrap_or_else(|problem| problem.response())
        }))
    }
}

/// Where an event stands: those of one runaway share an id.
fn cursor(event: &Event) -> String {
    format!("{}@{:.3}", event.id, event.t)
}

fn wants_html(headers: &HeaderMap) -> bool {
    let accepts = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    accepts.is_some_and(|accepts| accepts.contains("text/html"))
}

/// What is asked for, from a path below the mount.
fn parameter(head: &Request<()>, name: &str) -> Option<String> {
    let pairs = head.uri().query()?.split('&');
    let value = pairs
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)?
        .1;
    let value = value.replace('+', " ");
    let text = percent_encoding::percent_decode_str(&value).decode_utf8();
    text.ok().map(std::borrow::Cow::into_owned)
}

/// The path without the mount, and without its slash.
fn below<'p>(mount: &str, path: &'p str) -> &'p str {
    let below = path
        .strip_prefix(mount)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        .unwrap_or(path);
    below.strip_prefix('/').unwrap_or(below)
}

impl Dashboard {
    async fn answer<B>(&self, head: &Request<()>, body: B) -> Result<Response<Body>, Problem>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let ask = Ask::of(head, self.callers.peer(head.extensions()));
        let grant = self.access.grant(&ask);
        let path = below(&self.mount, head.uri().path());
        // Under `me` a token is the caller's own, and none of ours.
        if path != "me" && self.access.is_guessed(&ask, &grant, self.callers.now()) {
            return Err(Problem::slow_down(1));
        }
        // The page that asks for a token is for everybody, and what is drawn with it.
        let open = self.access.asks_for_token() && !path.starts_with("v1/");
        if grant == Grant::nothing() && !open {
            return Err(self.refused(&ask));
        }
        if let Some(action) = path.strip_prefix("v1/do/") {
            let author = self.check_write(&ask, &grant)?;
            let (callers, action) = (self.callers.on_behalf_of(author), action.to_owned());
            let body = read(body).await?;
            return json(&aside(move || operate::act(&action, &callers, &body)).await??);
        }
        if !matches!(*head.method(), Method::GET | Method::HEAD) {
            return Err(Problem::method("GET, HEAD"));
        }
        match path {
            "v1/you" => json(&serde_json::json!({
                "v": 1,
                "read": grant.read,
                "operate": grant.author.is_some(),
                "author": grant.author,
                "fleet_view": self.fleet.as_deref().filter(|_| grant.read),
                "needs_token": self.access.asks_for_token(),
            })),
            "" => self.page(head, &ask, &grant).await,
            "me" => self.own(head, &ask, &grant).await,
            "status" | "summary.json" | "api/v2/summary.json" | "v1/incidents" => {
                self.may_read(&ask, &grant)?;
                let status = Status {
                    service: self.callers.upkeep().watch.log.service.to_string(),
                    incidents: self.callers.incidents(),
                    as_of: self.callers.now().as_secs_f64(),
                    stale: None,
                };
                status.answer(path)
            }
            _ if path.starts_with("v1/") || path == "top.txt" => {
                self.may_read(&ask, &grant)?;
                self.data(path, head).await
            }
            _ => {
                if !self.access.asks_for_token() && grant.own.is_none() {
                    self.may_read(&ask, &grant)?;
                }
                assets::find(path, head.headers())
                    .ok_or_else(|| Problem::not_found("there is nothing here"))
            }
        }
    }

    async fn data(&self, path: &str, head: &Request<()>) -> Result<Response<Body>, Problem> {
        match path {
            "top.txt" => {
                let callers = self.callers.clone();
                let text = aside(move || top::render(&callers.snapshot())).await?;
                Ok(fresh(TEXT, text))
            }
            "v1/overview" => {
                let span = parameter(head, "span");
                let span = Span::named(span.as_deref().unwrap_or("2m"))
                    .ok_or_else(|| Problem::bad("span: use 2m, 15m or 1h"))?;
                Ok(fresh(JSON, self.live.overview(span).await?))
            }
            "v1/caller" => {
                let name = parameter(head, "name")
                    .ok_or_else(|| Problem::bad("name: say which caller"))?;
                let callers = self.callers.clone();
                let found = aside(move || drill::of(&callers, &name)).await?;
                let found = found.ok_or_else(|| Problem::not_found("there is no such caller"))?;
                Ok(fresh(JSON, found))
            }
            "v1/report" => {
                let id = parameter(head, "id")
                    .ok_or_else(|| Problem::bad("id: say of which runaway"))?;
                let callers = self.callers.clone();
                let report = aside(move || callers.report(&id)).await?;
                let report =
                    report.ok_or_else(|| Problem::not_found("no report of this id is kept"))?;
                if parameter(head, "format").as_deref() == Some("json") {
                    return Ok(fresh(JSON, report.json()));
                }
                Ok(fresh(TEXT, report.markdown()))
            }
            "v1/events" => {
                let picture = self.live.picture().await?;
                let after = parameter(head, "after");
                let events = self.callers.events();
                let known = events
                    .iter()
                    .rposition(|event| after.as_deref() == Some(&*cursor(event)));
                let new = events.iter().skip(known.map_or(0, |known| known + 1));
                let new: Vec<_> = new.map(|event| picture.told(event)).collect();
                let next = events.last().map(|event| cursor(event)).or(after);
                json(&serde_json::json!({ "v": 1, "events": new, "next": next }))
            }
            _ => Err(Problem::not_found("there is nothing here")),
        }
    }

    /// What a caller sees of itself.
    async fn own(
        &self,
        head: &Request<()>,
        ask: &Ask<'_>,
        grant: &Grant,
    ) -> Result<Response<Body>, Problem> {
        let own = grant.own.ok_or_else(|| self.refused(ask))?;
        let (name, provenance) = own::who(&self.callers, head, own, &self.asked)?;
        let callers = self.callers.clone();
        let usage = aside(move || own::usage(&callers, &name, provenance)).await?;
        if wants_html(head.headers()) {
            return Ok(fresh(HTML, own_page::page(&usage)));
        }
        json(&usage)
    }

    /// The page, with a table in it for readers without a script.
    async fn page(
        &self,
        head: &Request<()>,
        ask: &Ask<'_>,
        grant: &Grant,
    ) -> Result<Response<Body>, Problem> {
        if !self.access.asks_for_token() {
            self.may_read(ask, grant)?;
        }
        if let Some(name) = self.without_slash(head) {
            return Ok(to_folder(name));
        }
        let table = if grant.read {
            html::table(&self.live.picture().await?.lines)
        } else {
            String::new()
        };
        Ok(fresh(HTML, assets::PAGE.replace("{{callers}}", &table)))
    }

    /// The last part of the path that the client asked for, if a slash is missing after it: links on the page are
    /// relative, so that it need not know where it is.
    fn without_slash<'h>(&self, head: &'h Request<()>) -> Option<&'h str> {
        #[cfg(feature = "axum")]
        let uri = head
            .extensions()
            .get::<axum::extract::OriginalUri>()
            .map_or(head.uri(), |original| &original.0);
        #[cfg(not(feature = "axum"))]
        let uri = head.uri();
        let (_, last) = uri.path().rsplit_once('/')?;
        (!last.is_empty()).then_some(last)
    }

    fn may_read(&self, ask: &Ask<'_>, grant: &Grant) -> Result<(), Problem> {
        if grant.read {
            return Ok(());
        }
        Err(self.refused(ask))
    }

    fn refused(&self, ask: &Ask<'_>) -> Problem {
        let status = if self.access.asks_for_token() && ask.bearer().is_none() {
            StatusCode::UNAUTHORIZED
        } else {
            StatusCode::FORBIDDEN
        };
        Problem::new(status, self.access.refusal(ask))
    }

    /// A write comes from somebody who may, from our own page or from no page at all, and as what a foreign page
    /// cannot send without being asked.
    fn check_write<'g>(&self, ask: &Ask<'_>, grant: &'g Grant) -> Result<&'g str, Problem> {
        if ask.method() != Method::POST {
            return Err(Problem::method("POST"));
        }
        let author = grant.author.as_deref().ok_or_else(|| self.refused(ask))?;
        let text = |name| {
            ask.headers()
                .get(name)
                .map(|value| value.to_str().unwrap_or("?"))
        };
        let foreign = || Problem::new(StatusCode::FORBIDDEN, "another page may not do this");
        if let Some(origin) = text(header::ORIGIN) {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            if authority.is_none() || authority != ask.host {
                return Err(foreign());
            }
        }
        if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site"))
            && !["same-origin", "none"].contains(&site)
        {
            return Err(foreign());
        }
        let kind = text(header::CONTENT_TYPE).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case(JSON) {
            let detail = "send `content-type: application/json`";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        Ok(author)
    }
}

/// The whole body, if it is short and soon there.
async fn read<B>(body: B) -> Result<Bytes, Problem>
where
    B: http_body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let whole = tokio::time::timeout(PATIENCE, Limited::new(body, LARGEST).collect());
    let late = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
    match whole.await.map_err(late)? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let detail = format!("a body has {LARGEST} bytes at most");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail))
        }
        Err(_) => Err(Problem::bad("the body broke off")),
    }
}
