//! Whatever bytes a client sends, a source answers with a name, or with one of the rows for what has none.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on may panic, in its helpers too"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use callerid::Provenance;
use callerid::identify::{self, ForwardedHeader, Head, Identify};
use http::{HeaderName, HeaderValue, Request};
use proptest::collection::vec;
use proptest::prelude::*;

/// Left by the listener.
#[derive(Clone)]
struct Peer(IpAddr);

#[derive(Clone)]
struct Subject(String);

const PROXY: &str = "10.0.0.9";

fn request(peer: &str, lines: &[(&str, Vec<u8>)]) -> Request<String> {
    let mut request = Request::new(String::new());
    request.extensions_mut().insert(Peer(peer.parse().unwrap()));
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        let value = HeaderValue::from_bytes(value).unwrap();
        request.headers_mut().append(name, value);
    }
    request
}

const HEADERS: [&str; 7] = [
    "x-client-id",
    "x-api-key",
    "authorization",
    "user-agent",
    "x-forwarded-for",
    "forwarded",
    "x-forwarded-client-cert",
];

fn sources() -> Vec<Box<dyn Identify>> {
    let trusted = ["10.0.0.0/8", "2001:db8:aaaa::/48"];
    vec![
        Box::new(identify::header("x-client-id")),
        Box::new(identify::api_key("x-api-key")),
        Box::new(identify::api_key("authorization")),
        Box::new(identify::user_agent()),
        Box::new(identify::peer_addr_with(|peer: &Peer| peer.0)),
        Box::new(identify::forwarded(trusted).peer_with(|peer: &Peer| peer.0)),
        Box::new(
            identify::forwarded(trusted)
                .any_peer()
                .header(ForwardedHeader::Forwarded),
        ),
        Box::new(identify::xfcc(trusted).peer_with(|peer: &Peer| peer.0)),
        Box::new(identify::xfcc(trusted).any_peer().spiffe_path()),
        Box::new(identify::extension::<Subject>(|subject| Some(&subject.0))),
    ]
}

/// What means something to one source or another.
const WORDS: [&str; 21] = [
    ",",
    ";",
    "\"",
    "\\",
    "=",
    " ",
    "[",
    "]",
    ":80",
    "for=",
    "Bearer ",
    "URI=",
    "DNS=",
    "Subject=",
    "CN=",
    "spiffe://td/",
    "10.0.0.1",
    "1.2.3.4",
    "2001:db8::1",
    "a",
    "__",
];

/// Bytes that a header may hold.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let words = vec(proptest::sample::select(&WORDS[..]), 0..40);
    prop_oneof![
        vec(any::<u8>().prop_map(visible), 0..200),
        words.prop_map(|words| words.concat().into_bytes()),
    ]
}

