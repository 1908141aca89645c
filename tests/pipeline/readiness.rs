//! Readiness belongs to the inner service.

use std::task::Poll;

use callerid::middleware::CallerService;
use http::{Request, Response};
use tower_test::mock;

use crate::support::{Script, Table, now, request};

type Mock = mock::Mock<Request<String>, Response<Script>>;
type Handle = mock::Handle<Request<String>, Response<Script>>;

fn mocked(table: &Table) -> (mock::Spawn<CallerService<Mock>>, Handle) {
    mock::spawn_layer(table.callers.layer())
}

#[test]
fn readiness_is_forwarded_and_nothing_is_counted_before_a_call() {
    let table = Table::new();
    let (mut service, mut handle) = mocked(&table);
    handle.allow(0);
    assert!(service.poll_ready::<Request<String>>().is_pending());
    handle.allow(1);
    assert!(
        service.is_woken(),
        "the inner service's waker is the task's own"
    );
    assert!(matches!(
        service.poll_ready::<Request<String>>(),
        Poll::Ready(Ok(()))
    ));
    assert!(
        table.callers.snapshot().callers.is_empty(),
        "readiness reserves nothing here"
    );
    let response = service.call(request("a"));
    assert!(
        service.poll_ready::<Request<String>>().is_pending(),
        "the one permit is used"
    );
    let (_, send) = match handle.poll_request() {
        Poll::Ready(Some(request)) => request,
        other => panic!("{:?}", other.is_ready()),
    };
    send.send_response(Response::new(Script::default().announces_end()));
    assert!(now(response).is_ok());
    assert_eq!(table.ended("a"), [(callerid::Class::Ok, 1)]);
}

#[test]
fn an_error_of_readiness_is_the_inner_service_s_own_and_no_request() {
    let table = Table::new();
    let (mut service, mut handle) = mocked(&table);
    handle.send_error("not today");
    match service.poll_ready::<Request<String>>() {
        Poll::Ready(Err(error)) => assert_eq!(error.to_string(), "not today"),
        other => panic!("{other:?}"),
    }
    assert!(table.callers.snapshot().callers.is_empty());
}

#[test]
fn an_error_of_the_response_is_the_inner_service_s_own() {
    let table = Table::new();
    let (mut service, mut handle) = mocked(&table);
    handle.allow(1);
    assert!(service.poll_ready::<Request<String>>().is_ready());
    let response = service.call(request("a"));
    match handle.poll_request() {
        Poll::Ready(Some((_, send))) => send.send_error("broken inside"),
        _ => panic!("no request"),
    }
    assert_eq!(now(response).unwrap_err().to_string(), "broken inside");
    assert_eq!(table.ended("a"), [(callerid::Class::Failed, 1)]);
}
