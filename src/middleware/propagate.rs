//! Tells the next service who is calling: W3C baggage (<https://www.w3.org/TR/baggage/>) on outgoing requests.
//!
//! A service that calls others on behalf of a caller is itself the caller that they see. With
//! [`PropagateLayer`] on its client, they can also learn on whose behalf, by [`origin`]: good for a log line or a
//! dashboard, and for nothing that anybody gains by. Baggage is a header that anyone can set.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};
use tower::{Layer, Service};

use crate::caller::{Caller, MAX_NAME, Provenance, valid_token};

static BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const KEY: &[u8] = b"callerid";
/// What every propagator has to let through, and what is read or written here at most.
const MAX_BYTES: usize = 8192;
const MAX_MEMBERS: usize = 64;

/// What may not stand in a baggage value as it is, and the `=` that some readers split at.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'%')
    .add(b',')
    .add(b';')
    .add(b'=')
    .add(b'\\');

/// Adds the caller of a request to requests that a client sends to hosts on a list.
///
/// A request whose extensions hold a [`Caller`] that is known, and that goes to a listed host, gets the baggage
/// member `callerid=<name>;provenance=<verified, claimed or inferred>`; one of that key which was there is replaced,
/// other members stay. Where the limits of baggage (8192 bytes, 64 members) leave no room, the header stays as it
/// is. To other hosts nothing is added, and nothing is taken away: who calls you is nobody else's business.
///
/// ```
/// use callerid::Caller;
/// use callerid::middleware::propagate::PropagateLayer;
///
/// let layer = PropagateLayer::new(["prices.internal", "*.svc.cluster.local"]);
///
/// // In a handler, on the request to the next service:
/// # let caller = Caller::unknown();
/// let outgoing = http::Request::builder().uri("http://prices.internal/v1").extension(caller).body(());
/// ```
#[derive(Clone, Debug)]
pub struct PropagateLayer {
    hosts: Arc<Hosts>,
}

impl PropagateLayer {
    /// Propagates to these hosts: a name, or `*.` and the end of one. Letter case does not matter, nor does the
    /// port of a request.
    pub fn new(hosts: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let hosts = hosts
            .into_iter()
            .map(|host| host.as_ref().trim().to_ascii_lowercase());
        Self {
            hosts: Arc::new(Hosts(hosts.filter(|host| !host.is_empty()).collect())),
        }
    }
}

impl<S> Layer<S> for PropagateLayer {
    type Service = Propagate<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Propagate {
            inner,
            hosts: Arc::clone(&self.hosts),
        }
    }
}

/// The service that [`PropagateLayer`] makes.
#[derive(Clone)]
pub struct Propagate<S> {
    inner: S,
    hosts: Arc<Hosts>,
}

impl<S, B> Service<http::Request<B>> for Propagate<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let baggage = request
            .extensions()
            .get::<Caller>()
            .filter(|caller| caller.is_known() && self.hosts.list(&request))
            .and_then(|caller| with_caller(request.headers(), caller));
        if let Some(baggage) = baggage {
            request.headers_mut().insert(&BAGGAGE, baggage);
        }
        self.inner.call(request)
    }
}

impl<S: fmt::Debug> fmt::Debug for Propagate<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Propagate")
            .field("inner", &self.inner)
            .field("hosts", &self.hosts)
            .finish()
    }
}

/// Hosts, in lower case.
#[derive(Debug)]
struct Hosts(Box<[String]>);

