//! The architecture, as it is read off the folder listing: who may know whom.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// Layers from the lowest up. A module may name modules of lower layers; in the same layer only itself, except
/// where the layer says that its modules may know each other.
const LAYERS: [(&[&str], bool); 6] = [
    (
        &[
            "caller",
            "outcome",
            "clock",
            "roster",
            "span",
            "json",
            "lock",
            "events",
            "incidents",
        ],
        true,
    ),
    // Stages are blind to each other: what one needs of another is a word.
    (
        &["identify", "classify", "admit", "record", "detect"],
        false,
    ),
    (&["registry"], false),
    (&["pipeline"], false),
    (
        &[
            "upkeep",
            "kept",
            "remember",
            "shared",
            "watch",
            "gauges",
            "snapshot",
            "callers",
            "builder",
            "config",
            "middleware",
        ],
        true,
    ),
    // Leaves.
    (&["extract", "dashboard", "docs", "replay"], false),
];

/// Words that the words' own layer keeps from each other: a name needs no clock.
const LOWEST: [&str; 3] = ["caller", "outcome", "clock"];

/// Lines that name a module of a higher layer: an account on the roster carries the words of its policy.
const EXCEPTIONS: [(&str, &str); 1] = [("roster", "use crate::admit::{Policy, Quota};")];

fn layer_of(module: &str) -> Option<usize> {
    LAYERS
        .iter()
        .position(|(modules, _)| modules.contains(&module))
}

struct Source {
    path: PathBuf,
    /// The module at the root of the crate that the file belongs to.
    module: String,
    text: String,
}

impl Source {
    /// Lines of code with their numbers; comments, which may link to anything, are left out.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(index, line)| (index + 1, line.split(" // ").next().unwrap_or(line)))
    }
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    let source = |path: PathBuf| {
        let inside = path.strip_prefix(&root).unwrap();
        let first = inside
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap();
        Source {
            module: first.trim_end_matches(".rs").to_owned(),
            text: fs::read_to_string(&path).unwrap(),
            path: inside.to_owned(),
        }
    };
    found.into_iter().map(source).collect()
}

/// The modules that a line names by a path from the root of the crate.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        &rest[..end]
    })
}

#[test]
fn no_module_knows_one_above_or_beside_it() {
    let mut wrong = Vec::new();
    let mut edges = 0;
    for source in sources().iter().filter(|source| source.module != "lib") {
        let own = layer_of(&source.module)
            .unwrap_or_else(|| panic!("{} is in no layer: add it to the list", source.module));
        for (number, line) in source.code() {
            for other in named(line) {
                edges += 1;
                if EXCEPTIONS.contains(&(&*source.module, line)) {
                    continue;
                }
                let allowed = match layer_of(other) {
                    None => false,
                    Some(theirs) if theirs == own => {
                        let lowest = LOWEST.contains(&&*source.module) && source.module != other;
                        source.module == other || (LAYERS[own].1 && !lowest)
                    }
                    Some(theirs) => theirs < own,
                };
                if !allowed {
                    wrong.push(format!(
                        "{}:{number}: `{}` names `crate::{other}`",
                        source.path.display(),
                        source.module
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(
        edges > 100,
        "{edges} paths found: is the search still right?"
    );
}

#[test]
fn only_the_clock_reads_the_time() {
    for source in sources().iter().filter(|source| source.module != "clock") {
        for (number, line) in source.code() {
            for reading in [
                "Instant::now",
                "SystemTime::now",
                ".elapsed()",
                "UNIX_EPOCH",
            ] {
                assert!(
                    !line.contains(reading),
                    "{}:{number}: {line}",
                    source.path.display()
                );
            }
        }
    }
}

#[test]
fn only_one_file_holds_names_of_metrics() {
    let mut found = 0;
    for source in sources() {
        for (number, line) in source.code() {
            if line.contains("\"callerid_") {
                found += 1;
                assert_eq!(
                    source.path,
                    Path::new("record/names.rs"),
                    "line {number}: {line}"
                );
            }
        }
    }
    assert!(found >= 15, "{found}");
}

#[test]
fn only_the_middleware_knows_tower_and_only_the_record_and_the_upkeep_the_facade() {
    for source in sources() {
        for (number, line) in source.code() {
            let place = format!("{}:{number}: {line}", source.path.display());
            if line.contains("tower::") {
                let service = source.path == Path::new("dashboard/service.rs");
                assert!(source.module == "middleware" || service, "{place}");
            }
            if line.contains("metrics::") {
                let knows = ["record", "upkeep", "gauges"];
                assert!(knows.contains(&&*source.module), "{place}");
            }
        }
    }
}

#[test]
fn no_file_is_longer_than_five_hundred_lines() {
    for source in sources() {
        let lines = source.text.lines().count();
        assert!(lines <= 500, "{} has {lines} lines", source.path.display());
    }
}
