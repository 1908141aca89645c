//! What the layer must not change: everything that the inner service says, and when it says it.

use callerid::middleware::{CallerService, ResponseBody, ResponseFuture};
use callerid::{Caller, CallerLayer, CallerSlot, Callers};
use http::{Response, StatusCode, Version};
use http_body::{Body, Frame};

use crate::support::{
    Answer, Broken, Inner, Script, Step, Table, frame, headers, request, respond,
};

#[test]
fn status_version_headers_and_extensions_pass() {
    #[derive(Clone, PartialEq, Debug)]
    struct Mark(u8);
    let table = Table::new();
    let mut service = table.layered(|_| {
        let response = Response::builder()
            .status(418)
            .version(Version::HTTP_2)
            .header("x-a", "1")
            .header("x-a", "2")
            .header("content-length", "3")
            .extension(Mark(7));
        Answer::Respond(response.body(Script::new([Step::Data("tea")])).unwrap())
    });
    let response = respond(&mut service, request("a"));
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(response.version(), Version::HTTP_2);
    assert_eq!(response.headers().len(), 3, "{:?}", response.headers());
    let both: Vec<_> = response.headers().get_all("x-a").iter().collect();
    assert_eq!(both, ["1", "2"]);
    assert_eq!(response.extensions().get(), Some(&Mark(7)));
}

#[test]
fn frames_and_trailers_pass_in_order() {
    let table = Table::new();
    let trailers = headers([("x-checksum", "1")]);
    let sent = trailers.clone();
    let mut service = table.layered(move |_| {
        Answer::ok([
            Step::Data("a"),
            Step::Data(""),
            Step::Data("b"),
            Step::Trailers(sent.clone()),
        ])
    });
    let mut body = respond(&mut service, request("a")).into_body();
    for expected in ["a", "", "b"] {
        assert_eq!(
            frame(&mut body).unwrap().unwrap().into_data().unwrap(),
            expected
        );
    }
    let last: Frame<_> = frame(&mut body).unwrap().unwrap();
    assert_eq!(last.into_trailers().unwrap(), trailers);
    assert!(frame(&mut body).is_none());
}

#[test]
fn size_hint_and_end_of_stream_pass() {
    let table = Table::new();
    let mut service = table.layered(|_| {
        let body = Script::new([Step::Data("abc")]).announces_end().hint(3);
        Answer::Respond(Response::new(body))
    });
    let mut body = respond(&mut service, request("a")).into_body();
    assert_eq!(body.size_hint().exact(), Some(3));
    assert!(!body.is_end_stream());
    frame(&mut body).unwrap().unwrap();
    assert!(body.is_end_stream());

    let mut service = table.layered(|_| Answer::ok([]));
    let body = respond(&mut service, request("a")).into_body();
    assert_eq!(
        (body.size_hint().lower(), body.size_hint().upper()),
        (0, None)
    );
    assert!(!body.is_end_stream());
}

#[test]
fn a_body_goes_on_after_its_request_has_ended() {
    // The declared length is less than what comes: all of it passes, the request ends once.
    let table = Table::new();
    let mut service = table.layered(|_| {
        let response = Response::builder().header("content-length", "1");
        let steps = [Step::Data("a"), Step::Data("b"), Step::Fail];
        Answer::Respond(response.body(Script::new(steps)).unwrap())
    });
    let mut body = respond(&mut service, request("a")).into_body();
    assert!(frame(&mut body).unwrap().is_ok());
    assert!(frame(&mut body).unwrap().is_ok());
    assert_eq!(frame(&mut body).unwrap().unwrap_err(), Broken);
    assert_eq!(table.ended("a"), [(callerid::Class::Ok, 1)]);
}

#[test]
fn the_response_header_tells_the_caller_who_it_was_taken_for_and_only_where_asked() {
    let table = Table::with(|builder| {
        builder
            .identify(callerid::identify::header("x-client-id"))
            .response_header("x-you-are")
    });
    let response = respond(&mut table.trivial(), request("a"));
    assert_eq!(response.headers()["x-you-are"], "a");
    let nobody = http::Request::new(String::new());
    let response = respond(&mut table.trivial(), nobody);
    assert_eq!(response.headers()["x-you-are"], "__unknown__");
    let response = respond(&mut Table::new().trivial(), request("a"));
    assert!(response.headers().is_empty());
}

#[test]
fn the_handler_sees_the_caller_in_the_extensions() {
    let table = Table::new();
    let mut service = table.layered(|request| {
        let caller = request.extensions().get::<Caller>().unwrap();
        assert_eq!((caller.name(), caller.is_verified()), ("a", true));
        assert!(
            request.extensions().get::<CallerSlot>().is_none(),
            "only where asked for"
        );
        Answer::status(200)
    });
    respond(&mut service, request("a"));
}

#[test]
fn types_are_as_sendable_as_what_they_wrap() {
    fn send_sync_clone<T: Send + Sync + Clone + 'static>() {}
    fn send_sync_unpin<T: Send + Sync + Unpin>() {}
    fn default<T: Default>() {}
    send_sync_clone::<Callers>();
    send_sync_clone::<CallerLayer>();
    send_sync_clone::<CallerService<Inner>>();
    send_sync_clone::<Caller>();
    send_sync_clone::<CallerSlot>();
    send_sync_unpin::<CallerService<Inner>>();
    send_sync_unpin::<ResponseFuture<std::future::Ready<()>>>();
    send_sync_unpin::<ResponseBody<http_body_util::Full<bytes::Bytes>>>();
    default::<ResponseBody<Script>>();
    assert!(frame(&mut ResponseBody::<Script>::default()).is_none());
}

#[test]
fn a_service_that_is_not_clone_can_be_layered() {
    use tower::{Layer, Service};
    struct Alone(Inner);
    impl Service<http::Request<String>> for Alone {
        type Response = Response<Script>;
        type Error = Broken;
        type Future = <Inner as Service<http::Request<String>>>::Future;
        fn poll_ready(
            &mut self,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Broken>> {
            self.0.poll_ready(cx)
        }
        fn call(&mut self, request: http::Request<String>) -> Self::Future {
            self.0.call(request)
        }
    }
    let table = Table::new();
    let inner = Alone(Inner::new(|_| Answer::status(200)));
    let mut service = table.callers.layer().layer(inner);
    let response = crate::support::now(service.call(request("a"))).unwrap();
    assert_eq!(response.status(), 200);
}
