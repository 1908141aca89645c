//! The way of a request through proxies, walked from the nearest.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};

use super::list::{Pairs, last_comma};
use super::trust::Networks;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A walk looks at no more elements than this, nor at more bytes: no chain of real proxies is longer.
const MAX_ELEMENTS: usize = 64;
const MAX_BYTES: usize = 16 * 1024;
/// An address with brackets and port is shorter; so is any obfuscated one that would end the walk.
const MAX_NODE: usize = 64;

/// The header in which trusted proxies say for whom they speak.
///
/// Only the one that is named is read. A proxy that writes one of them passes the other on as the client sent
/// it, so to look for both, or for whichever is there, lets a client choose its own address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: client, proxy1, proxy2`: what Envoy, nginx, HAProxy and the clouds' load balancers
    /// write unless they are told otherwise.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client;proto=https, for=proxy1` (RFC 7239).
    Forwarded,
}

/// Where a walk ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// At the nearest address that is not a trusted proxy or, where all of them are, at the farthest.
    At(IpAddr),
    /// At an element that is no address, or at the bound.
    Unclear,
    /// There was no element to begin with.
    Nowhere,
}

/// Walks from the right over all the lines of `header`, the last line being the nearest. Allocates nothing and
/// looks at no more than 64 elements and 16 KiB.
pub(super) fn walk(headers: &HeaderMap, header: ForwardedHeader, trusted: &Networks) -> Walk {
    let (name, quotes) = match header {
        ForwardedHeader::XForwardedFor => (&X_FORWARDED_FOR, false),
        ForwardedHeader::Forwarded => (&FORWARDED, true),
    };
    let mut farthest = None;
    let (mut elements, mut bytes) = (MAX_ELEMENTS, MAX_BYTES);
    for line in headers.get_all(name).iter().rev() {
        let mut rest = Some(line.as_bytes());
        while let Some(list) = rest {
            let hidden = list.len().saturating_sub(bytes);
            let window = list.get(hidden..).unwrap_or_default();
            let comma = last_comma(window, quotes);
            if elements == 0 || (comma.is_none() && hidden > 0) {
                return Walk::Unclear;
            }
            let element = window
                .get(comma.map_or(0, |at| at + 1)..)
                .unwrap_or_default();
            rest = comma.and_then(|at| list.get(..hidden + at));
            elements -= 1;
            bytes = bytes.saturating_sub(element.len() + 1);

            let element = element.trim_ascii();
            if element.is_empty() {
                continue; // RFC 9110, section 5.6.1.2
            }
            let hop = match header {
                ForwardedHeader::XForwardedFor => node(unquoted(element)),
                ForwardedHeader::Forwarded => for_of(element).and_then(node),
            };
            match hop {
                None => return Walk::Unclear,
                Some(ip) if trusted.contain(ip) => farthest = Some(ip),
                Some(ip) => return Walk::At(ip),
            }
        }
    }
    farthest.map_or(Walk::Nowhere, Walk::At)
}

/// The one `for` of an element of `Forwarded`.
fn for_of(element: &[u8]) -> Option<&[u8]> {
    let mut found = None;
    for pair in Pairs::of(element) {
        let (key, value) = pair.ok()?;
        if key.eq_ignore_ascii_case(b"for") && found.replace(value).is_some() {
            return None;
        }
    }
    found
}

fn unquoted(element: &[u8]) -> &[u8] {
    let inside = element
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    inside.unwrap_or(element)
}

/// The address of a node (RFC 7239, section 6), without its port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`,
/// `[2001:db8::1]:443`. `unknown`, obfuscated names and anything else are none.
fn node(raw: &[u8]) -> Option<IpAddr> {
    if raw.len() > MAX_NODE {
        return None;
    }
    let text = std::str::from_utf8(raw).ok()?.trim_ascii();
    let ip = if let Some(rest) = text.strip_prefix('[') {
        let (inside, port) = rest.split_once(']')?;
        if !port.is_empty() && !is_port(port.strip_prefix(':')?) {
            return None;
        }
        IpAddr::V6(inside.parse().ok()?)
    } else {
        match text.split_once(':') {
            Some((v4, port)) if is_port(port) => IpAddr::V4(v4.parse().ok()?),
            _ => text.parse().ok()?,
        }
    };
    Some(ip.to_canonical())
}

fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(obfuscated) => {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !obfuscated.is_empty() && obfuscated.bytes().all(allowed)
        }
        None => (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::testing::request;

    fn walk_over(header: ForwardedHeader, lines: &[&str]) -> Walk {
        let name = match header {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => "forwarded",
        };
        let lines: Vec<_> = lines.iter().map(|line| (name, line.as_bytes())).collect();
        let trusted = Networks::new(["10.0.0.0/8", "2001:db8:aaaa::/48"]);
        walk(request(&lines).headers(), header, &trusted)
    }

    fn xff(lines: &[&str]) -> Walk {
        walk_over(ForwardedHeader::XForwardedFor, lines)
    }

    fn forwarded(lines: &[&str]) -> Walk {
        walk_over(ForwardedHeader::Forwarded, lines)
    }

    fn at(ip: &str) -> Walk {
        Walk::At(ip.parse().unwrap())
    }

    #[test]
    fn the_nearest_address_that_is_not_trusted_is_the_caller() {
        assert_eq!(xff(&["6.6.6.6, 1.2.3.4, 10.0.0.1"]), at("1.2.3.4"));
        assert_eq!(
            xff(&["6.6.6.6", "1.2.3.4,10.0.0.2", "10.0.0.1"]),
            at("1.2.3.4")
        );
        assert_eq!(xff(&["garbage,1.2.3.4,,\t10.0.0.1 ,"]), at("1.2.3.4"));
        assert_eq!(
            forwarded(&["for=6.6.6.6, for=1.2.3.4;proto=https,For=10.0.0.1"]),
            at("1.2.3.4")
        );
        assert_eq!(
            forwarded(&["for=6.6.6.6", "by=10.0.0.1;FOR=\"1.2.3.4:80\""]),
            at("1.2.3.4")
        );
    }

    #[test]
    fn where_all_are_trusted_the_farthest_is_the_caller() {
        assert_eq!(xff(&["10.0.0.3, 10.0.0.2", "10.0.0.1"]), at("10.0.0.3"));
    }

    #[test]
    fn ports_brackets_and_quotes_are_stripped() {
        for node in [
            "1.2.3.4:80",
            "\"1.2.3.4\"",
            "::ffff:1.2.3.4",
            "[::ffff:1.2.3.4]:1",
            "1.2.3.4:_x",
        ] {
            assert_eq!(xff(&[node]), at("1.2.3.4"), "{node}");
        }
        for node in [
            "2001:db8::1",
            "[2001:db8::1]",
            "[2001:db8::1]:443",
            "\"[2001:db8::1]:443\"",
        ] {
            assert_eq!(xff(&[node]), at("2001:db8::1"), "{node}");
            assert_eq!(
                forwarded(&[&format!("for={node}")]),
                at("2001:db8::1"),
                "{node}"
            );
        }
    }

    #[test]
    fn an_element_that_is_no_address_ends_the_walk() {
        for bad in [
            "unknown",
            "_hidden",
            "1.2.3",
            "1.2.3.4:",
            "1.2.3.4:123456",
            "1.2.3.4:x",
            "[::1",
            "[::1]x",
            "[1.2.3.4]",
            "fe80::1%eth0",
            "01.2.3.4",
            "1.2.3.4;5.6.7.8",
            "\"",
            "localhost",
            "1.2.3.4 5",
        ] {
            assert_eq!(xff(&["6.6.6.6", bad, "10.0.0.1"]), Walk::Unclear, "{bad}");
            assert_eq!(
                forwarded(&[&format!("for=6.6.6.6, for={bad}, for=10.0.0.1")]),
                Walk::Unclear,
                "{bad}"
            );
        }
        for bad in [
            "proto=https",
            "for=1.2.3.4;for=1.2.3.4",
            "1.2.3.4",
            "for=\"1.2.3.4",
            "for",
        ] {
            assert_eq!(forwarded(&["for=6.6.6.6", bad]), Walk::Unclear, "{bad}");
        }
    }

    #[test]
    fn a_quoted_value_of_the_clients_cannot_pose_as_an_element() {
        assert_eq!(
            forwarded(&["for=1.2.3.4;host=\"a,for=6.6.6.6\""]),
            at("1.2.3.4")
        );
        assert_eq!(
            forwarded(&["for=1.2.3.4;host=\"a\\\",for=6.6.6.6;x=\\\"\""]),
            at("1.2.3.4")
        );
        assert_eq!(forwarded(&["for=\", for=1.2.3.4"]), at("1.2.3.4"));
        assert_eq!(forwarded(&["for=1.2.3.4;host=\"a\\\""]), Walk::Unclear);
    }

    #[test]
    fn nothing_to_walk_over_leads_nowhere() {
        assert_eq!(xff(&[]), Walk::Nowhere);
        assert_eq!(xff(&["", " , ,"]), Walk::Nowhere);
    }

    #[test]
    fn a_walk_ends_at_its_bounds() {
        let hops = |count: usize| vec!["10.0.0.1"; count].join(",");
        assert_eq!(xff(&[&hops(64)]), at("10.0.0.1"));
        assert_eq!(xff(&[&hops(65)]), Walk::Unclear);
        assert_eq!(xff(&[&",".repeat(1 << 20)]), Walk::Unclear);
        assert_eq!(xff(&[&"9".repeat(1 << 20)]), Walk::Unclear);
        assert_eq!(
            xff(&[&format!("1.2.3.4,{}", " ".repeat(MAX_BYTES))]),
            Walk::Unclear
        );
        assert_eq!(
            xff(&[&format!("{},1.2.3.4", "x".repeat(1 << 20))]),
            at("1.2.3.4")
        );
        assert_eq!(
            forwarded(&[&format!("for=1.2.3.4;host=\"{}\"", "x,".repeat(1 << 20))]),
            Walk::Unclear
        );
        assert_eq!(xff(&[""; 65]), Walk::Unclear);
    }
}
