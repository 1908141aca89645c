//! Under whose name a request is counted, as it shows in snapshot, labels and routes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::ConnectInfo;
use axum::routing::get;
use callerid::identify::{self, Identity};
use callerid::{Account, ApiKey, Caller, Callers, Class, InferredLabel, Provenance};
use http::{Method, Request};
use tower::{Layer, Service, ServiceExt};

use crate::support::{
    Answer, Inner, Recorded, Table, assert_balanced, drain, now, request, respond, send_many,
    send_one,
};

#[test]
fn probes_are_counted_apart_whoever_sends_them() {
    let table = Table::new();
    let mut service = table.trivial();
    for path in [
        "/healthz",
        "/livez",
        "/readyz",
        "/metrics",
        "/callerid/top.txt",
    ] {
        let mut probe = request("a");
        *probe.uri_mut() = path.parse().unwrap();
        send_one(&mut service, probe);
    }
    assert_eq!(table.ended("__exempt__"), [(Class::Ok, 5)]);
    assert!(table.callers.snapshot().caller("a").is_none());
    // Nobody asked who they are, so they are no part of those who are known and unknown.
    send_one(&mut service, request("a"));
    let mut recorded = Recorded::new();
    recorded.flush(&table.callers);
    assert_eq!(recorded.total("callerid_requests_started_total"), 6);
    assert_eq!(recorded.total("callerid_identified_total"), 1);
}

#[test]
fn requests_without_identity_are_unknown_and_have_faces() {
    let table = Table::with(|builder| {
        builder
            .identify(identify::api_key("x-api-key"))
            .identify(identify::header("x-client-id"))
    });
    let mut service = table.trivial();
    for (peer, agent, times) in [("10.0.0.1:1", "curl/8", 3), ("10.0.0.2:1", "bot/1", 1)] {
        for _ in 0..times {
            let mut nobody = Request::builder()
                .header("user-agent", agent)
                .body(String::new())
                .unwrap();
            let peer: std::net::SocketAddr = peer.parse().unwrap();
            nobody.extensions_mut().insert(ConnectInfo(peer));
            send_one(&mut service, nobody);
        }
    }
    // A stale key does not fall through to the claimed name, which is kept as a face.
    let mut stale = request("checkout");
    stale
        .headers_mut()
        .insert("x-api-key", "nobody-s".parse().unwrap());
    send_one(&mut service, stale);
    assert_eq!(table.ended("__unknown__"), [(Class::Ok, 5)]);
    let unknown = table.callers.snapshot().unknown;
    assert_eq!(unknown.peers[0], ("10.0.0.1".parse().unwrap(), 3));
    assert_eq!(unknown.agents[0], ("curl/8".to_owned(), 3));
    assert_eq!(unknown.claimed, [("checkout".to_owned(), 1)]);
    assert!(table.callers.snapshot().caller("checkout").is_none());
}

#[test]
fn faces_are_bounded_however_many_come() {
    let table = Table::new();
    let mut service = table.trivial();
    for index in 0..5_000u32 {
        let agent = if index % 4 == 0 {
            "real/1".to_owned()
        } else {
            format!("bot-{index}")
        };
        let mut nobody = Request::builder()
            .header("user-agent", agent + &"x".repeat((index % 200) as usize))
            .body(String::new())
            .unwrap();
        let peer = std::net::SocketAddr::from((index.to_be_bytes(), 1));
        nobody.extensions_mut().insert(ConnectInfo(peer));
        send_one(&mut service, nobody);
    }
    let unknown = table.callers.snapshot().unknown;
    assert_eq!((unknown.peers.len(), unknown.agents.len()), (32, 32));
    assert!(unknown.agents.iter().all(|(agent, _)| agent.len() <= 64));
}

#[test]
fn trap_07_a_missing_peer_address_never_fails_a_request() {
    let table = Table::with(|builder| builder.identify(identify::peer_addr()));
    let response = respond(&mut table.trivial(), Request::new(String::new()));
    assert_eq!(response.status(), 200);
    drain(&mut response.into_body());
    assert_eq!(table.ended("__unknown__"), [(Class::Ok, 1)]);
}

