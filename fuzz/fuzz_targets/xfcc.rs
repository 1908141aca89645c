//! `x-forwarded-client-cert`: the answer is a name or a row for none, and what a client puts in front of the
//! proxy's own element does not change it.
#![no_main]

use callerid::Provenance;
use callerid::identify::{self, Head, Identify};
use http::{HeaderValue, Request};
use libfuzzer_sys::fuzz_target;

const OWN: &str = "Hash=ab;Subject=\"O=a, b\\\"\";URI=spiffe://td/ns/shop/sa/checkout";

fuzz_target!(|data: &[u8]| {
    let full = identify::xfcc(["10.0.0.0/8"]).any_peer();
    let short = identify::xfcc(["10.0.0.0/8"]).any_peer().spiffe_path();
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let mut request = Request::new(());
    request
        .headers_mut()
        .insert("x-forwarded-client-cert", value);
    let head = Head::of(&request);
    for source in [&full, &short] {
        let found = source.identify(&head).unwrap();
        let name = found.name();
        assert!((1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()));
        let nobody = matches!(name, "__unknown__" | "__invalid__");
        assert_eq!(nobody, found.provenance() != Provenance::Verified);
        assert!(nobody || !name.contains(['"', '\\']) && !name.starts_with("__"));
    }

    let Ok(value) = HeaderValue::from_bytes(&[data, b",", OWN.as_bytes()].concat()) else {
        return;
    };
    let mut request = Request::new(());
    request
        .headers_mut()
        .insert("x-forwarded-client-cert", value);
    let head = Head::of(&request);
    assert_eq!(
        full.identify(&head).unwrap().name(),
        "td/ns/shop/sa/checkout"
    );
    assert_eq!(short.identify(&head).unwrap().name(), "checkout");
});
