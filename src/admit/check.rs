//! What is wrong with policies: every problem at once, with its path and its remedy.

use super::policy::quota_of;
use super::policy::{Block, Policies, Policy};
use super::terms::{Subject, routes_of};
use crate::caller::Provenance;
use crate::clock::Timestamp;

impl Policies {
    /// Everything that is wrong, with the paths of the configuration.
    pub(crate) fn problems(&self, now: Timestamp) -> Vec<String> {
        let mut problems = Vec::new();
        let mut table = |path: &str, policy: &Policy| check_table(path, policy, now, &mut problems);
        table("default", &self.default);
        for (provenance, policy) in Provenance::ALL.iter().zip(&self.provenance) {
            table(&format!("provenance.{provenance}"), policy);
        }
        for (name, policy) in &self.tiers {
            table(&format!("tier.{name}"), policy);
        }
        for (name, caller) in &self.callers {
            table(&format!("caller.{name}"), &caller.policy);
        }
        for (path, policy) in self.tables_without_total() {
            if policy.total.is_some() {
                problems.push(format!(
                    "{path}.total: belongs to a provenance; use `quota` here"
                ));
            }
        }
        for (name, caller) in &self.callers {
            if let Some(tier) = caller
                .tier
                .as_ref()
                .filter(|tier| !self.tiers.contains_key(*tier))
            {
                problems.push(format!(
                    "caller.{name}.tier: there is no tier {tier:?}; add [tier.{tier}]"
                ));
            }
        }
        if let Some(problem) = self.ceiling.and_then(|ceiling| ceiling.problem()) {
            problems.push(format!("ceiling.{problem}"));
        }
        self.check_found(&mut problems);
        problems.sort();
        problems.dedup();
        problems
    }

    fn tables_without_total(&self) -> impl Iterator<Item = (String, &Policy)> {
        let tiers = self
            .tiers
            .iter()
            .map(|(name, policy)| (format!("tier.{name}"), policy));
        let callers = self
            .callers
            .iter()
            .map(|(name, c)| (format!("caller.{name}"), &c.policy));
        [("default".to_owned(), &self.default)]
            .into_iter()
            .chain(tiers)
            .chain(callers)
    }

    /// What shows only once the tables are laid over each other.
    fn check_found(&self, problems: &mut Vec<String>) {
        let of = |name, provenance, proven| Subject {
            name,
            provenance,
            proven,
        };
        for provenance in Provenance::ALL {
            let path = format!("provenance.{provenance}");
            check_found(&path, &self.tables(&of("", provenance, false)), problems);
        }
        for name in self.callers.keys() {
            let subject = of(name.as_str(), Provenance::Verified, true);
            check_found(&format!("caller.{name}"), &self.tables(&subject), problems);
        }
    }
}

fn check_table(path: &str, policy: &Policy, now: Timestamp, problems: &mut Vec<String>) {
    let mut say = |field: &str, problem: &str| problems.push(format!("{path}.{field}: {problem}"));
    for (field, quota) in [("quota", policy.quota), ("total", policy.total)] {
        if let Some(quota) = quota
            && let Some(problem) = quota.problem()
        {
            say(field, &format!("\"{quota}\" {problem}"));
        }
    }
    let zero = "0 lets nothing through; use 1 or more";
    for (field, limit) in [
        ("burst", policy.burst),
        ("max_in_flight", policy.max_in_flight),
        ("max_streams", policy.max_streams),
    ] {
        if limit == Some(0) {
            say(field, zero);
        }
    }
    if policy
        .weight
        .is_some_and(|weight| !(weight > 0.0 && weight <= 1_000.0))
    {
        say(
            "weight",
            "is not a weight; use a number above 0, at most 1000",
        );
    }
    if let Some(Block::Until(end)) = policy.block
        && end <= now
    {
        say(
            "block_until",
            "is in the past; use a later time, or leave it out",
        );
    }
    let routes = policy.costs.iter().map(|(route, _)| ("cost", route));
    for (field, route) in routes.chain(policy.routes.iter().map(|(route, _)| ("route", route))) {
        let known = route.split_once(' ').is_some_and(|(method, path)| {
            !method.is_empty()
                && method.bytes().all(|b| b.is_ascii_uppercase())
                && path.starts_with('/')
        });
        if !known {
            say(
                &format!("{field}.{route:?}"),
                "is not a route; use a method and a template, such as \"GET /v1/prices/{sku}\"",
            );
        }
    }
    for (route, cost) in &policy.costs {
        if *cost == 0 {
            say(&format!("cost.{route:?}"), "0 is not a cost; use 1 or more");
        }
    }
    for (route, rule) in &policy.routes {
        if let Some(quota) = rule.quota
            && let Some(problem) = quota.problem()
        {
            say(
                &format!("route.{route:?}.quota"),
                &format!("\"{quota}\" {problem}"),
            );
        }
        if rule.burst == Some(0) {
            say(&format!("route.{route:?}.burst"), zero);
        }
    }
}

fn check_found(path: &str, tables: &[&Policy], problems: &mut Vec<String>) {
    let quota = quota_of(tables.iter().map(|table| (table.quota, table.burst)));
    if let Some(quota) = quota.filter(|quota| quota.problem().is_some())
        && !tables.iter().any(|table| table.quota == Some(quota))
        && let Some(problem) = quota.problem()
    {
        problems.push(format!("{path}.burst: \"{quota}\" {problem}"));
    }
    for (route, own, cost) in routes_of(tables) {
        if let Some(quota) = own.or(quota)
            && cost > quota.max_burst()
        {
            problems.push(format!(
                "{path}.cost.{route:?}: {cost} is above the burst of \"{quota}\"; use a burst of {cost} or more"
            ));
        }
    }
}