#[test]
fn a_name_that_is_none_is_invalid() {
    let table = Table::new();
    let mut service = table.trivial();
    for bad in ["", "a b", "__other__", "claimed:a", &"x".repeat(65)] {
        send_many(&mut service, bad, 1);
    }
    assert_eq!(table.ended("__invalid__"), [(Class::Ok, 5)]);
    let callers = table.callers.snapshot().callers;
    assert_eq!(callers.len(), 1, "{callers:?}");
}

const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

#[test]
fn trap_17_an_api_key_names_its_account_and_shows_nowhere() {
    let table = Table::with(|builder| {
        builder
            .identify(identify::api_key("x-api-key"))
            .caller(Account::new("checkout").api_key(ApiKey::sha256("k1", HASH)))
    });
    let mut recorded = Recorded::new();
    for key in ["test", "not-a-key-of-anybody"] {
        let mut request = Request::new(String::new());
        request
            .headers_mut()
            .insert("x-api-key", key.parse().unwrap());
        table.send(request, |_| Answer::status(500));
    }
    recorded.flush(&table.callers);
    assert_eq!(table.ended("checkout"), [(Class::ServerError, 1)]);
    assert_eq!(table.ended("__unknown__"), [(Class::ServerError, 1)]);
    let identified = |source, provenance| {
        let labels = [("source", source), ("provenance", provenance)];
        recorded.counter("callerid_identified_total", &labels)
    };
    assert_eq!(identified("api_key", "verified"), Some(1));
    assert_eq!(identified("api_key_unknown", "unknown"), Some(1));
    let used = [("caller", "checkout"), ("key_id", "k1")];
    let gauge = recorded.gauge("callerid_api_key_last_used_timestamp_seconds", &used);
    assert_eq!(gauge, Some(crate::support::START.as_secs() as f64));
    let shown = format!(
        "{:?} {:?} {:?}",
        recorded.kinds.keys(),
        table.callers.snapshot(),
        table.callers
    );
    for secret in ["not-a-key", &HASH[..12], "\"test\""] {
        assert!(!shown.contains(secret), "{secret} is shown");
    }
}

#[test]
fn a_claim_of_a_roster_name_is_shown_as_a_claim_and_counted() {
    let table = Table::with(|builder| {
        builder
            .identify(identify::from_fn(|head| {
                head.headers()
                    .get("x-mtls")?
                    .to_str()
                    .ok()
                    .map(Identity::verified)
            }))
            .identify(identify::header("x-client-id"))
            .caller(Account::new("checkout").owner("Payments"))
            .caller(Account::new("batch").accept_claimed())
    });
    let mut recorded = Recorded::new();
    let mut service = table.trivial();
    send_many(&mut service, "checkout", 100);
    send_many(&mut service, "batch", 3);
    let mut proven = Request::new(String::new());
    proven
        .headers_mut()
        .insert("x-mtls", "checkout".parse().unwrap());
    send_one(&mut service, proven);
    assert_eq!(table.ended("claimed:checkout"), [(Class::Ok, 100)]);
    assert_eq!(table.ended("checkout"), [(Class::Ok, 1)]);
    assert_eq!(table.ended("batch"), [(Class::Ok, 3)]);
    assert_eq!(table.caller("claimed:checkout").owner, None);
    assert_eq!(table.caller("checkout").owner.as_deref(), Some("Payments"));
    assert_eq!(table.callers.snapshot().impersonations, 100);
    recorded.flush(&table.callers);
    assert_eq!(recorded.total("callerid_impersonations_total"), 100);
    let started = |name| recorded.counter("callerid_requests_started_total", &[("caller", name)]);
    assert_eq!(
        (started("claimed:checkout"), started("checkout")),
        (Some(100), Some(1))
    );
}

/// `x-client-id` names a caller as claimed, `x-mtls` as proven.
fn both_ways() -> Table {
    Table::with(|builder| {
        builder
            .identify(identify::header("x-mtls").verified())
            .identify(identify::header("x-client-id"))
    })
}

fn proven(name: &str) -> Request<String> {
    Request::builder()
        .header("x-mtls", name)
        .body(String::new())
        .unwrap()
}

#[test]
fn a_claimed_and_a_proven_caller_of_one_name_are_two_with_two_labels() {
    let table = both_ways();
    let mut service = table.trivial();
    for _ in 0..5 {
        send_one(&mut service, proven("a"));
    }
    send_many(&mut service, "a", 2);
    let callers = table.callers.snapshot().callers;
    let mut found: Vec<_> = callers
        .iter()
        .map(|caller| {
            (
                caller.label.as_deref(),
                caller.provenance,
                caller.counts.started,
            )
        })
        .collect();
    found.sort();
    assert_eq!(
        found,
        [
            (Some("a"), Provenance::Verified, 5),
            (Some("claimed:a"), Provenance::Claimed, 2)
        ]
    );
}

