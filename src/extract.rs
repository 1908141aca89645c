//! [`Caller`] as an axum extractor; feature `axum`.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header, request::Parts};

use crate::caller::Caller;

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    /// Never rejects: without an identity, and without the layer, the caller is `__unknown__`.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts
            .extensions
            .get::<Self>()
            .cloned()
            .unwrap_or_else(Self::unknown))
    }
}

/// The caller of a request that must have an identity; a request without one gets a 401 as
/// `application/problem+json` (RFC 9457).
///
/// ```
/// use callerid::RequireCaller;
///
/// async fn usage(RequireCaller(caller): RequireCaller) -> String {
///     format!("you are {}", caller.name())
/// }
/// # let _: axum::Router = axum::Router::new().route("/usage", axum::routing::get(usage));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequireCaller(
    /// The caller; not necessarily verified, see [`Caller::is_verified`].
    pub Caller,
);

/// The answer of [`RequireCaller`] to a request without identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallerRequired;

impl<S: Sync> FromRequestParts<S> for RequireCaller {
    type Rejection = CallerRequired;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, CallerRequired> {
        parts
            .extensions
            .get::<Caller>()
            .filter(|caller| caller.is_known())
            .cloned()
            .map(Self)
            .ok_or(CallerRequired)
    }
}

impl IntoResponse for CallerRequired {
    fn into_response(self) -> Response {
        const PROBLEM: &str = r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"this route needs to know who is calling"}"#;
        (
            StatusCode::UNAUTHORIZED,
            [(header::CONTENT_TYPE, "application/problem+json")],
            PROBLEM,
        )
            .into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::{Provenance, Source};

    fn parts(caller: Option<Caller>) -> Parts {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        caller
            .into_iter()
            .for_each(|caller| drop(parts.extensions.insert(caller)));
        parts
    }

    fn now<T>(future: impl Future<Output = T>) -> T {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut cx) {
            std::task::Poll::Ready(value) => value,
            std::task::Poll::Pending => panic!("an extractor that waits"),
        }
    }

    #[test]
    fn the_caller_is_extracted_or_unknown() {
        let checkout = Caller::new("checkout", Provenance::Verified, Source::Header, 1);
        let found = now(Caller::from_request_parts(&mut parts(Some(checkout)), &())).unwrap();
        assert_eq!(found.name(), "checkout");
        let none = now(Caller::from_request_parts(&mut parts(None), &())).unwrap();
        assert_eq!((none.name(), none.is_known()), ("__unknown__", false));
    }

    #[test]
    fn the_strict_extractor_answers_401_with_a_problem() {
        let strict = |caller| now(RequireCaller::from_request_parts(&mut parts(caller), &()));
        assert!(strict(Some(Caller::unknown())).is_err());
        let response = strict(None).unwrap_err().into_response();
        assert_eq!(response.status(), 401);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        assert!(
            strict(Some(Caller::new(
                "a",
                Provenance::Claimed,
                Source::Header,
                1
            )))
            .is_ok()
        );
    }
}
