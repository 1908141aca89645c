//! What a refused caller is told.

use bytes::Bytes;
use callerid::{Account, Policy, Quota, RateLimitHeaders, Reason};
use http::{Request, Response, Version};
use sfv::{BareItem, List, ListEntry, Parser};

use crate::support::{Answer, Rig, claimed, from, header, text};

fn refused(rig: &Rig) -> Answer {
    let answer = (0..1_000)
        .map(|_| rig.send(from("a")))
        .find(|answer| answer.status() != 200);
    answer.unwrap()
}

/// The name and the integer parameters of a list of one string.
fn parse(value: &str) -> (String, Vec<(String, i64)>) {
    let list: List = Parser::new(value).parse().unwrap();
    let [ListEntry::Item(item)] = &list[..] else {
        panic!("not one item: {value}")
    };
    let BareItem::String(name) = &item.bare_item else {
        panic!("not a string: {value}")
    };
    let integer = |value: &BareItem| match value {
        BareItem::Integer(integer) => Some(i64::from(*integer)),
        _ => None,
    };
    let params = item
        .params
        .iter()
        .filter_map(|(key, value)| Some((key.to_string(), integer(value)?)));
    (name.to_string(), params.collect())
}

#[test]
fn a_refusal_says_what_why_and_when() {
    let rig = Rig::new(|builder| builder.quota(Quota::per_minute(100).burst(100)));
    let answer = refused(&rig);
    assert_eq!(answer.status(), 429);
    assert_eq!(
        header(&answer, "content-type"),
        Some("application/problem+json")
    );
    assert_eq!(header(&answer, "x-envoy-ratelimited"), Some("true"));
    let after: i64 = header(&answer, "retry-after").unwrap().parse().unwrap();
    assert!(after >= 1);
    let (name, params) = parse(header(&answer, "ratelimit-policy").unwrap());
    assert_eq!(
        (name.as_str(), params),
        ("quota", vec![("q".into(), 100), ("w".into(), 60)])
    );
    let (name, params) = parse(header(&answer, "ratelimit").unwrap());
    assert_eq!(
        (name.as_str(), params),
        ("quota", vec![("r".into(), 0), ("t".into(), after)])
    );
    let length = http_body::Body::size_hint(answer.body()).exact();
    let body = text(answer);
    assert_eq!(length, Some(body.len() as u64));
    for part in [
        r#""type":"https://iana.org/assignments/http-problem-types#quota-exceeded""#,
        r#""status":429"#,
        r#""violated-policies":["quota"]"#,
        r#""detail":"the quota of 100/min, burst 100 is spent""#,
        r#""caller":"a""#,
    ] {
        assert!(body.contains(part), "{part} {body}");
    }
}

#[test]
fn who_asks_for_more_than_is_left_is_told_what_is_left() {
    let rig = Rig::new(|builder| builder.quota(Quota::per_hour(10).burst(10)).cost(|_| 4));
    assert_eq!(rig.burst("a", 2), 2);
    let answer = rig.send(from("a"));
    let (_, params) = parse(header(&answer, "ratelimit").unwrap());
    assert_eq!(params[0], ("r".into(), 2));
}

#[test]
fn in_flight_is_told_in_concurrent_requests() {
    let rig = Rig::new(|builder| builder.max_in_flight(1));
    let _held = rig.send(from("a"));
    let answer = refused(&rig);
    let (name, params) = parse(header(&answer, "ratelimit-policy").unwrap());
    assert_eq!(
        (name.as_str(), params),
        ("in-flight", vec![("q".into(), 1)])
    );
    assert!(
        header(&answer, "ratelimit-policy")
            .unwrap()
            .ends_with(";qu=\"concurrent-requests\"")
    );
    assert_eq!(parse(header(&answer, "ratelimit").unwrap()).0, "in-flight");
}

#[test]
fn a_name_that_is_only_claimed_is_not_echoed() {
    let rig = Rig::new(|builder| builder.quota(Quota::per_second(1)));
    rig.ask(claimed("shy"));
    let (status, body) = rig.ask(claimed("shy"));
    assert_eq!(status, 429);
    assert!(!body.contains("shy"), "{body}");
}

