//! The same figures over the OpenTelemetry bridge, whose SDK folds everything past 2,000 series of a metric into one.

use std::collections::BTreeMap;
use std::time::Duration;

use callerid::{Account, Class, identify};
use metrics_exporter_opentelemetry::Recorder;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};

use crate::support::{
    Answer, Series, Table, answer_by_class, request, route_of_header, send_class, send_many, series,
};

struct Otel {
    exporter: InMemoryMetricExporter,
    provider: SdkMeterProvider,
    recorder: Recorder,
}

/// Sums, gauges, and counts of histograms, by series.
#[derive(Default)]
struct Exported {
    values: BTreeMap<Series, f64>,
    sums: BTreeMap<Series, f64>,
    overflowed: Vec<String>,
}

impl Otel {
    fn new() -> Self {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone()).build();
        let (provider, recorder) = Recorder::builder("callerid")
            .with_meter_provider(|builder| builder.with_reader(reader))
            .build();
        Self {
            exporter,
            provider,
            recorder,
        }
    }

    fn flush(&self, table: &Table) {
        metrics::with_local_recorder(&self.recorder, || table.callers.flush());
    }

    /// What the exporter gets. The bridge makes two instruments of a name, one described and one not; they are
    /// one metric.
    fn export(&self) -> Exported {
        self.exporter.reset();
        self.provider.force_flush().unwrap();
        let finished = self.exporter.get_finished_metrics().unwrap();
        let mut exported = Exported::default();
        for metric in finished
            .iter()
            .flat_map(|resource| resource.scope_metrics())
            .flat_map(|scope| scope.metrics())
        {
            let mut add = |attributes: &mut dyn Iterator<Item = &opentelemetry::KeyValue>,
                           value: f64,
                           sum: f64| {
                let labels: Vec<_> = attributes
                    .map(|pair| (pair.key.to_string(), pair.value.to_string()))
                    .collect();
                if labels.iter().any(|(key, _)| key == "otel.metric.overflow") {
                    exported.overflowed.push(metric.name().to_owned());
                }
                let labels: Vec<_> = labels
                    .iter()
                    .map(|(key, value)| (&**key, &**value))
                    .collect();
                let series = series(metric.name(), &labels);
                *exported.values.entry(series.clone()).or_default() += value;
                *exported.sums.entry(series).or_default() += sum;
            };
            match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(data)) => data
                    .data_points()
                    .for_each(|point| add(&mut point.attributes(), point.value() as f64, 0.0)),
                AggregatedMetrics::F64(MetricData::Gauge(data)) => data
                    .data_points()
                    .for_each(|point| add(&mut point.attributes(), point.value(), 0.0)),
                AggregatedMetrics::F64(MetricData::Histogram(data)) => {
                    data.data_points().for_each(|point| {
                        add(&mut point.attributes(), point.count() as f64, point.sum())
                    })
                }
                other => panic!("{}: {other:?}", metric.name()),
            }
        }
        exported
    }
}

impl Exported {
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted = series(name, labels);
        let found = self.values.get(&wanted);
        *found.unwrap_or_else(|| panic!("no {wanted:?}"))
    }

    fn series_by_metric(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for (name, _) in self.values.keys() {
            *counts.entry(name.as_str()).or_default() += 1;
        }
        counts
    }

    fn total(&self, name: &str) -> f64 {
        let of_name = self.values.iter().filter(|((found, _), _)| found == name);
        of_name.map(|(_, value)| value).sum()
    }
}

