//! Every door through which a request leaves, once, with the right class.

use std::time::Duration;

use callerid::{Class, ErrorDetail};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use tower::Service;

use crate::support::{
    Answer, Broken, Script, Step, Table, assert_balanced, drain, frame, headers, now, panics,
    poll_once, request, respond, send_one,
};

fn in_flight(table: &Table) -> u64 {
    let counts = table.caller("a").counts;
    assert_balanced("a", &counts);
    counts.in_flight
}

#[test]
fn a_body_that_ends_is_ok() {
    let table = Table::new();
    let mut service = table.layered(|_| Answer::ok([Step::Data("x"), Step::Data("y")]));
    let response = respond(&mut service, request("a"));
    let mut body = response.into_body();
    assert!(frame(&mut body).is_some() && frame(&mut body).is_some());
    assert_eq!(
        in_flight(&table),
        1,
        "the last frame of an unknown length is not the end"
    );
    assert!(frame(&mut body).is_none());
    assert_eq!(table.ended("a"), [(Class::Ok, 1)]);
    drop(body);
    assert_eq!(table.ended("a"), [(Class::Ok, 1)]);
}

#[test]
fn trailers_end_the_request() {
    let table = Table::new();
    let mut service = table.layered(|_| {
        Answer::ok([
            Step::Data("x"),
            Step::Trailers(headers([("x-checksum", "1")])),
        ])
    });
    let mut body = respond(&mut service, request("a")).into_body();
    frame(&mut body).unwrap().unwrap();
    assert_eq!(in_flight(&table), 1);
    assert!(frame(&mut body).unwrap().unwrap().is_trailers());
    assert_eq!(table.ended("a"), [(Class::Ok, 1)]);
    drain(&mut body);
    drop(body);
    assert_eq!(table.ended("a"), [(Class::Ok, 1)]);
}

#[test]
fn a_body_error_is_failed_even_with_status_200() {
    let table = Table::new();
    let mut service = table.layered(|_| Answer::ok([Step::Data("x"), Step::Fail]));
    let mut body = respond(&mut service, request("a")).into_body();
    frame(&mut body).unwrap().unwrap();
    assert_eq!(frame(&mut body).unwrap().unwrap_err(), Broken);
    drop(body);
    assert_eq!(table.ended("a"), [(Class::Failed, 1)]);
}

#[test]
fn trap_11_a_body_dropped_after_the_frame_that_it_says_is_the_last_is_ok() {
    let table = Table::new();
    let mut service = table.layered(|_| {
        let body = Script::new([Step::Data("x"), Step::Data("y")]).announces_end();
        Answer::Respond(Response::new(body))
    });
    let mut body = respond(&mut service, request("a")).into_body();
    frame(&mut body).unwrap().unwrap();
    assert_eq!(in_flight(&table), 1);
    frame(&mut body).unwrap().unwrap();
    drop(body);
    assert_eq!(table.ended("a"), [(Class::Ok, 1)]);
}

fn with_length(length: &str, steps: impl IntoIterator<Item = Step>) -> Answer {
    let response = Response::builder().header("content-length", length);
    Answer::Respond(response.body(Script::new(steps)).unwrap())
}

#[test]
fn trap_11_a_body_dropped_after_its_whole_content_length_is_ok() {
    let table = Table::new();
    let mut service =
        table.layered(|_| with_length("5", [Step::Data("he"), Step::Data("llo"), Step::Data("!")]));
    let mut body = respond(&mut service, request("a")).into_body();
    frame(&mut body).unwrap().unwrap();
    assert_eq!(in_flight(&table), 1);
    frame(&mut body).unwrap().unwrap();
    drop(body);
    assert_eq!(table.ended("a"), [(Class::Ok, 1)]);
}