#[test]
fn a_claim_that_came_first_leaves_the_label_to_the_proven_caller_and_nothing_is_lost() {
    let table = both_ways();
    let mut recorded = Recorded::new();
    let mut service = table.trivial();
    send_many(&mut service, "a", 2);
    recorded.flush(&table.callers);
    send_one(&mut service, proven("a"));
    send_many(&mut service, "a", 4);
    let snapshot = table.callers.snapshot();
    let labels: Vec<_> = snapshot
        .callers
        .iter()
        .map(|caller| caller.label.clone().unwrap())
        .collect();
    assert_eq!(labels.len(), 2, "{labels:?}");
    assert!(
        labels.contains(&"a".into()) && labels.contains(&"claimed:a".into()),
        "{labels:?}"
    );
    let sum: u64 = snapshot
        .callers
        .iter()
        .map(|caller| caller.counts.started)
        .sum();
    assert_eq!(sum + snapshot.forgotten.started, 7, "{snapshot:?}");
    recorded.flush(&table.callers);
    assert_eq!(recorded.total("callerid_requests_started_total"), 7);
}

fn inferred(label: InferredLabel, key: &str) -> (Option<String>, String, u64) {
    let table = Table::with(|builder| {
        builder
            .identify(identify::user_agent())
            .inferred(label)
            .inferred_key(key)
    });
    let request = Request::builder()
        .header("user-agent", "curl/8")
        .body(String::new())
        .unwrap();
    table.send(request, |_| Answer::status(200));
    let caller = table.caller("ua:curl");
    assert_eq!(caller.provenance, Provenance::Inferred);
    let others = table
        .callers
        .snapshot()
        .caller("__other__")
        .map_or(0, |other| other.counts.started);
    (caller.label, caller.name, others)
}

#[test]
fn inferred_callers_are_labelled_by_a_keyed_hash_or_as_they_are_or_not_at_all() {
    let (hash, name, _) = inferred(InferredLabel::Hash, "k1");
    let hash = hash.unwrap();
    assert!(
        hash.starts_with("ua:") && hash.len() == 11 && !hash.contains("curl"),
        "{hash}"
    );
    assert_eq!(name, "ua:curl", "the snapshot shows it");
    assert_eq!(
        inferred(InferredLabel::Hash, "k1").0.as_deref(),
        Some(&*hash)
    );
    assert_ne!(
        inferred(InferredLabel::Hash, "k2").0.as_deref(),
        Some(&*hash)
    );
    assert_eq!(
        inferred(InferredLabel::Export, "k1").0.as_deref(),
        Some("ua:curl")
    );
    let (hidden, _, others) = inferred(InferredLabel::Hide, "k1");
    assert_eq!((hidden, others), (None, 1));
}

#[test]
fn trap_27_a_layer_applied_twice_counts_once() {
    let table = Table::new();
    let layer = table.callers.layer();
    // Cloned, made twice, and nested: all of them share one table.
    let inner = layer.clone().layer(Inner::new(|_| Answer::status(200)));
    let mut service = table.callers.layer().layer(layer.layer(inner));
    drain(&mut now(service.call(request("a"))).unwrap().into_body());
    assert_eq!(table.ended("a"), [(Class::Ok, 1)]);
    assert_eq!(table.caller("a").counts.started, 1);
}

#[test]
fn two_tables_count_the_same_request_each_for_itself() {
    let (outside, inside) = (Table::new(), Table::new());
    let inner = inside
        .callers
        .layer()
        .layer(Inner::new(|_| Answer::status(200)));
    let mut service = outside.callers.layer().layer(inner);
    drain(&mut now(service.call(request("a"))).unwrap().into_body());
    assert_eq!(outside.ended("a"), [(Class::Ok, 1)]);
    assert_eq!(inside.ended("a"), [(Class::Ok, 1)]);
}

fn axum_send(app: &axum::Router, method: &str, path: &str, name: &str) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("x-client-id", name)
        .header("host", "example")
        .body(axum::body::Body::empty())
        .unwrap();
    let response = now(app.clone().oneshot(request)).unwrap();
    let mut body = response.into_body();
    while let Some(Ok(_)) = crate::support::frame(&mut body) {}
}

