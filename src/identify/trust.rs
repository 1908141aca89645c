//! Which peers are proxies of ours, and how an address becomes a name.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use ipnet::{IpNet, Ipv4Net};

use super::Identity;
use crate::caller::{MAX_NAME, Provenance, Source};

/// Networks that an operator listed, and what is wrong with the list.
#[derive(Clone, Debug, Default)]
pub(super) struct Networks {
    listed: Vec<IpNet>,
    problems: Vec<String>,
}

impl Networks {
    pub(super) fn new(networks: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut known = Self::default();
        for network in networks {
            let text = network.as_ref();
            match parse(text) {
                None => known.problems.push(format!(
                    "{text:?} is not a network; use CIDR notation such as \"10.0.0.0/8\""
                )),
                Some(all) if all.prefix_len() == 0 => known.problems.push(format!(
                    "{text:?} would trust everybody, so that any client can name itself; list the proxies' own networks"
                )),
                Some(network) => known.listed.push(network),
            }
        }
        known
    }

    /// Whether `ip`, in canonical form, is in one of the networks.
    pub(super) fn contain(&self, ip: IpAddr) -> bool {
        self.listed.iter().any(|network| network.contains(&ip))
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = String> + '_ {
        self.problems.iter().cloned()
    }
}

/// A network, or an address as the network of itself. IPv4 in IPv6 is IPv4, as it is for peers.
fn parse(text: &str) -> Option<IpNet> {
    let text = text.trim();
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => IpNet::from(text.parse::<IpAddr>().ok()?),
    };
    let IpNet::V6(v6) = network else {
        return Some(network);
    };
    let mapped = v6.addr().to_ipv4_mapped();
    match (mapped, v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(prefix)) => Ipv4Net::new(v4, prefix).ok().map(IpNet::V4),
        _ => Some(network),
    }
}

/// How much of an IPv6 address is one client: a household or a host has a whole /64 to choose from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ipv6Prefix(u8);

impl Default for Ipv6Prefix {
    fn default() -> Self {
        Self(64)
    }
}

impl Ipv6Prefix {
    pub(super) fn new(bits: u8) -> Self {
        Self(bits)
    }

    pub(super) fn problem(self) -> Option<String> {
        (!(1..=128).contains(&self.0)).then(|| {
            let Self(bits) = self;
            format!("ipv6_prefix({bits}) is not a prefix length; use 1 to 128")
        })
    }

    fn cut(self, ip: Ipv6Addr) -> Ipv6Addr {
        let below = 128_u32.saturating_sub(self.0.into());
        let kept = u128::MAX.checked_shl(below).unwrap_or(0);
        Ipv6Addr::from_bits(ip.to_bits() & kept)
    }

    /// `ip:10.1.2.3`, `ip:2001:db8:1:2::/64`.
    pub(super) fn name<'h>(self, ip: IpAddr, source: Source) -> Identity<'h> {
        let mut text = Text::default();
        let written = match ip.to_canonical() {
            IpAddr::V4(v4) => text.write_v4(v4),
            IpAddr::V6(v6) if self.0 >= 128 => write!(text, "{v6}"),
            IpAddr::V6(v6) => write!(text, "{}/{}", self.cut(v6), self.0),
        };
        match written {
            Ok(()) => Identity::inline(&["ip:", text.as_str()], Provenance::Inferred, source),
            Err(fmt::Error) => Identity::invalid(),
        }
    }
}

/// A text in place, as long as a name at most.
struct Text {
    bytes: [u8; MAX_NAME],
    len: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self {
            bytes: [0; MAX_NAME],
            len: 0,
        }
    }
}

impl Text {
    fn as_str(&self) -> &str {
        let written = self.bytes.get(..self.len).unwrap_or_default();
        std::str::from_utf8(written).unwrap_or_default()
    }

    /// What `Display` writes, in a fraction of its time: this one is on the way of every request.
    fn write_v4(&mut self, ip: Ipv4Addr) -> fmt::Result {
        for (index, octet) in ip.octets().into_iter().enumerate() {
            if index > 0 {
                self.write_char('.')?;
            }
            for (from, unit) in [(100, 100), (10, 10), (0, 1)] {
                if octet >= from {
                    self.write_char(char::from(b'0' + octet / unit % 10))?;
                }
            }
        }
        Ok(())
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Whether some proxy has touched the request: who sends `Forwarded`, `X-Forwarded-For` or `X-Envoy-*` speaks
/// for others.
pub(super) fn speaks_for_others(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str();
        let may_be = name.starts_with('x') || name.starts_with('f');
        may_be && (name == "x-forwarded-for" || name == "forwarded" || name.starts_with("x-envoy-"))
    })
}