#[test]
fn a_body_dropped_before_its_content_length_is_cancelled() {
    let table = Table::new();
    let mut service = table.layered(|_| with_length("6", [Step::Data("hello"), Step::Wait]));
    let mut body = respond(&mut service, request("a")).into_body();
    frame(&mut body).unwrap().unwrap();
    drop(body);
    assert_eq!(table.ended("a"), [(Class::Cancelled, 1)]);
}

#[test]
fn trap_08_a_body_dropped_early_is_cancelled_and_the_gauge_returns_to_zero() {
    let table = Table::new();
    let mut service = table.layered(|_| Answer::ok([Step::Data("x"), Step::Wait]));
    let mut body = respond(&mut service, request("a")).into_body();
    frame(&mut body).unwrap().unwrap();
    assert_eq!(in_flight(&table), 1);
    drop(body);
    assert_eq!(table.ended("a"), [(Class::Cancelled, 1)]);
}

#[test]
fn trap_08_a_response_future_dropped_before_it_is_ready_is_cancelled() {
    let table = Table::new();
    let mut service = table.layered(|_| Answer::Never);
    let mut future = Box::pin(service.call(request("a")));
    assert_eq!(in_flight(&table), 1, "counted when called");
    assert!(poll_once(future.as_mut()).is_pending());
    assert_eq!(in_flight(&table), 1);
    drop(future);
    // A future that nobody ever polled is the same.
    drop(service.call(request("a")));
    assert_eq!(table.ended("a"), [(Class::Cancelled, 2)]);
}

#[test]
fn trap_09_an_inner_error_is_failed_and_passes_unchanged() {
    let table = Table::new();
    let mut service = table.layered(|_| Answer::Fail);
    assert_eq!(now(service.call(request("a"))).unwrap_err(), Broken);
    assert_eq!(table.ended("a"), [(Class::Failed, 1)]);
}

/// One task holds two requests, the first of which panics somewhere; a panic catcher stands outside.
fn only_the_panicking_one_fails(bad: fn() -> Answer) {
    let table = Table::new();
    let mut service =
        table.layered(
            move |request| match request.headers()["x-client-id"].to_str().unwrap() {
                "bad" => bad(),
                _ => Answer::ok([Step::Data("x")]),
            },
        );
    let mut good = Some(Box::pin(service.call(request("good"))));
    assert!(panics(|| {
        let response = now(service.call(request("bad"))).unwrap();
        drain(&mut response.into_body());
    }));
    assert_eq!(table.ended("bad"), [(Class::Failed, 1)]);
    assert_eq!(table.caller("good").counts.in_flight, 1);
    let mut body = now(good.take().unwrap()).unwrap().into_body();
    drain(&mut body);
    assert_eq!(table.ended("good"), [(Class::Ok, 1)]);

    // And where the good one is dropped by the very unwinding, it was cancelled, not failed.
    let good = service.call(request("good"));
    assert!(panics(|| {
        let _dropped_by_unwinding = good;
        let response = now(service.call(request("bad"))).unwrap();
        drain(&mut response.into_body());
    }));
    assert_eq!(table.ended("bad"), [(Class::Failed, 2)]);
    assert_eq!(table.ended("good"), [(Class::Ok, 1), (Class::Cancelled, 1)]);
}

#[test]
fn a_panic_in_call_fails_that_request_alone() {
    only_the_panicking_one_fails(|| Answer::PanicInCall);
}

#[test]
fn a_panic_in_poll_fails_that_request_alone() {
    only_the_panicking_one_fails(|| Answer::PanicInPoll);
}

#[test]
fn a_panic_in_poll_frame_fails_that_request_alone() {
    only_the_panicking_one_fails(|| Answer::ok([Step::Data("x"), Step::Panic]));
}

#[test]
fn an_empty_body_ends_with_the_head() {
    let table = Table::new();
    let mut service =
        table.layered(|_| Answer::Respond(Response::new(Script::default().announces_end())));
    let response = respond(&mut service, request("a"));
    assert_eq!(
        table.ended("a"),
        [(Class::Ok, 1)],
        "before the body is polled"
    );
    drop(response);
    let mut service = table.layered(|_| with_length("0", []));
    drop(respond(&mut service, request("a")));
    assert_eq!(table.ended("a"), [(Class::Ok, 2)]);
}

