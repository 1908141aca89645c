//! What is wrong with policies: every problem at once, with its path and its remedy.

use super::policy::{Block, Policies, Policy, quota_of};
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
        let anonymous = Provenance::ALL.map(|provenance| of("", provenance, false));
        let named = self
            .callers
            .keys()
            .map(|name| of(name, Provenance::Verified, true));
        for subject in anonymous.into_iter().chain(named) {
            let tables = self.tables(&subject);
            let quota = quota_of(tables.iter().map(|table| (table.quota, table.burst)));
            let burst = tables
                .iter()
                .find(|table| table.burst.is_some() && table.quota.is_none());
            if let (Some(quota), Some(table)) = (quota, burst)
                && let Some(problem) = quota.problem()
            {
                problems.push(format!(
                    "{}.burst: \"{quota}\" {problem}",
                    self.path_of(table)
                ));
            }
            for (route, own, cost) in routes_of(&tables) {
                let table = tables
                    .iter()
                    .find(|table| table.costs.iter().any(|(name, _)| name == route));
                if let (Some(quota), Some(table)) = (own.or(quota), table)
                    && cost > quota.max_burst()
                {
                    problems.push(format!(
                        "{}.cost.{route:?}: {cost} is above the burst of \"{quota}\"; use a burst of {cost} or more",
                        self.path_of(table)
                    ));
                }
            }
        }
    }

    /// The path of one of these tables.
    fn path_of(&self, table: &Policy) -> String {
        let provenances = Provenance::ALL.iter().zip(&self.provenance);
        let provenances =
            provenances.map(|(provenance, policy)| (format!("provenance.{provenance}"), policy));
        let mut all = self.tables_without_total().chain(provenances);
        all.find(|(_, policy)| std::ptr::eq(*policy, table))
            .map(|(path, _)| path)
            .unwrap_or_default()
    }
}

fn check_table(path: &str, policy: &Policy, now: Timestamp, problems: &mut Vec<String>) {
    let mut say = |field: &str, problem: &str| problems.push(format!("{path}.{field}: {problem}"));
    for (field, quota) in [("quota", policy.quota), ("total", policy.total)] {
        if let Some(quota) = quota
            && let Some(problem) = quota.problem()
        {
            say(field, &format!("\"{quota}\" {problem}"));
        } else if let (Some(quota), Some(burst), "quota") = (quota, policy.burst, field)
            && burst > 0
            && let Some(problem) = quota.with_burst(Some(burst)).problem()
        {
            say(
                "burst",
                &format!("\"{}\" {problem}", quota.with_burst(Some(burst))),
            );
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