#[test]
fn trap_27_on_a_router_and_on_a_nested_one_it_counts_once() {
    let table = Table::new();
    let nested = axum::Router::new()
        .route(
            "/prices/{sku}",
            get(|caller: Caller| async move { caller.name().to_owned() }),
        )
        .layer(table.callers.layer());
    let app = axum::Router::new()
        .nest("/v1", nested)
        .layer(table.callers.layer());
    axum_send(&app, "GET", "/v1/prices/7", "a");
    assert_eq!(table.ended("a"), [(Class::Ok, 1)]);
    assert_eq!(table.caller("a").response_bytes, 1);
}

#[test]
fn trap_03_a_route_is_the_matched_template_or_unmatched_and_never_a_raw_path() {
    let table = Table::new();
    let app = axum::Router::new()
        .route("/v1/prices/{sku}", get(|| async { "1" }))
        .layer(table.callers.layer());
    for index in 0..50 {
        axum_send(&app, "GET", &format!("/v1/prices/{index}"), "a");
        axum_send(&app, "GET", &format!("/no/such/path/{index}"), "a");
    }
    // Outside of the router the matched path cannot be seen.
    let plain = axum::Router::new().route("/v1/prices/{sku}", get(|| async { "1" }));
    let outside = table.callers.layer().layer(plain);
    let request = Request::builder()
        .uri("/v1/prices/7")
        .header("x-client-id", "a")
        .body(axum::body::Body::empty())
        .unwrap();
    let mut body = now(outside.oneshot(request)).unwrap().into_body();
    while let Some(Ok(_)) = crate::support::frame(&mut body) {}

    let mut routes: Vec<_> = table
        .caller("a")
        .routes
        .into_iter()
        .map(|route| (route.route, route.by_class.total()))
        .collect();
    routes.sort();
    assert_eq!(
        routes,
        [
            ("GET /v1/prices/{sku}".to_owned(), 50),
            ("unmatched".to_owned(), 51)
        ]
    );
}

#[test]
fn trap_03_grpc_methods_that_the_service_has_not_are_unmatched() {
    let table = Table::new();
    let mut service = table.layered(|request| {
        let code = if request.uri().path() == "/shop.Orders/Place" {
            "0"
        } else {
            "12"
        };
        let response = http::Response::builder().header("grpc-status", code);
        Answer::Respond(response.body(crate::support::Script::default()).unwrap())
    });
    let mut call = |path: &str| {
        let mut grpc = request("a");
        *grpc.method_mut() = Method::POST;
        *grpc.uri_mut() = path.parse().unwrap();
        let kind = "application/grpc".parse().unwrap();
        grpc.headers_mut().insert("content-type", kind);
        send_one(&mut service, grpc);
    };
    for index in 0..100 {
        call(&format!("/shop.Orders/Invented{index}"));
    }
    call("/shop.Orders/Place");
    call("/shop.Orders/Place");
    let routes = table.caller("a").routes;
    let found: Vec<_> = routes
        .iter()
        .map(|route| (route.route.as_str(), route.by_class.total()))
        .collect();
    assert_eq!(found, [("unmatched", 100), ("POST /shop.Orders/Place", 2)]);
    assert_balanced("a", &table.caller("a").counts);
}

#[test]
fn trap_02_hosts_paths_and_invented_methods_make_no_series() {
    let table = Table::new();
    let mut recorded = Recorded::new();
    let app = axum::Router::new()
        .route("/v1/prices/{sku}", axum::routing::any(|| async { "1" }))
        .layer(table.callers.layer());
    axum_send(&app, "GET", "/v1/prices/1", "a");
    axum_send(&app, "BREW", "/v1/prices/1", "a");
    axum_send(&app, "BREW", "/nowhere", "a");
    recorded.flush(&table.callers);
    let before = recorded.series_by_metric();
    for index in 0..1_000 {
        let request = Request::builder()
            .method(Method::from_bytes(format!("M{index}").as_bytes()).unwrap())
            .uri(format!("/v1/prices/{index}"))
            .header("host", format!("host-{}.example", index % 500))
            .header("x-client-id", "a")
            .body(axum::body::Body::empty())
            .unwrap();
        let mut body = now(app.clone().oneshot(request)).unwrap().into_body();
        while let Some(Ok(_)) = crate::support::frame(&mut body) {}
        if index < 50 {
            axum_send(&app, "GET", &format!("/bad/{index}"), "a");
        }
    }
    recorded.flush(&table.callers);
    assert_eq!(recorded.series_by_metric(), before);
    assert_eq!(recorded.total("callerid_route_requests_total"), 1_053);
    let routes = recorded.values("callerid_route_requests_total", "route");
    let expected = [
        "GET /v1/prices/{sku}",
        "_OTHER /v1/prices/{sku}",
        "unmatched",
    ];
    assert_eq!(routes, expected);
}