/// The class that a response gives whose body is never polled.
fn head_only(method: Method, status: u16) -> Vec<(Class, u64)> {
    let table = Table::new();
    let mut service = table.layered(move |_| {
        let response = Response::builder()
            .status(status)
            .header("content-length", "10");
        Answer::Respond(response.body(Script::new([Step::Wait])).unwrap())
    });
    let mut request = request("a");
    *request.method_mut() = method;
    drop(respond(&mut service, request));
    table.ended("a")
}

#[test]
fn head_204_and_304_end_with_the_head() {
    assert_eq!(head_only(Method::HEAD, 200), [(Class::Ok, 1)]);
    assert_eq!(head_only(Method::HEAD, 404), [(Class::NotFound, 1)]);
    assert_eq!(head_only(Method::GET, 204), [(Class::Ok, 1)]);
    assert_eq!(head_only(Method::GET, 304), [(Class::Ok, 1)]);
    assert_eq!(head_only(Method::GET, 200), [(Class::Cancelled, 1)]);
}

#[test]
fn an_upgrade_and_a_tunnel_end_with_the_head_and_are_not_in_flight() {
    assert_eq!(head_only(Method::GET, 101), [(Class::Ok, 1)]);
    assert_eq!(head_only(Method::CONNECT, 200), [(Class::Ok, 1)]);
    assert_eq!(head_only(Method::CONNECT, 403), [(Class::Cancelled, 1)]);
}

#[test]
fn every_status_counts_under_its_class() {
    for (status, class) in [
        (200, Class::Ok),
        (302, Class::Ok),
        (400, Class::Validation),
        (422, Class::Validation),
        (401, Class::Auth),
        (404, Class::NotFound),
        (409, Class::Conflict),
        (429, Class::Throttled),
        (418, Class::ClientError),
        (408, Class::Timeout),
        (504, Class::Timeout),
        (503, Class::Unavailable),
        (500, Class::ServerError),
    ] {
        let table = Table::new();
        table.send(request("a"), move |_| Answer::status(status));
        assert_eq!(table.ended("a"), [(class, 1)], "{status}");
    }
}

fn grpc_request() -> Request<String> {
    let mut request = request("a");
    *request.method_mut() = Method::POST;
    *request.uri_mut() = "/shop.Orders/Place".parse().unwrap();
    let kind = "application/grpc+proto".parse().unwrap();
    request.headers_mut().insert("content-type", kind);
    request
}

fn grpc(answer: impl Fn(Request<String>) -> Answer + Send + Sync + 'static) -> Vec<(Class, u64)> {
    let table = Table::new();
    table.send(grpc_request(), answer);
    table.ended("a")
}

fn status_trailers(code: &'static str) -> Step {
    Step::Trailers(headers([("grpc-status", code)]))
}

#[test]
fn trap_12_grpc_is_classified_by_its_trailers() {
    for (code, class) in [
        ("0", Class::Ok),
        ("1", Class::Cancelled),
        ("3", Class::Validation),
        ("4", Class::Timeout),
        ("5", Class::NotFound),
        ("6", Class::Conflict),
        ("8", Class::Throttled),
        ("13", Class::ServerError),
        ("14", Class::Unavailable),
        ("16", Class::Auth),
        ("x", Class::ServerError),
    ] {
        let found = grpc(move |_| Answer::ok([Step::Data("m"), status_trailers(code)]));
        assert_eq!(found, [(class, 1)], "grpc-status {code}");
    }
}

#[test]
fn trap_12_grpc_trailers_only_is_classified_by_its_head() {
    let found = grpc(|_| {
        let response = Response::builder().header("grpc-status", "3");
        Answer::Respond(response.body(Script::default().announces_end()).unwrap())
    });
    assert_eq!(found, [(Class::Validation, 1)]);
}

