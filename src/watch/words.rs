//! A finding, in a sentence.

use std::fmt::Write as _;

use super::changes::OwnChange;
use crate::events::{Finding, Harm, Pattern, Signal};

/// What was found, as one would say it on the telephone: who, where, what, how sure, since which change; and what we
/// changed ourselves.
pub(crate) fn in_words(finding: &Finding, ours: Option<&OwnChange>, now: f64) -> String {
    let mut words = String::new();
    let Some(caller) = &finding.caller else {
        return "nobody in particular: the service itself, or everybody at once".to_owned();
    };
    words.push_str(caller);
    match (&finding.owner, &finding.contact) {
        (Some(owner), Some(contact)) => _ = write!(words, " ({owner}, {contact})"),
        (Some(one), None) | (None, Some(one)) => _ = write!(words, " ({one})"),
        (None, None) => {}
    }
    if let Some(route) = &finding.route {
        let _ = write!(words, ", on {route}");
    }
    let (baseline, observed) = (finding.baseline, finding.observed);
    match finding.signal {
        Some(Signal::Errors) => {
            let class = finding
                .class
                .map_or("errors", crate::outcome::Class::as_str);
            let _ = write!(
                words,
                ": {:.0} % {class}, {:.1} % before",
                100.0 * observed,
                100.0 * baseline
            );
        }
        Some(Signal::InFlight) => {
            let _ = write!(
                words,
                ": {observed:.1} requests in flight, {baseline:.1} before"
            );
        }
        Some(Signal::Names) => {
            let _ = write!(
                words,
                ": {observed:.1} new names a second, {baseline:.1} before"
            );
        }
        _ => {
            let _ = write!(
                words,
                ": {observed:.1} requests a second, {baseline:.1} before"
            );
        }
    }
    if let Some(factor) = finding.factor.filter(|factor| *factor >= 1.5) {
        let _ = write!(words, ", {factor:.1} times its own past");
    }
    if let (Some(class), Some(Signal::Rate)) = (finding.class, finding.signal)
        && class != crate::outcome::Class::Ok
    {
        let _ = write!(words, ", most of it {class}");
    }
    match finding.pattern {
        Some(Pattern::Repeat) => words.push_str(", the same keys again and again"),
        Some(Pattern::Scan) => words.push_str(", never the same key twice"),
        None => {}
    }
    if let Some(share) = finding.share_of_rise {
        let _ = write!(words, ", explains {:.0} % of the rise", 100.0 * share);
    }
    if let Some(deploy) = &finding.deploy {
        let after = finding.since - deploy.t;
        let _ = match after.abs() < 1.0 {
            true => write!(words, ", at its deploy of {}", deploy.version),
            false if after > 0.0 => write!(
                words,
                ", {after:.0} s after its deploy of {}",
                deploy.version
            ),
            false => write!(words, ", about its deploy of {}", deploy.version),
        };
    }
    words.push_str(match finding.harm {
        Harm::None => "; nobody else suffers",
        Harm::AtRisk => "; the others are at risk",
        Harm::Harmed => "; the others suffer",
    });
    match ours {
        Some(ours) => {
            let ago = (now - ours.t).max(0.0);
            let _ = write!(
                words,
                "; our own last change ({}) was {} ago",
                ours.what,
                ago_in_words(ago)
            );
        }
        None => words.push_str("; no change of ours is known"),
    }
    words
}

fn ago_in_words(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..=119 => format!("{whole} s"),
        120..=7_199 => format!("{} min", whole / 60),
        _ => format!("{} h", whole / 3_600),
    }
}
