//! Situations that an operator would think of, with the one right answer to each.
//!
//! One seed by default, fed by turns as production and as a log does; `SEEDS=3..9` runs others, both ways, and
//! `SITUATION=crowd` only those whose name contains the word. The longest delays allowed are those of small,
//! very bursty callers: the evidence of a burst is divided by how bursty the caller has been.

mod situations;
mod worlds;

use situations::{Situation, loud, quiet};
use worlds::verdict;

const LENGTH: f64 = situations::LENGTH;

/// What went wrong, by situation; empty if nothing did.
fn judge(situations: &[Situation], seeds: std::ops::Range<u64>) -> Vec<String> {
    let only = std::env::var("SITUATION").unwrap_or_default();
    let mut wrong = Vec::new();
    let both = std::env::var_os("SEEDS").is_some();
    let chosen = situations.iter().filter(|s| s.name.contains(&only));
    for (i, situation) in chosen.enumerate() {
        for seed in seeds.clone() {
            for live in [false, true] {
                if !both && live != (i % 2 == 0) {
                    continue;
                }
                let events = (situation.build)(seed).run(live);
                let how = if live { "live" } else { "log" };
                let who: Vec<&str> = situation.culprits.iter().map(|c| c.0).collect();
                for &(name, from, within) in situation.culprits {
                    let (found, others) = verdict(&events, name, from, LENGTH);
                    println!("{:36} {seed} {how:4} {name}: {found:?}", situation.name);
                    if found.is_none_or(|delay| delay > within) {
                        wrong.push(format!(
                            "{}, seed {seed}, {how}: {name} after {found:?}",
                            situation.name
                        ));
                    }
                    let strangers = others
                        .iter()
                        .filter(|o| !who.iter().any(|w| o.starts_with(&format!("{w} "))));
                    wrong.extend(
                        strangers.map(|o| format!("{}, seed {seed}, {how}: {o}", situation.name)),
                    );
                }
                let common = events
                    .iter()
                    .filter(|e| e.caller.is_none() && !situation.common);
                wrong.extend(common.map(|e| {
                    format!(
                        "{}, seed {seed}, {how}: {:?} at {}",
                        situation.name, e.kind, e.t
                    )
                }));
                if situation.culprits.is_empty() {
                    let (_, others) = verdict(&events, "", 0.0, LENGTH);
                    wrong.extend(
                        others
                            .iter()
                            .map(|o| format!("{}, seed {seed}, {how}: {o}", situation.name)),
                    );
                }
            }
        }
    }
    wrong
}

fn seeds() -> std::ops::Range<u64> {
    let text = std::env::var("SEEDS").unwrap_or_default();
    let mut parts = text.split("..").filter_map(|p| p.parse().ok());
    match (parts.next(), parts.next()) {
        (Some(from), Some(to)) => from..to,
        _ => 0..1,
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimisation: use --release")]
fn nobody_is_named_where_nobody_departs_from_what_is_harmless() {
    let wrong = judge(&quiet(), seeds());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimisation: use --release")]
fn the_culprit_is_named_in_time_and_nobody_else() {
    let wrong = judge(&loud(), seeds());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