#[test]
fn a_closure_that_panics_fails_no_request_and_asks_no_weaker_source() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let table = Table::with(|builder| {
        builder
            .identify(identify::from_fn(move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
                panic!("a bug in the closure that identifies")
            }))
            .identify(identify::header("x-client-id"))
    });
    let response = respond(&mut table.trivial(), request("a"));
    assert_eq!(response.status(), 200);
    drain(&mut response.into_body());
    assert!(asked.load(Ordering::Relaxed) > 0);
    assert_eq!(table.ended("__unknown__"), [(Class::Ok, 1)]);
    assert!(
        table.callers.snapshot().caller("a").is_none(),
        "a broken source is not a silent one"
    );
}

#[test]
fn a_route_or_peer_closure_that_panics_fails_no_request() {
    let table = Table::with(|builder| {
        builder
            .identify(identify::header("x-client-id"))
            .route(|_| panic!("a bug in the closure that names routes"))
            .peer(|_| panic!("a bug in the closure that finds the peer"))
    });
    let mut service = table.trivial();
    send_many(&mut service, "a", 1);
    send_one(&mut service, Request::new(String::new()));
    assert_eq!(table.ended("a"), [(Class::Ok, 1)]);
    assert_eq!(table.caller("a").routes[0].route, "unmatched");
    assert_eq!(table.ended("__unknown__"), [(Class::Ok, 1)]);
}

#[test]
fn a_table_without_a_source_does_not_build_and_says_what_to_add() {
    let error = Callers::builder().manual_tick().build().unwrap_err();
    assert!(error.to_string().contains(".identify("), "{error}");
}

#[test]
fn every_source_is_counted_under_its_own_label() {
    use callerid::Source;
    let source = |head: &identify::Head<'_>| {
        let word = head.headers().get("x-source")?.to_str().ok()?;
        Source::ALL
            .into_iter()
            .find(|source| source.as_str() == word)
    };
    let table = Table::with(|builder| {
        builder.identify(identify::from_fn(move |head| {
            let named = Identity::verified("a");
            match source(head)? {
                Source::None => None,
                Source::Invalid => Some(Identity::invalid()),
                source => Some(named.from_source(source)),
            }
        }))
    });
    let mut service = table.trivial();
    let named = [
        "header",
        "api_key",
        "api_key_unknown",
        "extension",
        "xfcc",
        "certificate",
        "forwarded",
        "peer",
        "user_agent",
        "custom",
        "late",
    ];
    let unnamed = ["none", "invalid"];
    for (times, word) in named.iter().chain(&unnamed).enumerate() {
        for _ in 0..=times {
            let request = Request::builder().header("x-source", *word);
            send_one(&mut service, request.body(String::new()).unwrap());
        }
    }
    let mut recorded = Recorded::new();
    recorded.flush(&table.callers);
    for (times, word) in named.iter().chain(&unnamed).enumerate() {
        let provenance = if named.contains(word) {
            "verified"
        } else {
            "unknown"
        };
        let labels = [("source", *word), ("provenance", provenance)];
        let counted = recorded.counter("callerid_identified_total", &labels);
        assert_eq!(counted, Some(times as u64 + 1), "{word}");
    }
    assert_eq!(named.len() + unnamed.len(), Source::ALL.len());
}

#[test]
fn the_key_of_inferred_labels_is_shown_nowhere() {
    let key = b"key!";
    let callers = Callers::builder()
        .identify(identify::header("x-client-id"))
        .inferred_key(*key)
        .build()
        .unwrap();
    let shown = format!("{callers:?} {:?}", callers.layer());
    assert!(!shown.contains(&format!("{key:?}")), "{shown}");
}