#[test]
fn a_name_with_quotes_breaks_no_json() {
    let rig = Rig::new(|builder| builder.quota(Quota::per_second(1)));
    rig.get("a\"b\\c");
    let (_, body) = rig.ask(from("a\"b\\c"));
    assert!(body.ends_with(r#","caller":"a\"b\\c"}"#), "{body}");
}

#[test]
fn trap_16_retry_after_is_never_zero_spreads_and_grows() {
    let rig = Rig::new(|builder| builder.quota(Quota::per_second(1_000).burst(1)));
    let after = || -> u64 {
        header(&refused(&rig), "retry-after")
            .unwrap()
            .parse()
            .unwrap()
    };
    let mut first: Vec<u64> = (0..200).map(|_| after()).collect();
    first.sort_unstable();
    first.dedup();
    assert_eq!(
        first,
        [2, 3, 4],
        "a millisecond is rounded up to one second, jitter goes up, and whole seconds differ"
    );
    let mut last = 0;
    for _ in 0..400 {
        rig.clock.advance(std::time::Duration::from_millis(100));
        rig.send(from("a"));
        last = after();
    }
    assert!((20..=31).contains(&last), "{last}");
}

#[test]
fn who_keeps_ignoring_it_loses_the_connection_on_http_1() {
    let rig = Rig::new(|builder| builder.quota(Quota::per_hour(1)));
    let ask = |version| {
        let mut request = from("a");
        *request.version_mut() = version;
        rig.send(request)
    };
    ask(Version::HTTP_11);
    assert_eq!(header(&ask(Version::HTTP_11), "connection"), None);
    for _ in 0..20 {
        rig.clock.advance(std::time::Duration::from_secs(1));
        ask(Version::HTTP_11);
    }
    assert_eq!(header(&ask(Version::HTTP_11), "connection"), Some("close"));
    assert_eq!(header(&ask(Version::HTTP_2), "connection"), None);
}

#[test]
fn nobody_loses_a_connection_for_others_who_share_a_bucket() {
    let rig = Rig::new(|builder| {
        let policy = Policy::new().quota(Quota::per_hour(1));
        builder.provenance(callerid::Provenance::Unknown, policy)
    });
    let ask = || rig.send(Request::get("/").body(String::new()).unwrap());
    ask();
    for _ in 0..40 {
        rig.clock.advance(std::time::Duration::from_secs(1));
        assert_eq!(
            (ask().status().as_u16(), header(&ask(), "connection")),
            (429, None)
        );
    }
}

#[test]
fn head_gets_the_fields_and_no_body() {
    let rig = Rig::new(|builder| builder.quota(Quota::per_second(1)));
    rig.get("a");
    let head = || {
        Request::head("/")
            .header("x-client-id", "a")
            .body(String::new())
            .unwrap()
    };
    let answer = rig.send(head());
    assert_eq!(answer.status(), 429);
    assert!(
        header(&answer, "content-length")
            .unwrap()
            .parse::<usize>()
            .unwrap()
            > 0
    );
    assert!(http_body::Body::is_end_stream(answer.body()));
    assert_eq!(text(answer), "");
}

fn call() -> Request<String> {
    let request = Request::post("/pkg.Svc/Method")
        .header("x-client-id", "a")
        .header("content-type", "application/grpc+proto");
    request.body(String::new()).unwrap()
}

#[test]
fn grpc_gets_status_8_in_the_headers_of_a_200() {
    let rig = Rig::new(|builder| builder.quota(Quota::per_second(1)));
    rig.send(call());
    let answer = rig.send(call());
    assert_eq!(answer.status(), 200);
    assert_eq!(
        header(&answer, "content-type"),
        Some("application/grpc+proto")
    );
    assert_eq!(header(&answer, "grpc-status"), Some("8"));
    assert_eq!(
        header(&answer, "grpc-message"),
        Some("the quota of 1/s, burst 1 is spent")
    );
    let pushback: u64 = header(&answer, "grpc-retry-pushback-ms")
        .unwrap()
        .parse()
        .unwrap();
    assert!((1_000..=4_000).contains(&pushback), "{pushback}");
    assert_eq!(header(&answer, "retry-after"), None);
    assert_eq!(rig.counts("a").refused[Reason::Quota], 1);
}

#[test]
fn a_blocked_call_gets_status_7_and_no_pushback() {
    let rig = Rig::new(|builder| builder.caller(Account::new("a").policy(Policy::new().block())));
    let answer = rig.send(call());
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "grpc-status")),
        (200, Some("7"))
    );
    assert_eq!(header(&answer, "grpc-retry-pushback-ms"), None);
}

#[test]
fn a_closure_replaces_the_answer_and_a_panic_in_it_does_not() {
    let rig = Rig::new(|builder| {
        builder.quota(Quota::per_second(1)).refusal(|refusal| {
            assert!(refusal.caller().name() != "broken", "a closure that panics");
            let mut response = Response::new(Bytes::from(format!(
                "{} {}",
                refusal.caller(),
                refusal.reason()
            )));
            *response.status_mut() = http::StatusCode::IM_A_TEAPOT;
            response
        })
    });
    rig.get("a");
    assert_eq!(rig.ask(from("a")), (418, "a quota".into()));
    rig.get("broken");
    assert_eq!(rig.get("broken"), 429);
}

#[test]
fn fields_that_are_switched_off_are_not_sent() {
    let rig = Rig::new(|builder| {
        builder
            .quota(Quota::per_second(1))
            .rate_limit_headers(RateLimitHeaders::Off)
            .envoy_ratelimited(false)
            .response_header("x-caller")
    });
    let answer = refused(&rig);
    for name in ["ratelimit", "ratelimit-policy", "x-envoy-ratelimited"] {
        assert_eq!(header(&answer, name), None, "{name}");
    }
    assert_eq!(header(&answer, "x-caller"), Some("a"));
}

#[test]
fn trap_28_a_refusal_does_not_call_the_service() {
    let rig = Rig::new(|builder| builder.quota(Quota::per_second(1)));
    for number in 0..100 {
        assert_eq!(rig.send(from("a")).status() == 200, number == 0);
    }
    assert_eq!(rig.reached.load(std::sync::atomic::Ordering::Relaxed), 1);
}
