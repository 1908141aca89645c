//! No source allocates, however long a header is.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on may panic, in its helpers too"
)]

use std::net::IpAddr;

use callerid::identify::{self, ForwardedHeader, Head, Identify};
use http::{HeaderName, HeaderValue, Request};

#[derive(Clone)]
struct Peer(IpAddr);

const LONG: usize = 10 << 20;

/// How often a request with this header makes `source` allocate, and the name that it answers.
fn allocations(source: &dyn Identify, header: &str, value: &str) -> (u64, String) {
    let mut request = Request::new(String::new());
    let name = HeaderName::from_bytes(header.as_bytes()).unwrap();
    let value = HeaderValue::from_str(value).unwrap();
    request.headers_mut().insert(name, value);
    request.extensions_mut().insert(Peer([10, 0, 0, 9].into()));
    let head = Head::of(&request);
    let _ = source.identify(&head); // what is made once, such as the empty roster
    let mut name = None;
    let counted = allocation_counter::measure(|| name = source.identify(&head));
    let name = name.map(|identity| identity.name().to_owned());
    (counted.count_total, name.unwrap_or_default())
}

#[test]
fn a_header_of_ten_megabytes_allocates_nothing() {
    let forwarded = identify::forwarded(["10.0.0.0/8"]).peer_with(|peer: &Peer| peer.0);
    let rfc = identify::forwarded(["10.0.0.0/8"])
        .peer_with(|peer: &Peer| peer.0)
        .header(ForwardedHeader::Forwarded);
    let xfcc = identify::xfcc(["10.0.0.0/8"]).peer_with(|peer: &Peer| peer.0);
    let long = |unit: &str| unit.repeat(LONG / unit.len());
    for (source, header, value, name) in [
        (
            &identify::header("x-client-id") as &dyn Identify,
            "x-client-id",
            long("a"),
            "__invalid__",
        ),
        (
            &identify::header("x-client-id"),
            "x-client-id",
            long(" "),
            "__invalid__",
        ),
        (
            &identify::api_key("x-api-key"),
            "x-api-key",
            long("a"),
            "__unknown__",
        ),
        (
            &identify::api_key("authorization"),
            "authorization",
            format!("Bearer {}", long("a")),
            "__unknown__",
        ),
        (
            &identify::user_agent(),
            "user-agent",
            long("a"),
            "__invalid__",
        ),
        (
            &forwarded,
            "x-forwarded-for",
            format!("{}1.2.3.4,10.0.0.1", long("6.6.6.6, ")),
            "ip:1.2.3.4",
        ),
        (
            &forwarded,
            "x-forwarded-for",
            long("10.0.0.1,"),
            "__unknown__",
        ),
        (&forwarded, "x-forwarded-for", long(","), "__unknown__"),
        (
            &rfc,
            "forwarded",
            format!("{}for=1.2.3.4", long("for=6.6.6.6;host=\"a,b\",")),
            "ip:1.2.3.4",
        ),
        (
            &rfc,
            "forwarded",
            format!("for=\"{}\"", long("\\\",")),
            "__unknown__",
        ),
        (
            &xfcc,
            "x-forwarded-client-cert",
            format!("{}URI=spiffe://td/a", long("URI=b,")),
            "td/a",
        ),
        (
            &xfcc,
            "x-forwarded-client-cert",
            format!("Cert=\"{}\"", long("x,")),
            "__invalid__",
        ),
    ] {
        let found = allocations(source, header, &value);
        assert_eq!(found, (0, name.to_owned()), "{header}: {}", &value[..40]);
    }
}

#[test]
fn an_ordinary_request_allocates_nothing() {
    let peer = identify::peer_addr_with(|peer: &Peer| peer.0);
    let forwarded = identify::forwarded(["10.0.0.0/8"]).peer_with(|peer: &Peer| peer.0);
    for (source, header, value, name) in [
        (
            &identify::header("x-client-id") as &dyn Identify,
            "x-client-id",
            "checkout",
            "checkout",
        ),
        (
            &identify::api_key("x-api-key"),
            "x-api-key",
            "key",
            "__unknown__",
        ),
        (&identify::user_agent(), "user-agent", "Curl/8", "ua:curl"),
        (&peer, "accept", "*/*", "ip:10.0.0.9"),
        (
            &forwarded,
            "x-forwarded-for",
            "2001:db8::1",
            "ip:2001:db8::/64",
        ),
    ] {
        assert_eq!(
            allocations(source, header, value),
            (0, name.to_owned()),
            "{header}"
        );
    }
}