impl Hosts {
    /// Whether the host of `request` is one of these: the URI's, which is where a client connects to, or the
    /// header's where the URI has none.
    fn list<B>(&self, request: &http::Request<B>) -> bool {
        let header = || request.headers().get(HOST)?.to_str().ok().map(without_port);
        let Some(host) = request.uri().host().or_else(header) else {
            return false;
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        self.0.iter().any(|listed| match listed.strip_prefix('*') {
            Some(end) if end.starts_with('.') => {
                let start = host.len().checked_sub(end.len()).filter(|start| *start > 0);
                let host_end = start.and_then(|start| host.get(start..));
                host_end.is_some_and(|host_end| host_end.eq_ignore_ascii_case(end))
            }
            _ => host.eq_ignore_ascii_case(listed),
        })
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        // The last colon of `[::1]` is not the one before a port.
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    }
}

/// The baggage of `headers` with this caller in it, in one line; `None` where it does not fit.
fn with_caller(headers: &HeaderMap, caller: &Caller) -> Option<HeaderValue> {
    let name = utf8_percent_encode(caller.name(), ESCAPED);
    let own = format!("callerid={name};provenance={}", caller.provenance());
    let mut line = Vec::with_capacity(own.len());
    let mut count = 1;
    for member in members(headers).filter(|member| key_of(member) != KEY) {
        count += 1;
        if count > MAX_MEMBERS || line.len() + member.len() + 1 + own.len() > MAX_BYTES {
            return None;
        }
        line.extend_from_slice(member);
        line.push(b',');
    }
    line.extend_from_slice(own.as_bytes());
    HeaderValue::from_maybe_shared(bytes::Bytes::from(line)).ok()
}

fn members(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(&BAGGAGE).iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    members
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

fn key_of(member: &[u8]) -> &[u8] {
    let mut parts = member.split(|byte| matches!(byte, b'=' | b';'));
    parts.next().unwrap_or_default().trim_ascii()
}

/// On whose behalf a request is sent, as its sender says. An untrusted hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    name: Box<str>,
    provenance: Provenance,
}

impl Origin {
    /// The name of the caller: 1 to 64 bytes of visible ASCII.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the sender knew; [`Provenance::Unknown`] where it does not say. To the reader all of it is claimed.
    #[must_use]
    pub fn provenance(&self) -> Provenance {
        self.provenance
    }
}

/// Reads what [`PropagateLayer`] wrote: on whose behalf the sender of a request calls.
///
/// **An untrusted hint**: any client can send it. Show it, log it; do not authorize, limit or bill by it. No more
/// than 64 members and 8192 bytes are looked at. Two members that differ, and a name that is none or that a service
/// has for its own rows (`__…`), are nobody.
#[must_use]
pub fn origin(headers: &HeaderMap) -> Option<Origin> {
    let (mut members_left, mut bytes_left) = (MAX_MEMBERS, MAX_BYTES);
    let mut found = None;
    for line in headers.get_all(&BAGGAGE) {
        let line = line.as_bytes();
        bytes_left = bytes_left.checked_sub(line.len())?;
        for member in line.split(|byte| *byte == b',') {
            members_left = members_left.checked_sub(1)?;
            let member = member.trim_ascii();
            if key_of(member) == KEY {
                let origin = parse(member)?;
                if *found.get_or_insert_with(|| origin.clone()) != origin {
                    return None;
                }
            }
        }
    }
    found
}

fn parse(member: &[u8]) -> Option<Origin> {
    let mut parts = member.split(|byte| *byte == b';');
    let value = value_of(parts.next()?)?;
    // Every byte of a name may have been encoded.
    if value.len() > 3 * MAX_NAME {
        return None;
    }
    let decoded: Vec<u8> = percent_decode(value).collect();
    let name = valid_token(&decoded).filter(|name| !name.starts_with("__"))?;
    let said = parts
        .find(|property| key_of(property) == b"provenance")
        .and_then(value_of);
    let provenance = said.and_then(|said| {
        let known = Provenance::ALL.into_iter();
        known
            .into_iter()
            .find(|one| one.as_str().as_bytes() == said)
    });
    Some(Origin {
        name: name.into(),
        provenance: provenance.unwrap_or(Provenance::Unknown),
    })
}

fn value_of(pair: &[u8]) -> Option<&[u8]> {
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    pair.get(equals + 1..).map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};

    use super::*;
    use crate::caller::Source;

    /// Answers with the request that it got.
    struct Echo;