#[test]
fn trap_12_grpc_without_a_status_is_a_server_error() {
    let found = grpc(|_| Answer::ok([Step::Data("m")]));
    assert_eq!(found, [(Class::ServerError, 1)], "no trailers");
    let found = grpc(|_| Answer::ok([Step::Data("m"), Step::Trailers(headers([]))]));
    assert_eq!(
        found,
        [(Class::ServerError, 1)],
        "trailers without a status"
    );
    let found = grpc(|_| Answer::Respond(Response::new(Script::default().announces_end())));
    assert_eq!(found, [(Class::ServerError, 1)], "nothing at all");
}

#[test]
fn grpc_that_never_reached_grpc_is_classified_by_its_http_status() {
    assert_eq!(grpc(|_| Answer::status(404)), [(Class::NotFound, 1)]);
    assert_eq!(grpc(|_| Answer::status(503)), [(Class::Unavailable, 1)]);
}

#[test]
fn grpc_dropped_between_the_last_message_and_the_trailers_is_cancelled() {
    // The length is known and has been seen: it still is not the end.
    let found = {
        let table = Table::new();
        let mut service =
            table.layered(|_| with_length("1", [Step::Data("m"), status_trailers("0")]));
        let mut body = respond(&mut service, grpc_request()).into_body();
        frame(&mut body).unwrap().unwrap();
        drop(body);
        table.ended("a")
    };
    assert_eq!(found, [(Class::Cancelled, 1)]);
}

fn detailed(status: u16, detail: ErrorDetail) -> Answer {
    let mut response = Response::new(Script::default());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.extensions_mut().insert(detail);
    Answer::Respond(response)
}

#[test]
fn a_detail_overrules_the_class_and_is_counted_by_code_and_field() {
    let table = Table::new();
    for field in ["sku", "sku", "amount"] {
        table.send(request("a"), move |_| {
            let detail = ErrorDetail::new("missing").field(field);
            detailed(409, detail.class(Class::Validation))
        });
    }
    table.send(request("a"), |_| detailed(500, ErrorDetail::new("db_down")));
    let expected = [(Class::Validation, 3), (Class::ServerError, 1)];
    assert_eq!(table.ended("a"), expected);
    let found: Vec<_> = table
        .caller("a")
        .details
        .into_iter()
        .map(|detail| (detail.class, detail.code, detail.field, detail.count))
        .collect();
    assert_eq!(
        found[0],
        (Class::Validation, "missing".into(), Some("sku".into()), 2)
    );
    assert!(found.contains(&(
        Class::Validation,
        "missing".into(),
        Some("amount".into()),
        1
    )));
    assert!(found.contains(&(Class::ServerError, "db_down".into(), None, 1)));
    assert_eq!(found.len(), 3);
}

#[test]
fn details_are_bounded_and_their_sum_is_exact() {
    let table = Table::new();
    for index in 0..500 {
        table.send(request("a"), move |_| {
            let code = if index % 2 == 0 {
                "missing".to_owned()
            } else {
                format!("code-{index}")
            };
            detailed(422, ErrorDetail::new(code))
        });
    }
    let caller = table.caller("a");
    assert!(caller.details.len() <= 32, "{}", caller.details.len());
    assert_eq!(
        (caller.details[0].code.as_str(), caller.details[0].count),
        ("missing", 250)
    );
    let kept: u64 = caller.details.iter().map(|detail| detail.count).sum();
    assert_eq!(kept + caller.other_details, 500);
    // A code of a megabyte is cut.
    table.send(request("a"), |_| {
        detailed(422, ErrorDetail::new("ü".repeat(500_000)))
    });
    let longest = table
        .caller("a")
        .details
        .into_iter()
        .map(|detail| detail.code.len())
        .max();
    assert!(longest <= Some(64));
}