#[test]
fn the_bridge_shows_the_same_figures() {
    let table = Table::new();
    let otel = Otel::new();
    let clock = table.clock.clone();
    let mut service = table.layered(move |_| {
        clock.advance(Duration::from_millis(30));
        Answer::status(422)
    });
    send_many(&mut service, "a", 10);
    otel.flush(&table);
    send_many(&mut service, "a", 10);
    otel.flush(&table);
    otel.flush(&table);
    let exported = otel.export();
    let a = [("caller", "a")];
    let validation = [("caller", "a"), ("class", "validation")];
    assert_eq!(exported.value("callerid_requests_started_total", &a), 20.0);
    assert_eq!(exported.value("callerid_requests_total", &validation), 20.0);
    assert_eq!(
        exported.value(
            "callerid_requests_total",
            &[("caller", "a"), ("class", "ok")]
        ),
        0.0
    );
    assert_eq!(
        exported.value("callerid_request_duration_seconds", &validation),
        20.0
    );
    let sum = exported.sums[&series("callerid_request_duration_seconds", &validation)];
    assert!((sum - 0.6).abs() < 1e-9, "{sum}");
    assert_eq!(exported.value("callerid_in_flight_requests", &a), 0.0);
    assert_eq!(
        exported.value("callerid_time_to_first_byte_seconds", &a),
        20.0
    );
}

#[test]
fn trap_01_a_full_table_of_callers_by_class_and_route_stays_below_the_limit_of_the_sdk() {
    // 30 on the roster and as many others as there is room for, every class of each, and more routes than fit.
    let table = Table::with(|builder| {
        let builder = builder
            .identify(identify::header("x-client-id").verified())
            .route(route_of_header);
        (0..30).fold(builder, |builder, index| {
            builder.caller(Account::new(format!("roster{index}")))
        })
    });
    let otel = Otel::new();
    let mut service = table.layered(answer_by_class);
    let names: Vec<_> = (0..30)
        .map(|index| format!("roster{index}"))
        .chain((0..150).map(|index| format!("team{index}")))
        .collect();
    let mut sent = 0.0;
    for name in &names {
        for class in Class::ALL {
            for route in 0..10 {
                send_class(&mut service, name, class, &format!("/r{route}"));
                sent += 1.0;
            }
        }
    }
    for ours in ["", "not a name"] {
        for class in Class::ALL {
            send_class(&mut service, ours, class, "/r0");
            sent += 1.0;
        }
    }
    for (index, class) in Class::ALL.into_iter().enumerate() {
        let mut probe = request("probe");
        *probe.uri_mut() = "/healthz".parse().unwrap();
        probe
            .headers_mut()
            .insert("x-class", class.as_str().parse().unwrap());
        let mut future = std::pin::pin!(tower::Service::call(&mut service, probe));
        drop(crate::support::poll_once(future.as_mut()));
        let nobody = http::Request::builder()
            .header("x-class", class.as_str())
            .body(String::new())
            .unwrap();
        let mut future = std::pin::pin!(tower::Service::call(&mut service, nobody));
        drop(crate::support::poll_once(future.as_mut()));
        sent += 2.0;
        assert_eq!(class as usize, index);
    }
    otel.flush(&table);
    // And every replacement of a row that is free at once: each is heavier than the one before.
    for index in 0..40 {
        for _ in 0..128 * (index + 2) {
            send_class(&mut service, &format!("heavy{index}"), Class::Ok, "/r0");
            sent += 1.0;
        }
        for class in Class::ALL {
            send_class(&mut service, &format!("heavy{index}"), class, "/r0");
            sent += 1.0;
        }
    }
    table.tick_after(Duration::from_secs(1));
    otel.flush(&table);
    let exported = otel.export();
    for (metric, series) in exported.series_by_metric() {
        assert!(series < 2_000, "{metric} has {series} series");
    }
    assert_eq!(exported.overflowed, Vec::<String>::new());
    assert!(exported.series_by_metric()["callerid_requests_total"] >= 12 * (118 + 16));
    assert!(exported.series_by_metric()["callerid_route_requests_total"] > 1_000);
    for metric in [
        "callerid_requests_started_total",
        "callerid_requests_total",
        "callerid_request_duration_seconds",
        "callerid_route_requests_total",
    ] {
        assert_eq!(exported.total(metric), sent, "{metric}");
    }
    // Nobody asks a probe who it is.
    let probes = Class::ALL.len() as f64;
    assert_eq!(exported.total("callerid_identified_total"), sent - probes);
}
