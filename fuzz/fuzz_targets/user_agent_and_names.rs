//! `User-Agent`, names and baggage: valid or nothing, and what is propagated reads back the same.
#![no_main]

use callerid::caller::valid_name;
use callerid::identify::{self, Head, Identify};
use callerid::middleware::propagate::origin;
use http::{HeaderValue, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let name = valid_name(data);
    if let Some(name) = name {
        assert!((1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(
            ["__", "claimed:", "ip:", "ua:"]
                .iter()
                .all(|ours| !name.starts_with(ours))
        );
        assert_eq!(valid_name(name.as_bytes()), Some(name));
    }

    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let mut request = Request::new(());
    for header in [
        "user-agent",
        "x-client-id",
        "x-api-key",
        "authorization",
        "baggage",
    ] {
        request.headers_mut().insert(header, value.clone());
    }
    let head = Head::of(&request);
    let agent = identify::user_agent().identify(&head).unwrap();
    match agent.name().strip_prefix("ua:") {
        None => assert_eq!(agent.name(), "__invalid__"),
        Some(product) => {
            assert!(data.len() >= product.len());
            assert!(data[..product.len()].eq_ignore_ascii_case(product.as_bytes()));
            assert!(!product.is_empty() && !product.contains(['/', ' ', '(', '"', ',']));
        }
    }
    let claimed = identify::header("x-client-id").identify(&head).unwrap();
    assert_eq!(claimed.name(), name.unwrap_or("__invalid__"));
    for key in ["x-api-key", "authorization"] {
        let found = identify::api_key(key).identify(&head);
        assert!(found.is_none_or(|found| found.name() == "__unknown__"));
    }
    if let Some(origin) = origin(request.headers()) {
        let name = origin.name();
        assert!((1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()));
    }
});