#[test]
fn trap_10_duration_is_the_total_and_the_time_to_first_byte_stands_beside_it() {
    let table = Table::new();
    let clock = table.clock.clone();
    let mut service = table.layered(move |_| {
        clock.advance(Duration::from_millis(40));
        Answer::ok([Step::Data("x"), Step::Data("y")])
    });
    let mut body = respond(&mut service, request("a")).into_body();
    frame(&mut body).unwrap().unwrap();
    table.clock.advance(Duration::from_secs(2));
    drain(&mut body);
    let caller = table.caller("a");
    // Quantiles are interpolated within a bucket: (0.035, 0.05] and (1.5, 2.5].
    let first_byte = caller.first_byte.unwrap();
    assert_eq!(first_byte.count, 1);
    assert!((0.035..=0.05).contains(&first_byte.p50), "{first_byte:?}");
    let [latency] = caller.latency[..] else {
        panic!("one class: {:?}", caller.latency)
    };
    assert_eq!((latency.class, latency.quantiles.count), (Class::Ok, 1));
    assert!((1.5..=2.5).contains(&latency.quantiles.p50), "{latency:?}");
}

#[test]
fn trap_24_response_bytes_are_counted_once_at_the_end() {
    let table = Table::new();
    let mut service =
        table.layered(|_| Answer::ok([Step::Data("12345"), Step::Data("678"), Step::Data("90")]));
    let mut post = request("a");
    *post.method_mut() = Method::POST;
    post.headers_mut()
        .insert("content-length", "7".parse().unwrap());
    let mut body = respond(&mut service, post).into_body();
    for _ in 0..3 {
        frame(&mut body).unwrap().unwrap();
        assert_eq!(table.caller("a").response_bytes, 0, "not before the end");
    }
    assert!(frame(&mut body).is_none());
    let caller = table.caller("a");
    assert_eq!((caller.response_bytes, caller.request_bytes), (10, 7));
}

#[test]
fn what_was_sent_of_a_cancelled_response_is_counted() {
    let table = Table::new();
    let mut service = table.layered(|_| Answer::ok([Step::Data("12345"), Step::Wait]));
    let mut body = respond(&mut service, request("a")).into_body();
    frame(&mut body).unwrap().unwrap();
    drop(body);
    assert_eq!(table.caller("a").response_bytes, 5);
}

#[test]
fn a_failed_request_is_kept_with_its_route_status_code_and_trace() {
    let table = Table::with(|builder| {
        builder
            .identify(callerid::identify::header("x-client-id"))
            .route(|_| Some("/v1/orders"))
    });
    let mut failing = request("a");
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    failing
        .headers_mut()
        .insert("traceparent", trace.parse().unwrap());
    table.send(failing, |_| detailed(422, ErrorDetail::new("missing")));
    let caller = table.caller("a");
    let [failure] = &caller.failures[..] else {
        panic!("{:?}", caller.failures)
    };
    assert_eq!(failure.route, "GET /v1/orders");
    assert_eq!(
        (failure.status, failure.class),
        (Some(422), Class::Validation)
    );
    assert_eq!(failure.code.as_deref(), Some("missing"));
    assert_eq!(
        failure.trace_id.as_deref(),
        Some("4bf92f3577b34da6a3ce929d0e0e4736")
    );
}

#[test]
fn a_response_that_outlives_the_handle_and_the_layer_still_ends() {
    let table = Table::new();
    let mut service = table.layered(|_| Answer::ok([Step::Data("x")]));
    let mut body = respond(&mut service, request("a")).into_body();
    drop((service, table));
    drain(&mut body);
    assert!(body.is_end_stream() || frame(&mut body).is_none());
}

#[test]
fn one_service_may_be_cloned_and_counts_into_one_table() {
    let table = Table::new();
    let service = table.trivial();
    for _ in 0..3 {
        send_one(&mut service.clone(), request("a"));
    }
    assert_eq!(table.ended("a"), [(Class::Ok, 3)]);
}
