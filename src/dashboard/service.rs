//! From a request to its answer.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use tower::Service;

use super::Dashboard;
use super::access::{Ask, Grant};
use super::answer::{Body, HTML, JSON, Problem, TEXT, fresh, json, to_folder};
use super::chart::Span;
use super::live::aside;
use super::{assets, drill, html, top};

/// The longest body of a request,
const LARGEST: usize = 64 * 1024;
/// and how long it may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// The future of [`Dashboard`].
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

/// The host that the client means: of the URI over HTTP/2, of `Host` before.
fn host(head: &Request<()>) -> Option<&str> {
    match head.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => head.headers().get(header::HOST)?.to_str().ok(),
    }
}

impl Dashboard {
    async fn answer<B>(&self, head: &Request<()>, body: B) -> Result<Response<Body>, Problem>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let ask = Ask {
            method: head.method(),
            headers: head.headers(),
            extensions: head.extensions(),
            host: host(head),
            peer: self.callers.peer(head.extensions()),
        };
        let grant = self.access.grant(&ask);
        let path = self.below_mount(head.uri().path());
        if let Some(action) = path.strip_prefix("v1/do/") {
            self.check_write(&ask, &grant)?;
            let _ = (action, read(body).await?);
            return Err(Problem::not_found("there is no such action"));
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
            _ if path.starts_with("v1/") || path == "top.txt" => {
                self.may_read(&ask, &grant)?;
                self.data(path, head).await
            }
            _ => {
                if !self.access.asks_for_token() {
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
            _ => Err(Problem::not_found("there is nothing here")),
        }
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

    /// The path without the mount, and without its slash.
    fn below_mount<'p>(&self, path: &'p str) -> &'p str {
        let below = path
            .strip_prefix(&*self.mount)
            .filter(|rest| rest.is_empty() || rest.starts_with('/'))
            .unwrap_or(path);
        below.strip_prefix('/').unwrap_or(below)
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
        if ask.method != Method::POST {
            return Err(Problem::method("POST"));
        }
        let author = grant.author.as_deref().ok_or_else(|| self.refused(ask))?;
        let text = |name| {
            ask.headers
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
