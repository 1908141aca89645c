//! The metric table in the documentation of the crate, compared with what a recorder sees.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use callerid::{Account, ApiKey, Class, Fleet, identify};
use http::Request;
use metrics_util::MetricKind;

use crate::support::{Answer, Recorded, Table, answer_by_class, route_of_header, send_class};

/// The rows of the metric table in the documentation of the crate: name, kind, labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    include_str!("../../src/lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `callerid_"))
        .map(|row| {
            let cells: Vec<_> = row
                .trim_end_matches('|')
                .split('|')
                .map(str::trim)
                .collect();
            let [name, kind, labels] = cells[..] else {
                panic!("three cells: {row}")
            };
            let labels = labels
                .split(',')
                .map(|label| label.trim().trim_matches('`').to_owned())
                .filter(|label| !label.is_empty());
            let name = format!("callerid_{}", name.trim_end_matches('`'));
            (name, (kind.to_owned(), labels.collect()))
        })
        .collect()
}

#[test]
fn the_metric_table_in_the_documentation_is_what_a_recorder_sees() {
    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let name = format!("callerid-documented-{}.toml", std::process::id());
    let file = std::env::temp_dir().join(name);
    let text = "[default]\nquota = \"100/s\"\n[caller.spent]\nquota = \"1/s\"\n[caller.shadowed]\nquota = \"1/s\"\nmode = \"shadow\"\n";
    std::fs::write(&file, text).unwrap();
    let table = Table::with(|builder| {
        builder
            .identify(identify::api_key("x-api-key"))
            .identify(identify::header("x-proven").verified())
            .identify(identify::header("x-client-id"))
            .caller(
                Account::new("checkout")
                    .owner("Payments")
                    .api_key(ApiKey::sha256("k1", HASH)),
            )
            .route(route_of_header)
            // Nothing listens there: what is told of a fleet is told all the same.
            .fleet(Fleet::new("documented").redis("redis://127.0.0.1:1"))
            .config(&file)
            .unwrap()
    });
    std::fs::remove_file(&file).unwrap();
    let mut service = table.layered(answer_by_class);
    for class in Class::ALL {
        send_class(&mut service, "a", class, "/v1");
    }
    send_class(&mut service, "checkout", Class::Ok, "/v1");
    for name in ["spent", "shadowed"] {
        for _ in 0..3 {
            let proven = Request::builder()
                .header("x-proven", name)
                .body(String::new());
            table.send(proven.unwrap(), |_| Answer::status(200));
        }
    }
    let keyed = Request::builder()
        .header("x-api-key", "test")
        .body(String::new())
        .unwrap();
    table.send(keyed, |_| Answer::status(200));
    // Twelve minutes of calm, and a caller that runs away.
    let calm = Duration::from_millis(250);
    for requests in std::iter::repeat_n(1, 2_880).chain([20; 40]) {
        (0..requests).for_each(|_| send_class(&mut service, "b", Class::Ok, "/v1"));
        table.tick_after(calm);
    }
    let mut recorded = Recorded::new();
    recorded.flush(&table.callers);
    for (metric, caller) in [
        ("callerid_refused_total", "spent"),
        ("callerid_would_refuse_total", "shadowed"),
    ] {
        let of_quota = [("caller", caller), ("reason", "quota")];
        assert_eq!(recorded.counter(metric, &of_quota), Some(2), "{metric}");
        assert_eq!(recorded.total(metric), 2, "{metric}");
    }

    let mut seen: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for ((name, labels), kind) in &recorded.kinds {
        let kind = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let labels: BTreeSet<_> = labels.iter().map(|(key, _)| key.clone()).collect();
        let row = (kind.to_owned(), labels);
        let first = seen.entry(name.clone()).or_insert_with(|| row.clone());
        assert_eq!(*first, row, "{name}: every series has the same labels");
    }
    assert_eq!(seen, documented());
    for (name, description) in &recorded.described {
        assert!(
            description.ends_with('.'),
            "{name} is not described: {description:?}"
        );
    }
}

/// What a text links to: inline, and by the definitions at its end.
fn links(text: &str) -> Vec<&str> {
    let inline = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let defined = text.lines().filter(|line| line.starts_with('['));
    let defined = defined.filter_map(|line| Some(line.split_once("]: ")?.1));
    inline.chain(defined).collect()
}

#[test]
fn what_the_readme_and_the_guide_link_to_is_there_also_without_rustdoc() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = root.join("src/docs");
    let known = std::fs::read_to_string(guide.join("links.md")).unwrap();
    let mut files = vec![root.join("README.md"), root.join("benches/README.md")];
    files.extend(
        std::fs::read_dir(&guide)
            .unwrap()
            .map(|entry| entry.unwrap().path()),
    );
    files.retain(|file| {
        file.extension().is_some_and(|kind| kind == "md") && !file.ends_with("links.md")
    });
    assert!(files.len() > 10, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for link in links(&text)
            .into_iter()
            .filter(|link| !link.starts_with("https://"))
        {
            let there = file.parent().unwrap().join(link);
            assert!(there.exists(), "{}: {link}", file.display());
        }
        // In rustdoc a file is no page: each label has another meaning there, and each use has one at all.
        if file.starts_with(&guide) {
            for label in text
                .split("][")
                .skip(1)
                .filter_map(|rest| rest.split(']').next())
            {
                for of in [&text, &known] {
                    assert!(
                        of.contains(&format!("\n[{label}]: "))
                            || of.starts_with(&format!("[{label}]: ")),
                        "{label} in {}",
                        file.display()
                    );
                }
            }
            assert!(
                !text.contains("](."),
                "{}: use a definition",
                file.display()
            );
        }
    }
}
