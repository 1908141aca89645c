//! Every metric name, once. The table in the crate's documentation is compared with this one by a test.

use metrics::{KeyName, Recorder, Unit};

pub(crate) const STARTED: &str = "callerid_requests_started_total";
pub(crate) const REQUESTS: &str = "callerid_requests_total";
pub(crate) const DURATION: &str = "callerid_request_duration_seconds";
pub(crate) const FIRST_BYTE: &str = "callerid_time_to_first_byte_seconds";
pub(crate) const ROUTE_REQUESTS: &str = "callerid_route_requests_total";
pub(crate) const IN_FLIGHT: &str = "callerid_in_flight_requests";
pub(crate) const REQUEST_BYTES: &str = "callerid_request_body_bytes_total";
pub(crate) const RESPONSE_BYTES: &str = "callerid_response_body_bytes_total";
pub(crate) const CALLER_INFO: &str = "callerid_caller_info";
pub(crate) const IDENTIFIED: &str = "callerid_identified_total";
pub(crate) const IMPERSONATIONS: &str = "callerid_impersonations_total";
pub(crate) const TRACKED: &str = "callerid_callers_tracked";
pub(crate) const OVERFLOW: &str = "callerid_callers_overflow_total";
pub(crate) const KEY_LAST_USED: &str = "callerid_api_key_last_used_timestamp_seconds";
pub(crate) const REFUSED: &str = "callerid_refused_total";
pub(crate) const WOULD_REFUSE: &str = "callerid_would_refuse_total";
pub(crate) const QUOTA_LIMIT: &str = "callerid_quota_limit";
pub(crate) const MODE: &str = "callerid_mode";
pub(crate) const CONFIG_INFO: &str = "callerid_config_info";
pub(crate) const CONFIG_RELOADED: &str = "callerid_config_last_reload_successful";
pub(crate) const RUNAWAY: &str = "callerid_runaway";
pub(crate) const RUNAWAY_PAGES: &str = "callerid_runaway_pages";
pub(crate) const RUNAWAYS: &str = "callerid_runaways_total";
pub(crate) const LAST_PIN: &str = "callerid_last_pin_timestamp_seconds";
pub(crate) const LIMITER_DEGRADED: &str = "callerid_limiter_degraded";
pub(crate) const LIMITER_ERRORS: &str = "callerid_limiter_backend_errors_total";
pub(crate) const BUILD_INFO: &str = "callerid_build_info";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Name, kind, unit and meaning of every metric that this crate records.
pub(crate) const METRICS: [(&str, Kind, Unit, &str); 27] = [
    (
        STARTED,
        Kind::Counter,
        Unit::Count,
        "Requests that began, by caller.",
    ),
    (
        REQUESTS,
        Kind::Counter,
        Unit::Count,
        "Requests that ended, by caller and by how they ended.",
    ),
    (
        DURATION,
        Kind::Histogram,
        Unit::Seconds,
        "Time from the head of the request to the end of the response body.",
    ),
    (
        FIRST_BYTE,
        Kind::Histogram,
        Unit::Seconds,
        "Time from the head of the request to the first frame of the response, or to its head where no frame is ready.",
    ),
    (
        ROUTE_REQUESTS,
        Kind::Counter,
        Unit::Count,
        "Requests that ended, by caller, route and fault.",
    ),
    (
        IN_FLIGHT,
        Kind::Gauge,
        Unit::Count,
        "Requests that began and have not ended.",
    ),
    (
        REQUEST_BYTES,
        Kind::Counter,
        Unit::Bytes,
        "Declared length of the request bodies of ended requests.",
    ),
    (
        RESPONSE_BYTES,
        Kind::Counter,
        Unit::Bytes,
        "Bytes of the response bodies of ended requests.",
    ),
    (
        CALLER_INFO,
        Kind::Gauge,
        Unit::Count,
        "Always 1; the owner and contact of a caller on the roster.",
    ),
    (
        IDENTIFIED,
        Kind::Counter,
        Unit::Count,
        "Requests by what said who is calling, and how sure that is.",
    ),
    (
        IMPERSONATIONS,
        Kind::Counter,
        Unit::Count,
        "Requests that claimed the name of a caller on the roster in vain.",
    ),
    (TRACKED, Kind::Gauge, Unit::Count, "Callers in the table."),
    (
        OVERFLOW,
        Kind::Counter,
        Unit::Count,
        "Requests that were counted under __other__ for want of room.",
    ),
    (
        KEY_LAST_USED,
        Kind::Gauge,
        Unit::Seconds,
        "When an API key was last used, in seconds since the Unix epoch.",
    ),
    (
        REFUSED,
        Kind::Counter,
        Unit::Count,
        "Requests that were refused, by caller and reason.",
    ),
    (
        WOULD_REFUSE,
        Kind::Counter,
        Unit::Count,
        "Requests that a limit in shadow would have refused, by caller and reason.",
    ),
    (
        QUOTA_LIMIT,
        Kind::Gauge,
        Unit::Count,
        "The quota in force, in requests per second.",
    ),
    (
        MODE,
        Kind::Gauge,
        Unit::Count,
        "1 for the position of the switch, 0 for the others.",
    ),
    (
        CONFIG_INFO,
        Kind::Gauge,
        Unit::Count,
        "Always 1; the hash of the configuration in force.",
    ),
    (
        CONFIG_RELOADED,
        Kind::Gauge,
        Unit::Count,
        "1 where the last load of the configuration succeeded, 0 where it did not.",
    ),
    (
        RUNAWAY,
        Kind::Gauge,
        Unit::Count,
        "1 while a caller departs from its own past, by signal.",
    ),
    (
        RUNAWAY_PAGES,
        Kind::Gauge,
        Unit::Count,
        "1 while a caller departs from its own past, does harm, was not announced and is in nobody's hand.",
    ),
    (
        RUNAWAYS,
        Kind::Counter,
        Unit::Count,
        "How often a caller began to depart from its own past, by signal.",
    ),
    (
        LAST_PIN,
        Kind::Gauge,
        Unit::Seconds,
        "When a caller changed something last, by what, in seconds since the Unix epoch; without a caller it was us.",
    ),
    (
        LIMITER_DEGRADED,
        Kind::Gauge,
        Unit::Count,
        "1 while the Redis of the fleet does not answer as it should, and quotas are not shared.",
    ),
    (
        LIMITER_ERRORS,
        Kind::Counter,
        Unit::Count,
        "How often the Redis of the fleet was of no help, by why.",
    ),
    (
        BUILD_INFO,
        Kind::Gauge,
        Unit::Count,
        "Always 1; the version of this crate.",
    ),
];