/// A request of a proxy that nobody has declared: a proxy is not a caller, so nobody is. Says once per source
/// which network to trust.
pub(super) fn undeclared_proxy<'h>(warned: &Once, peer: IpAddr, source: Source) -> Identity<'h> {
    if warned.first() {
        let bits = if peer.is_ipv4() { 32 } else { 128 };
        tracing::warn!(
            "{peer} sends forwarding headers and is not trusted: its requests are counted as `__unknown__`, since a proxy is not a caller; \
             if it is a proxy of yours, trust it: `identify::forwarded([\"{peer}/{bits}\"])`"
        );
    }
    Identity::unknown().from_source(source)
}

/// Something to be said once.
#[derive(Debug, Default)]
pub(super) struct Once(AtomicBool);

impl Once {
    pub(super) fn first(&self) -> bool {
        // The load spares threads a write to a line that they share.
        !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(ip: &str, bits: u8) -> String {
        let identity = Ipv6Prefix::new(bits).name(ip.parse().unwrap(), Source::Peer);
        identity.name().to_owned()
    }

    #[test]
    fn an_address_is_a_name_and_ipv6_is_cut_to_its_network() {
        for ip in [
            "0.0.0.0",
            "10.1.2.3",
            "192.168.100.99",
            "255.255.255.255",
            "1.20.200.10",
        ] {
            assert_eq!(name(ip, 64), format!("ip:{ip}"));
        }
        assert_eq!(name("2001:db8:1:2:3:4:5:6", 64), "ip:2001:db8:1:2::/64");
        assert_eq!(name("2001:db8:1:2:3:4:5:6", 56), "ip:2001:db8:1::/56");
        assert_eq!(name("2001:db8::1", 128), "ip:2001:db8::1");
        assert_eq!(name("::ffff:10.1.2.3", 64), "ip:10.1.2.3");
    }

    #[test]
    fn a_prefix_that_is_none_is_a_problem_and_never_a_panic() {
        assert!(Ipv6Prefix::new(0).problem().is_some());
        assert!(Ipv6Prefix::new(129).problem().is_some());
        assert!(Ipv6Prefix::default().problem().is_none());
        assert_eq!(name("2001:db8::1", 0), "ip:::/0");
        assert_eq!(name("2001:db8::1", 255), "ip:2001:db8::1");
    }

    #[test]
    fn networks_contain_addresses_in_either_notation() {
        let networks = Networks::new([
            "10.1.2.3/8",
            "192.0.2.7",
            "2001:db8::/32",
            "::ffff:172.16.0.0/108",
        ]);
        assert_eq!(networks.problems().count(), 0);
        for (ip, inside) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::1", false),
            ("172.31.0.1", true),
            ("172.32.0.1", false),
        ] {
            assert_eq!(networks.contain(ip.parse().unwrap()), inside, "{ip}");
        }
    }

    #[test]
    fn a_network_that_is_none_or_everything_is_a_problem() {
        let networks = Networks::new([
            "10.0.0.0/33",
            "lb.internal",
            "0.0.0.0/0",
            "::/0",
            "::ffff:0:0/96",
        ]);
        let problems: Vec<_> = networks.problems().collect();
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert!(problems[1].starts_with("\"lb.internal\" is not a network"));
        assert!(problems[2].contains("would trust everybody"));
    }

    #[test]
    fn forwarding_headers_tell_a_proxy() {
        use crate::identify::testing::request;
        for proxy in ["Forwarded", "X-Forwarded-For", "X-Envoy-Attempt-Count"] {
            assert!(
                speaks_for_others(request(&[("accept", b"*"), (proxy, b"x")]).headers()),
                "{proxy}"
            );
        }
        for client in ["x-client-id", "x-envoy", "from", "forwarded-for"] {
            assert!(
                !speaks_for_others(request(&[(client, b"x")]).headers()),
                "{client}"
            );
        }
    }
}