/// Other bytes do not get past a server, nor into a `HeaderValue`.
fn visible(byte: u8) -> u8 {
    if byte.is_ascii_control() { b'\t' } else { byte }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn every_answer_is_a_name_or_a_row_for_none(
        lines in vec((proptest::sample::select(&HEADERS[..]), value()), 0..6),
        peer in proptest::sample::select(&["10.0.0.9", "192.0.2.1", "2001:db8::1"][..]),
        subject in ".{0,80}",
    ) {
        let mut request = request(peer, &lines);
        request.extensions_mut().insert(Subject(subject));
        let head = Head::of(&request);
        for source in sources() {
            let Some(found) = source.identify(&head) else { continue };
            let name = found.name();
            prop_assert!((1..=64).contains(&name.len()));
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
            let ours = name.starts_with("__") || name.starts_with("claimed:");
            prop_assert_eq!(ours, found.provenance() == Provenance::Unknown, "{}", name);
            prop_assert!(!ours || matches!(name, "__unknown__" | "__invalid__"));
            let inferred = name.starts_with("ip:") || name.starts_with("ua:");
            prop_assert_eq!(inferred, found.provenance() == Provenance::Inferred, "{}", name);
        }
    }

    #[test]
    fn the_walk_equals_the_naive_one(hops in vec(hop(), 1..20), cuts in vec(any::<bool>(), 20)) {
        let expected = naive(&hops);
        // Some separators are a comma, others begin a new line.
        let lines = |write: fn(&Hop) -> String| {
            let mut lines = vec![String::new()];
            for (hop, cut) in hops.iter().zip(&cuts) {
                let last = lines.last_mut().unwrap();
                if last.is_empty() {
                    *last = write(hop);
                } else if *cut {
                    lines.push(write(hop));
                } else {
                    *last += ", ";
                    *last += &write(hop);
                }
            }
            lines
        };
        for (header, name, lines) in [
            (ForwardedHeader::XForwardedFor, "x-forwarded-for", lines(Hop::plain)),
            (ForwardedHeader::Forwarded, "forwarded", lines(Hop::rfc)),
        ] {
            let lines: Vec<_> = lines.into_iter().map(|line| (name, line.into_bytes())).collect();
            let request = request(PROXY, &lines);
            let source = identify::forwarded(["10.0.0.0/8", "2001:db8:aaaa::/48"])
                .header(header).peer_with(|peer: &Peer| peer.0).ipv6_prefix(128);
            let head = Head::of(&request);
            let found = source.identify(&head).unwrap();
            prop_assert_eq!(found.name(), expected.as_str(), "{:?}", lines);
        }
    }

    #[test]
    fn trap_06_nothing_that_a_client_sends_in_front_moves_the_walk(
        front in value(), same_line in any::<bool>(), rfc in any::<bool>(), host in "[ -~]{0,20}",
    ) {
        let host = host.replace('\\', "\\\\").replace('"', "\\\"");
        let (header, name, own) = if rfc {
            let own = format!("for=\"[2001:db8::7]:1\";host=\"{host}\", for=10.0.0.1");
            (ForwardedHeader::Forwarded, "forwarded", own)
        } else {
            (ForwardedHeader::XForwardedFor, "x-forwarded-for", "[2001:db8::7]:1, 10.0.0.1".to_owned())
        };
        let lines = if same_line {
            vec![(name, [&front[..], b",", own.as_bytes()].concat())]
        } else {
            vec![(name, front), (name, own.into_bytes())]
        };
        let request = request(PROXY, &lines);
        let source = identify::forwarded(["10.0.0.0/8"]).header(header).peer_with(|peer: &Peer| peer.0);
        let head = Head::of(&request);
        let found = source.identify(&head).unwrap();
        prop_assert_eq!(found.name(), "ip:2001:db8::/64");
    }
}

/// One element of a list that proxies wrote.
#[derive(Clone, Debug)]
enum Hop {
    Addr(SocketAddr),
    Ip(IpAddr),
    Hidden(&'static str),
}

impl Hop {
    fn plain(&self) -> String {
        match self {
            Self::Addr(addr) => addr.to_string(),
            Self::Ip(ip) => ip.to_string(),
            Self::Hidden(text) => (*text).to_owned(),
        }
    }

    fn rfc(&self) -> String {
        let node = self.plain();
        match self {
            Self::Hidden(_) => format!("For={node};by=_x"),
            _ => format!("host=\"a,b\\\";for=6.6.6.6\" ; for=\"{node}\";proto=https"),
        }
    }
}

fn hop() -> impl Strategy<Value = Hop> {
    let trusted = (0..4_u8).prop_map(|last| IpAddr::from([10, 0, 0, last]));
    let trusted6 =
        (0..4_u16).prop_map(|last| IpAddr::from([0x2001, 0xdb8, 0xaaaa, 0, 0, 0, 0, last]));
    let v4 = any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
    let v6 = any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)));
    let ip = prop_oneof![6 => trusted, 4 => trusted6, 1 => v4, 1 => v6];
    prop_oneof![
        10 => ip.clone().prop_map(Hop::Ip),
        10 => (ip, any::<u16>()).prop_map(|(ip, port)| Hop::Addr((ip, port).into())),
        1 => proptest::sample::select(&["unknown", "_hidden", "1.2.3", "x"][..]).prop_map(Hop::Hidden),
    ]
}

/// Split everything, reverse, skip what is trusted.
fn naive(hops: &[Hop]) -> String {
    let mut farthest = None;
    for hop in hops.iter().rev() {
        let ip = match hop {
            Hop::Addr(addr) => addr.ip(),
            Hop::Ip(ip) => *ip,
            Hop::Hidden(_) => return "__unknown__".to_owned(),
        };
        farthest = Some(ip);
        let trusted = match ip {
            IpAddr::V4(v4) => v4.octets()[0] == 10,
            IpAddr::V6(v6) => v6.segments()[..3] == [0x2001, 0xdb8, 0xaaaa],
        };
        if !trusted {
            break;
        }
    }
    let ip = farthest.map(|ip| ip.to_canonical());
    ip.map_or("__unknown__".to_owned(), |ip| format!("ip:{ip}"))
}
