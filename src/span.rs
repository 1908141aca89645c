//! The caller in the service's own traces and logs.

use tracing::field::Empty;
use tracing::level_filters::LevelFilter;
use tracing::{Span, info_span};

use crate::caller::Caller;

/// The field of the current span that holds the caller's name.
const FIELD: &str = "caller";

/// A span for one request, at level INFO and named `request`: `method`, `path`, `version` and `caller`. For
/// tower-http, outside of the layer, which fills in `caller`:
///
/// ```text
/// .layer(callers.layer())
/// .layer(TraceLayer::new_for_http().make_span_with(callerid::make_span))
/// ```
///
/// Inside of the layer the request has its [`Caller`] already, and the field is filled from the start. A span of
/// your own making needs only the field, `caller = tracing::field::Empty`. The query is left out: it may hold
/// secrets.
pub fn make_span<B>(request: &http::Request<B>) -> Span {
    let span = info_span!(
        "request",
        method = %request.method(),
        path = request.uri().path(),
        version = ?request.version(),
        caller = Empty,
    );
    if let Some(caller) = request.extensions().get::<Caller>() {
        span.record(FIELD, caller.name());
    }
    span
}

/// Fills in the field `caller` of the current span, if it has one. An atomic load where nobody listens.
#[inline]
pub(crate) fn record_caller(name: &str) {
    if LevelFilter::current() != LevelFilter::OFF {
        Span::current().record(FIELD, name);
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
    use tracing_subscriber::registry;

    use super::*;
    use crate::caller::{Provenance, Source};

    /// Writes every field of every span down.
    #[derive(Clone, Default)]
    struct Fields(Arc<Mutex<String>>);

    impl Fields {
        fn take(self) -> String {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            *self.0.lock().unwrap() += &format!("{}={value:?} ", field.name());
        }
    }

    impl<S: tracing::Subscriber> Layer<S> for Fields {
        fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
            attributes.record(&mut self.clone());
        }

        fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
            values.record(&mut self.clone());
        }
    }

    /// What a subscriber hears of the span of a request, in which `inside` runs.
    fn heard(request: &http::Request<()>, inside: impl FnOnce()) -> String {
        let fields = Fields::default();
        tracing::subscriber::with_default(registry().with(fields.clone()), || {
            make_span(request).in_scope(inside);
        });
        fields.take()
    }

    #[test]
    fn the_layer_fills_in_the_caller_of_a_span_outside_of_it() {
        let mut request = http::Request::new(());
        *request.uri_mut() = "/v1/prices?token=secret".parse().unwrap();
        let heard = heard(&request, || record_caller("checkout"));
        assert_eq!(
            heard,
            "method=GET path=\"/v1/prices\" version=HTTP/1.1 caller=\"checkout\" "
        );
    }

    #[test]
    fn a_span_inside_of_the_layer_has_its_caller_from_the_start() {
        let mut request = http::Request::new(());
        let caller = Caller::new("checkout", Provenance::Verified, Source::Header, 1);
        request.extensions_mut().insert(caller);
        assert!(heard(&request, || {}).ends_with("caller=\"checkout\" "));
    }

    #[test]
    fn without_a_span_or_a_subscriber_nothing_happens() {
        record_caller("checkout");
        tracing::subscriber::with_default(registry(), || record_caller("checkout"));
    }
}