/// Tells a recorder what every metric means.
pub(crate) fn describe(recorder: &dyn Recorder) {
    for (name, kind, unit, help) in METRICS {
        let name = KeyName::from_const_str(name);
        match kind {
            Kind::Counter => recorder.describe_counter(name, Some(unit), help.into()),
            Kind::Gauge => recorder.describe_gauge(name, Some(unit), help.into()),
            Kind::Histogram => recorder.describe_histogram(name, Some(unit), help.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for (name, kind, ..) in METRICS {
            assert!(name.starts_with("callerid_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
            if kind == Kind::Histogram {
                assert!(name.ends_with("_seconds"), "{name}");
            }
        }
    }

    #[test]
    fn the_table_in_the_documentation_has_every_metric_and_no_other() {
        let docs = include_str!("../lib.rs");
        let rows = docs
            .lines()
            .filter_map(|line| line.strip_prefix("//! | `callerid_"));
        let mut documented: Vec<(String, String)> = rows
            .filter_map(|row| {
                let mut cells = row.split('|').map(str::trim);
                let name = format!("callerid_{}", cells.next()?.trim_end_matches('`'));
                Some((name, cells.next()?.to_owned()))
            })
            .collect();
        documented.sort();
        let kind = |kind: Kind| format!("{kind:?}").to_lowercase();
        let mut recorded: Vec<_> = METRICS
            .into_iter()
            .map(|(name, of, ..)| (name.to_owned(), kind(of)))
            .collect();
        recorded.sort();
        assert_eq!(documented, recorded);
    }
}
