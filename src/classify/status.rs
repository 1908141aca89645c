//! HTTP status codes as classes.

use http::StatusCode;

use crate::outcome::Class;

#[inline]
pub(super) fn class(status: StatusCode) -> Class {
    match status.as_u16() {
        100..=399 => Class::Ok,
        400 | 422 => Class::Validation,
        401 | 403 | 407 => Class::Auth,
        404 | 410 => Class::NotFound,
        409 | 412 | 428 => Class::Conflict,
        429 => Class::Throttled,
        408 | 504 => Class::Timeout,
        402..=499 => Class::ClientError,
        502 | 503 => Class::Unavailable,
        // Codes past 599 have no meaning of their own; a service that sends one is at fault.
        _ => Class::ServerError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_the_class_of_the_contract() {
        for code in 100..=999 {
            let expected = match code {
                100..=399 => "ok",
                400 | 422 => "validation",
                401 | 403 | 407 => "auth",
                404 | 410 => "not_found",
                409 | 412 | 428 => "conflict",
                429 => "throttled",
                408 | 504 => "timeout",
                400..=499 => "client_error",
                502 | 503 => "unavailable",
                _ => "server_error",
            };
            assert_eq!(
                class(StatusCode::from_u16(code).unwrap()).as_str(),
                expected,
                "{code}"
            );
        }
    }
}