    impl Service<http::Request<()>> for Echo {
        type Response = http::Request<()>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<()>) -> Self::Future {
            ready(Ok(request))
        }
    }

    fn caller(name: &str) -> Caller {
        Caller::new(name, Provenance::Verified, Source::Header, 1)
    }

    /// The headers with which a request of `caller` leaves.
    fn sent(caller: Option<Caller>, uri: &str, headers: &[(&str, &str)]) -> HeaderMap {
        let mut request = http::Request::new(());
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).unwrap();
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().append(name, value);
        }
        *request.uri_mut() = uri.parse().unwrap();
        caller.map(|caller| request.extensions_mut().insert(caller));
        let layer = PropagateLayer::new(["Prices.internal", "*.svc.cluster.local", "[::1]"]);
        layer
            .layer(Echo)
            .call(request)
            .into_inner()
            .unwrap()
            .headers()
            .clone()
    }

    fn baggage(headers: &HeaderMap) -> Vec<&str> {
        let lines = headers.get_all("baggage").iter();
        lines.map(|line| line.to_str().unwrap()).collect()
    }

    const LISTED: &str = "http://prices.internal/v1";

    #[test]
    fn the_next_service_reads_the_name_that_was_sent() {
        for name in ["checkout", "a;b=c,d%\"\\e", "td/ns/a/sa/b", "ip:10.0.0.1"] {
            let headers = sent(Some(caller(name)), LISTED, &[]);
            let origin = origin(&headers).unwrap();
            assert_eq!(
                (origin.name(), origin.provenance()),
                (name, Provenance::Verified)
            );
        }
        let headers = sent(Some(caller("a,b")), LISTED, &[]);
        assert_eq!(baggage(&headers), ["callerid=a%2Cb;provenance=verified"]);
    }

    #[test]
    fn members_of_others_stay_and_an_old_caller_is_replaced() {
        let before = [
            ("baggage", "a=1;p, callerid=old;x=y ,"),
            ("baggage", " callerid = older,calleridx=2"),
        ];
        let headers = sent(Some(caller("new")), LISTED, &before);
        assert_eq!(
            baggage(&headers),
            ["a=1;p,calleridx=2,callerid=new;provenance=verified"]
        );
    }

    #[test]
    fn only_listed_hosts_learn_who_calls() {
        for (uri, host, told) in [
            ("https://PRICES.internal:8443/", "x", true),
            ("http://prices.internal./", "x", true),
            ("http://me@prices.internal/", "x", true),
            ("http://a.b.svc.cluster.local/", "x", true),
            ("http://[::1]:80/", "x", true),
            ("/v1", "prices.internal:80", true),
            ("/v1", "[::1]:80", true),
            ("/v1", "[::1]", true),
            ("http://svc.cluster.local/", "x", false),
            ("http://.svc.cluster.local/", "x", false),
            ("http://xsvc.cluster.local/", "x", false),
            (
                "http://prices.internal.evil.example/",
                "prices.internal",
                false,
            ),
            ("http://prices.internal@evil.example/", "x", false),
            ("/v1", "evil.example", false),
        ] {
            let headers = sent(
                Some(caller("a")),
                uri,
                &[("host", host), ("baggage", "callerid=b")],
            );
            let expected = if told {
                "callerid=a;provenance=verified"
            } else {
                "callerid=b"
            };
            assert_eq!(baggage(&headers), [expected], "{uri} {host}");
        }
    }

    #[test]
    fn a_star_alone_is_no_host() {
        let hosts = Hosts(["*".to_owned(), "*x".to_owned()].into());
        assert!(!hosts.list(&http::Request::get("http://x/").body(()).unwrap()));
    }

    #[test]
    fn nobody_is_not_propagated() {
        assert!(sent(None, LISTED, &[]).is_empty());
        assert!(sent(Some(Caller::unknown()), LISTED, &[]).is_empty());
    }

    #[test]
    fn baggage_that_is_full_stays_as_it_is() {
        let many = vec!["a=1"; 64].join(",");
        let long = format!("a={}", "x".repeat(8160));
        for full in [&many, &long] {
            let headers = sent(Some(caller("a")), LISTED, &[("baggage", full)]);
            assert_eq!(baggage(&headers), [full]);
        }
        let room = vec!["a=1"; 63].join(",");
        let headers = sent(Some(caller("a")), LISTED, &[("baggage", &room)]);
        assert_eq!(origin(&headers).unwrap().name(), "a");
    }

    #[test]
    fn what_is_no_name_or_ambiguous_is_nobody() {
        let read = |lines: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("baggage", HeaderValue::from_bytes(line).unwrap());
            }
            origin(&headers)
        };
        for bad in [
            &b"callerid"[..],
            b"callerid=",
            b"callerid=a%20b",
            b"callerid=__other__",
            b"callerid=\xff",
            b"callerid=%FF",
            b"callerid=a,callerid=b",
            b"x=callerid",
            &[b"callerid=", &[b'a'; 65][..]].concat(),
            &[b"callerid=a,x=", &[b'a'; 9000][..]].concat(),
        ] {
            assert_eq!(read(&[bad]), None, "{bad:?}");
        }
        assert_eq!(read(&[b"callerid=a", b"callerid=a"]).unwrap().name(), "a");
        assert_eq!(
            read(&[b"callerid=a;provenance=x"]).unwrap().provenance(),
            Provenance::Unknown
        );
    }
}
