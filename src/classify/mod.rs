//! How did it end? Three steps, each consuming the one before, so that a request cannot be classified twice:
//! [`Classify`] knows the request, [`ClassifyResponse::response`] reads the head of the response,
//! [`ClassifyEos::end`] reads the end of its body.

mod grpc;
mod status;

use http::{HeaderMap, Method, StatusCode, header};

use crate::outcome::{Class, ErrorDetail};

/// What the request tells about how its response must be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Classify {
    grpc: bool,
    connect: bool,
    head: bool,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) class: Class,
    /// A gRPC status was seen that only a method gives: not UNIMPLEMENTED, nor what an interceptor answers.
    pub(crate) method_exists: bool,
}

impl Verdict {
    pub(crate) const fn of(class: Class) -> Self {
        Self {
            class,
            method_exists: false,
        }
    }
}

/// What is left to decide once the head of the response is there.
#[derive(Debug)]
pub(crate) enum ClassifyResponse {
    /// The head is the end: no body that counts follows (HEAD, 204, 304, an upgrade, a tunnel).
    Ended(Verdict),
    /// The end of the body decides.
    Body(ClassifyEos),
}

/// What is left to decide at the end of the body.
#[derive(Debug)]
pub(crate) struct ClassifyEos {
    verdict: Option<Verdict>,
}

impl Classify {
    /// Reads the head of a request. gRPC is always a POST, so nothing else pays for the look at a header.
    #[inline]
    pub(crate) fn new(method: &Method, headers: &HeaderMap) -> Self {
        Self {
            grpc: *method == Method::POST && grpc::is_grpc(headers),
            connect: *method == Method::CONNECT,
            head: *method == Method::HEAD,
        }
    }

    pub(crate) fn is_grpc(self) -> bool {
        self.grpc
    }

    /// Reads the head of the response. A detail that the handler left overrules the status.
    #[inline]
    pub(crate) fn response(
        self,
        status: StatusCode,
        headers: &HeaderMap,
        detail: Option<&ErrorDetail>,
    ) -> ClassifyResponse {
        let mut verdict = if self.grpc {
            grpc::from_head(status, headers)
        } else {
            Some(Verdict::of(status::class(status)))
        };
        if let Some(class) = detail.and_then(|detail| detail.class) {
            verdict = Some(Verdict {
                class,
                ..verdict.unwrap_or(Verdict::of(class))
            });
        }
        let tunnel =
            status == StatusCode::SWITCHING_PROTOCOLS || (self.connect && status.is_success());
        let bodyless = self.head
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
            || tunnel;
        match verdict {
            Some(verdict) if bodyless => ClassifyResponse::Ended(verdict),
            verdict => ClassifyResponse::Body(ClassifyEos { verdict }),
        }
    }
}

impl ClassifyEos {
    /// Reads the end of the body. A gRPC response that ends without a status is an error of the service.
    #[inline]
    pub(crate) fn end(self, trailers: Option<&HeaderMap>) -> Verdict {
        let of_trailers = || trailers.and_then(grpc::from_trailers);
        self.verdict
            .or_else(of_trailers)
            .unwrap_or(Verdict::of(Class::ServerError))
    }

    /// Whether trailers may still change the verdict, so that the last byte is not yet the end.
    pub(crate) fn awaits_trailers(&self) -> bool {
        self.verdict.is_none()
    }
}

/// The longest body that is believed, in bytes: 1 TiB. A client can declare any length and send nothing.
const LONGEST_BODY: u64 = 1 << 40;

/// The length that the head of a message declares for its body, if it is one that a body can have.
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    let length = headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    (length <= LONGEST_BODY).then_some(length)
}

#[cfg(test)]
mod tests {
    use http::{request, response};

    use super::*;

    fn classify(request: request::Builder) -> Classify {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        Classify::new(&parts.method, &parts.headers)
    }

    fn head(response: response::Builder) -> response::Parts {
        response.body(()).unwrap().into_parts().0
    }

