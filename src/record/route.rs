//! The route of a request: its method and the template that the router matched, never a raw path.

use std::fmt;
use std::hash::{BuildHasher, Hasher};

use http::Method;

/// A route as it is looked up: borrowed from the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RouteRef<'a> {
    method: &'static str,
    template: &'a str,
}

/// A hash that stands for a route where it is looked up on every request. Of 64 bits and keyed: that two of a
/// thousand routes share one has a chance of one in 10^13.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RouteHash(pub(crate) u64);

impl<'a> RouteRef<'a> {
    /// The route of requests that no route matched, or whose route nobody told us.
    pub(crate) const UNMATCHED: Self = Self {
        method: "",
        template: "unmatched",
    };
    /// The route of requests that came when there was no room for another pair of caller and route.
    pub(crate) const OTHER: Self = Self {
        method: "",
        template: "__other__",
    };

    /// A route by its method and template. A method that is not one of HTTP's own is `_OTHER`: clients can
    /// invent as many as they like.
    #[inline]
    pub(crate) fn new(method: &Method, template: &'a str) -> Self {
        Self {
            method: known(method),
            template,
        }
    }

    pub(crate) fn template(&self) -> &'a str {
        self.template
    }

    pub(crate) fn method(&self) -> &'static str {
        self.method
    }

    #[inline]
    pub(crate) fn hashed(self, keys: &impl BuildHasher) -> RouteHash {
        let mut hasher = keys.build_hasher();
        hasher.write(self.template.as_bytes());
        hasher.write(self.method.as_bytes());
        RouteHash(hasher.finish())
    }
}

/// A route that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    method: &'static str,
    template: Box<str>,
}

impl Route {
    #[inline]
    pub(crate) fn is(&self, other: RouteRef<'_>) -> bool {
        self.method == other.method && *self.template == *other.template
    }

    pub(crate) fn borrowed(&self) -> RouteRef<'_> {
        RouteRef {
            method: self.method,
            template: &self.template,
        }
    }
}

impl From<RouteRef<'_>> for Route {
    fn from(route: RouteRef<'_>) -> Self {
        Self {
            method: route.method,
            template: route.template.into(),
        }
    }
}

impl fmt::Display for Route {
    /// The value of the metric label `route`: `GET /v1/prices/{sku}`, `unmatched` or `__other__`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.method.is_empty() {
            f.write_str(&self.template)
        } else {
            write!(f, "{} {}", self.method, self.template)
        }
    }
}

fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "_OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_method_and_template() {
        let label = |route: RouteRef<'_>| Route::from(route).to_string();
        assert_eq!(
            label(RouteRef::new(&Method::GET, "/v1/prices/{sku}")),
            "GET /v1/prices/{sku}"
        );
        assert_eq!(label(RouteRef::UNMATCHED), "unmatched");
        assert_eq!(label(RouteRef::OTHER), "__other__");
        let invented = Method::from_bytes(b"BREW").unwrap();
        assert_eq!(label(RouteRef::new(&invented, "/pot")), "_OTHER /pot");
    }

    #[test]
    fn routes_differ_by_method_and_template() {
        let route = Route::from(RouteRef::new(&Method::GET, "/a"));
        assert!(route.is(RouteRef::new(&Method::GET, "/a")));
        assert!(
            !route.is(RouteRef::new(&Method::PUT, "/a"))
                && !route.is(RouteRef::new(&Method::GET, "/b"))
        );
    }
}
