//! Both forwarding headers, split into lines at line feeds: the answer is an address or nobody, and does not change
//! when a client puts the whole of it in front of what a proxy appends.
#![no_main]

use std::net::{IpAddr, Ipv6Addr};

use callerid::identify::{self, ForwardedHeader, Head, Identify};
use http::{HeaderValue, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for (header, name, own) in [
        (
            ForwardedHeader::XForwardedFor,
            "x-forwarded-for",
            "192.0.2.7:80, 10.0.0.1",
        ),
        (
            ForwardedHeader::Forwarded,
            "forwarded",
            "for=192.0.2.7;host=\"a,b\\\"\", for=\"10.0.0.1\"",
        ),
    ] {
        let mut request = Request::new(());
        for line in data.split(|byte| *byte == b'\n') {
            let Ok(line) = HeaderValue::from_bytes(line) else {
                return;
            };
            if request.headers_mut().try_append(name, line).is_err() {
                return;
            }
        }
        let source = identify::forwarded(["10.0.0.0/8", "2001:db8::/32"])
            .any_peer()
            .header(header);
        check(&source, &request);

        let last = data
            .rsplit(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default();
        let Ok(longer) = HeaderValue::from_bytes(&[last, b",", own.as_bytes()].concat()) else {
            return;
        };
        let mut appended = Request::new(());
        appended.headers_mut().append(name, longer);
        let head = Head::of(&appended);
        assert_eq!(source.identify(&head).unwrap().name(), "ip:192.0.2.7");
    }
});

fn check(source: &impl Identify, request: &Request<()>) {
    let head = Head::of(request);
    let found = source.identify(&head).unwrap();
    match found.name().strip_prefix("ip:") {
        None => assert_eq!(found.name(), "__unknown__"),
        Some(network) => match network.strip_suffix("/64") {
            Some(v6) => assert!(v6.parse::<Ipv6Addr>().is_ok(), "{network}"),
            None => assert!(
                network.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()),
                "{network}"
            ),
        },
    }
}