    fn ended(classify: Classify, parts: &response::Parts) -> Option<Class> {
        match classify.response(parts.status, &parts.headers, None) {
            ClassifyResponse::Ended(verdict) => Some(verdict.class),
            ClassifyResponse::Body(_) => None,
        }
    }

    #[test]
    fn head_204_and_304_end_with_the_head() {
        let get = classify(request::Builder::new());
        let head_request = classify(request::Builder::new().method("HEAD"));
        assert_eq!(
            ended(head_request, &head(response::Builder::new())),
            Some(Class::Ok)
        );
        assert_eq!(
            ended(get, &head(response::Builder::new().status(204))),
            Some(Class::Ok)
        );
        assert_eq!(
            ended(get, &head(response::Builder::new().status(304))),
            Some(Class::Ok)
        );
        assert_eq!(
            ended(get, &head(response::Builder::new().status(200))),
            None
        );
    }

    #[test]
    fn a_length_that_no_body_has_is_none() {
        let declared = |length: u64| {
            declared_length(&HeaderMap::from_iter([(
                header::CONTENT_LENGTH,
                length.into(),
            )]))
        };
        assert_eq!(declared(5), Some(5));
        assert_eq!(declared(1 << 40), Some(1 << 40));
        assert_eq!(declared((1 << 40) + 1), None);
        assert_eq!(declared(i64::MAX as u64), None);
    }

    #[test]
    fn upgrades_and_tunnels_end_with_the_head() {
        let connect = classify(request::Builder::new().method("CONNECT"));
        assert_eq!(
            ended(connect, &head(response::Builder::new())),
            Some(Class::Ok)
        );
        assert_eq!(
            ended(connect, &head(response::Builder::new().status(403))),
            None
        );
        let get = classify(request::Builder::new());
        assert_eq!(
            ended(get, &head(response::Builder::new().status(101))),
            Some(Class::Ok)
        );
    }

    #[test]
    fn a_detail_overrules_the_status() {
        let detail = ErrorDetail::new("sold_out").class(Class::Conflict);
        let parts = head(response::Builder::new().status(400));
        match classify(request::Builder::new()).response(
            parts.status,
            &parts.headers,
            Some(&detail),
        ) {
            ClassifyResponse::Body(eos) => assert_eq!(eos.end(None).class, Class::Conflict),
            ended => panic!("{ended:?}"),
        }
    }

    fn grpc_request() -> Classify {
        classify(
            request::Builder::new()
                .method("POST")
                .header("content-type", "application/grpc+proto"),
        )
    }

    fn trailers(code: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            code.parse().unwrap(),
        )])
    }

    #[test]
    fn trap_12_grpc_status_decides_and_not_http_200() {
        let streaming = |end: Option<&HeaderMap>| {
            let parts = head(response::Builder::new().status(200));
            match grpc_request().response(parts.status, &parts.headers, None) {
                ClassifyResponse::Body(eos) => {
                    assert!(eos.awaits_trailers());
                    eos.end(end).class
                }
                ended => panic!("{ended:?}"),
            }
        };
        assert_eq!(streaming(Some(&trailers("0"))), Class::Ok);
        assert_eq!(streaming(Some(&trailers("3"))), Class::Validation);
        assert_eq!(streaming(Some(&trailers("1"))), Class::Cancelled);
        // Without a status, or with one that is none, the service has failed.
        assert_eq!(streaming(Some(&trailers("x"))), Class::ServerError);
        assert_eq!(streaming(None), Class::ServerError);
        // "Trailers only": the status is in the head.
        let parts = head(response::Builder::new().header("grpc-status", "8"));
        match grpc_request().response(parts.status, &parts.headers, None) {
            ClassifyResponse::Body(eos) => assert_eq!(eos.end(None).class, Class::Throttled),
            ended => panic!("{ended:?}"),
        }
    }

    #[test]
    fn a_grpc_request_that_never_reached_grpc_is_read_by_its_http_status() {
        let parts = head(response::Builder::new().status(404));
        match grpc_request().response(parts.status, &parts.headers, None) {
            ClassifyResponse::Body(eos) => assert_eq!(eos.end(None).class, Class::NotFound),
            ended => panic!("{ended:?}"),
        }
    }
}
