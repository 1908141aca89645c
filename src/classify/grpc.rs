//! gRPC status codes as classes. The status is in the trailers, or in the head where there is no message
//! ("trailers only"); HTTP 200 says nothing.

use http::{HeaderMap, HeaderName, StatusCode, header};

use super::Verdict;
use crate::outcome::Class;

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Whether a request is gRPC. gRPC-Web is not: its trailers are inside the body, out of sight, so it is read by
/// its HTTP status.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value
            .get(..16)
            .is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/grpc"))
            && matches!(value.get(16), None | Some(b'+' | b';' | b' '))
    })
}

/// The verdict that the head of a response gives, if it gives one.
pub(super) fn from_head(status: StatusCode, headers: &HeaderMap) -> Option<Verdict> {
    if headers.contains_key(&GRPC_STATUS) {
        return Some(from_trailers(headers).unwrap_or(Verdict::of(Class::ServerError)));
    }
    (status != StatusCode::OK).then(|| Verdict::of(super::status::class(status)))
}

/// The verdict that trailers give, if they hold a status.
pub(super) fn from_trailers(trailers: &HeaderMap) -> Option<Verdict> {
    let code = trailers
        .get(&GRPC_STATUS)?
        .to_str()
        .ok()?
        .parse::<u8>()
        .ok()?;
    Some(Verdict {
        class: class(code),
        method_exists: !matches!(
            code,
            UNIMPLEMENTED | PERMISSION_DENIED | RESOURCE_EXHAUSTED | UNAUTHENTICATED
        ),
    })
}

// What a layer inside of ours may answer to any path, whether or not there is a method behind it.
const PERMISSION_DENIED: u8 = 7;
const RESOURCE_EXHAUSTED: u8 = 8;
const UNIMPLEMENTED: u8 = 12;
const UNAUTHENTICATED: u8 = 16;

/// <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>
fn class(code: u8) -> Class {
    match code {
        0 => Class::Ok,
        1 => Class::Cancelled,
        3 | 9 | 11 => Class::Validation,
        4 => Class::Timeout,
        5 | 12 => Class::NotFound,
        6 | 10 => Class::Conflict,
        7 | 16 => Class::Auth,
        8 => Class::Throttled,
        14 => Class::Unavailable,
        // 2 UNKNOWN, 13 INTERNAL, 15 DATA_LOSS, and what has no meaning.
        _ => Class::ServerError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_the_class_of_the_contract() {
        let expected = [
            "ok",
            "cancelled",
            "server_error",
            "validation",
            "timeout",
            "not_found",
            "conflict",
            "auth",
            "throttled",
            "validation",
            "conflict",
            "validation",
            "not_found",
            "server_error",
            "unavailable",
            "server_error",
            "auth",
        ];
        for (code, class_name) in expected.into_iter().enumerate() {
            assert_eq!(
                class(u8::try_from(code).unwrap()).as_str(),
                class_name,
                "{code}"
            );
        }
        assert_eq!(class(99), Class::ServerError);
    }

    #[test]
    fn grpc_web_is_not_grpc() {
        let is = |kind: &'static str| {
            is_grpc(&HeaderMap::from_iter([(
                header::CONTENT_TYPE,
                kind.parse().unwrap(),
            )]))
        };
        assert!(
            is("application/grpc") && is("application/grpc+proto") && is("Application/gRPC;x=1")
        );
        assert!(
            !is("application/grpc-web")
                && !is("application/grpc-web+proto")
                && !is("application/json")
        );
    }
}
