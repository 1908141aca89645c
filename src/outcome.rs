//! How a request ended: a closed set, because it is a metric label.

use std::borrow::Cow;
use std::fmt;

/// How a request ended. A metric label, hence a closed set; [`Class::as_str`] is the label's value.
///
/// Our own refusals are none of these: they are counted apart, so that a limit never looks like an error
/// of the caller whom it stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
#[repr(u8)]
pub enum Class {
    /// 1xx to 3xx; gRPC `OK`.
    Ok,
    /// 400, 422; gRPC `INVALID_ARGUMENT`, `OUT_OF_RANGE`, `FAILED_PRECONDITION`.
    Validation,
    /// 401, 403, 407; gRPC `UNAUTHENTICATED`, `PERMISSION_DENIED`.
    Auth,
    /// 404, 410; gRPC `NOT_FOUND`, `UNIMPLEMENTED`.
    NotFound,
    /// 409, 412, 428; gRPC `ALREADY_EXISTS`, `ABORTED`.
    Conflict,
    /// 429 or gRPC `RESOURCE_EXHAUSTED` from the inner service.
    Throttled,
    /// Every other 4xx.
    ClientError,
    /// 408, 504; gRPC `DEADLINE_EXCEEDED`.
    Timeout,
    /// 502, 503; gRPC `UNAVAILABLE`.
    Unavailable,
    /// Every other 5xx; gRPC `INTERNAL`, `UNKNOWN`, `DATA_LOSS`, and a gRPC response without a status.
    ServerError,
    /// The inner service returned `Err` or panicked, or the response body ended with an error.
    Failed,
    /// The caller went away before the end of the body; gRPC `CANCELLED`.
    Cancelled,
}

/// Whom a [`Class`] speaks against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
#[repr(u8)]
pub enum Fault {
    /// Nobody: the request ended well.
    None,
    /// The caller.
    Caller,
    /// The service.
    Service,
}

impl Class {
    /// Every class, in the order of its discriminant.
    pub const ALL: [Self; 12] = [
        Self::Ok,
        Self::Validation,
        Self::Auth,
        Self::NotFound,
        Self::Conflict,
        Self::Throttled,
        Self::ClientError,
        Self::Timeout,
        Self::Unavailable,
        Self::ServerError,
        Self::Failed,
        Self::Cancelled,
    ];

    /// How many classes there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The value of the metric label `class`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Validation => "validation",
            Self::Auth => "auth",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Throttled => "throttled",
            Self::ClientError => "client_error",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::ServerError => "server_error",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whom this class speaks against.
    #[must_use]
    pub const fn fault(self) -> Fault {
        match self {
            Self::Ok => Fault::None,
            Self::Timeout | Self::Unavailable | Self::ServerError | Self::Failed => Fault::Service,
            _ => Fault::Caller,
        }
    }

    #[inline]
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl Fault {
    /// Every fault, in the order of its discriminant.
    pub const ALL: [Self; 3] = [Self::None, Self::Caller, Self::Service];

    /// The value of the metric label `fault`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Caller => "caller",
            Self::Service => "service",
        }
    }

    #[inline]
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a request was refused, or would have been in shadow. A metric label, hence a closed set; [`Reason::as_str`]
/// is the label's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
#[repr(u8)]
pub enum Reason {
    /// The caller's quota, or the total of its group, is spent.
    Quota,
    /// The caller has as many requests, or streams, in flight as it may.
    InFlight,
    /// The service is at its ceiling, and the caller at or above its fair share.
    Ceiling,
    /// The operator blocked the caller.
    Blocked,
    /// The caller is clamped because its traffic departs from its own past.
    Runaway,
    /// The quota that all replicas share is spent.
    Fleet,
}

impl Reason {
    /// Every reason, in the order of its discriminant.
    pub const ALL: [Self; 6] = [
        Self::Quota,
        Self::InFlight,
        Self::Ceiling,
        Self::Blocked,
        Self::Runaway,
        Self::Fleet,
    ];

    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The value of the metric label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::InFlight => "in_flight",
            Self::Ceiling => "ceiling",
            Self::Blocked => "blocked",
            Self::Runaway => "runaway",
            Self::Fleet => "fleet",
        }
    }

    #[inline]
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a handler knows about an error and a status code cannot say. Put it into the response's extensions;
/// codes and fields are then counted per caller (bounded), which is what makes "validation: `sku` missing"
/// visible without reading bodies.
///
/// ```
/// use callerid::{Class, ErrorDetail};
///
/// let mut response = http::Response::new(());
/// *response.status_mut() = http::StatusCode::UNPROCESSABLE_ENTITY;
/// response.extensions_mut().insert(ErrorDetail::new("missing").field("sku").class(Class::Validation));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct ErrorDetail {
    /// Overrules the class that the status code gives.
    pub class: Option<Class>,
    /// A short, stable code such as `missing` or `out_of_range`; cut to 64 bytes when it is counted.
    pub code: Cow<'static, str>,
    /// The field of the request that the code speaks of; cut to 64 bytes when it is counted.
    pub field: Option<Cow<'static, str>>,
}

impl ErrorDetail {
    /// A detail with this code. Codes are for counting: use a small, closed set, never a message.
    #[must_use]
    pub fn new(code: impl Into<Cow<'static, str>>) -> Self {
        Self {
            class: None,
            code: code.into(),
            field: None,
        }
    }

    /// Names the field of the request that is at fault.
    #[must_use]
    pub fn field(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Overrules the class that the status code gives.
    #[must_use]
    pub fn class(mut self, class: Class) -> Self {
        self.class = Some(class);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the metrics promise them.
    const CLASSES: &str = "ok none, validation caller, auth caller, not_found caller, conflict caller, \
        throttled caller, client_error caller, timeout service, unavailable service, server_error service, \
        failed service, cancelled caller";

    #[test]
    fn every_class_has_the_fault_that_is_promised() {
        let found = Class::ALL.map(|class| format!("{class} {}", class.fault()));
        assert_eq!(found.join(", "), CLASSES);
    }

    #[test]
    fn every_reason_has_the_word_that_is_promised() {
        let words = "quota in_flight ceiling blocked runaway fleet";
        assert_eq!(Reason::ALL.map(Reason::as_str).join(" "), words);
    }

    #[test]
    fn discriminants_index_the_list_of_all() {
        for (index, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), index);
        }
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault.index(), index);
        }
    }

    #[test]
    fn faults_are_as_the_contract_says() {
        let of = |fault| {
            Class::ALL
                .into_iter()
                .filter(move |c| c.fault() == fault)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(Fault::None), [Class::Ok]);
        assert_eq!(
            of(Fault::Service),
            [
                Class::Timeout,
                Class::Unavailable,
                Class::ServerError,
                Class::Failed
            ]
        );
        assert_eq!(of(Fault::Caller).len(), 7);
    }
}
