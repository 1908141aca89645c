//! What is wrong with policies: every problem at once, with its path and its remedy.

use super::policy::{Block, Policies, Policy};
use super::quota::Quota;
use super::terms::{Subject, routes_of};
use crate::caller::Provenance;
use crate::clock::Timestamp;

/// `table.name`, with the name in quotes where TOML wants it so.
pub(crate) fn at(table: &str, name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let dot = if table.is_empty() { "" } else { "." };
    if !name.is_empty() && name.bytes().all(bare) {
        format!("{table}{dot}{name}")
    } else {
        format!("{table}{dot}{name:?}")
    }
}

impl Policies {
    /// Everything that is wrong, with the paths of the configuration.
    pub(crate) fn problems(&self, now: Timestamp) -> Vec<String> {
        let mut problems = self.problems_of_tables(now);
        problems.extend(self.problems_between_tables());
        problems.sort();
        problems.dedup();
        problems
    }

    /// What is wrong with each table, whatever others say.
    pub(crate) fn problems_of_tables(&self, now: Timestamp) -> Vec<String> {
        let mut problems = Vec::new();
        for (path, policy) in self.tables_without_total() {
            check_table(&path, policy, now, &mut problems);
            if policy.total.is_some() {
                problems.push(format!(
                    "{path}.total: belongs to a provenance; use `quota` here"
                ));
            }
        }
        for (provenance, policy) in Provenance::ALL.iter().zip(&self.provenance) {
            let path = format!("provenance.{provenance}");
            check_table(&path, policy, now, &mut problems);
        }
        if let Some(problem) = self.ceiling.and_then(|ceiling| ceiling.problem()) {
            problems.push(format!("ceiling.{problem}"));
        }
        problems
    }

    /// What shows only once all tables are there: another file, or the program, may add one.
    pub(crate) fn problems_between_tables(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, caller) in &self.callers {
            let tier = caller.tier.as_ref();
            if let Some(tier) = tier.filter(|tier| !self.tiers.contains_key(*tier)) {
                let (path, wanted) = (at("caller", name), at("tier", tier));
                problems.push(format!(
                    "{path}.tier: there is no tier {tier:?}; add [{wanted}]"
                ));
            }
        }
        self.check_found(&mut problems);
        problems
    }

    /// What is wrong with a fleet, or without one.
    #[cfg(feature = "redis")]
    pub(crate) fn problems_of_fleet(&self, fleet: Option<&super::fleet::Fleet>) -> Vec<String> {
        fleet.map_or_else(|| self.without_fleet(), |fleet| fleet.problems())
    }

    /// What is wrong where there is no fleet.
    #[cfg(feature = "redis")]
    pub(crate) fn without_fleet(&self) -> Vec<String> {
        use super::policy::Scope;
        let provenances = Provenance::ALL.iter().zip(&self.provenance);
        let provenances =
            provenances.map(|(provenance, policy)| (format!("provenance.{provenance}"), policy));
        let tables = self.tables_without_total().chain(provenances);
        let mut paths: Vec<_> = tables
            .filter(|(_, policy)| policy.scope == Some(Scope::Fleet))
            .map(|(path, _)| format!("{path}.scope"))
            .collect();
        if self.scope == Scope::Fleet {
            paths.push("scope".to_owned());
        }
        let remedy = "\"fleet\" needs [fleet]; add it with a namespace, or use \"instance\"";
        paths
            .iter()
            .map(|path| format!("{path}: {remedy}"))
            .collect()
    }

    pub(super) fn tables_without_total(&self) -> impl Iterator<Item = (String, &Policy)> {
        let tiers = self
            .tiers
            .iter()
            .map(|(name, policy)| (at("tier", name), policy));
        let callers = self
            .callers
            .iter()
            .map(|(name, c)| (at("caller", name), &c.policy));
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
            .iter()
            .map(|(name, caller)| of(name, caller.provenance, true));
        for subject in anonymous.into_iter().chain(named) {
            let tables = self.tables(&subject);
            let quota = self.quota_of(&subject);
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
            let total = self.provenance.get(subject.provenance as usize);
            let total = total.and_then(|table| table.total);
            for (route, own, cost) in routes_of(&tables) {
                self.check_route((route, own.or(quota), cost), &tables, total, problems);
            }
        }
    }

    /// A route with the quota that measures it, and what a request of it takes.
    fn check_route(
        &self,
        (route, quota, cost): (&str, Option<Quota>, u32),
        tables: &[&Policy],
        total: Option<Quota>,
        problems: &mut Vec<String>,
    ) {
        let prices = |table: &&&Policy| table.costs.iter().any(|(name, _)| name == route);
        if let Some(table) = tables.iter().find(prices) {
            let path = self.path_of(table);
            let bounds = [("", quota), ("total ", total)];
            for (which, quota) in bounds.into_iter().filter_map(|(w, q)| Some((w, q?))) {
                if cost > quota.max_burst() {
                    problems.push(format!(
                        "{path}.cost.{route:?}: {cost} is above the burst of {which}\"{quota}\"; use a burst of {cost} or more"
                    ));
                }
            }
        }
        let rule_of = |table: &Policy| {
            let mut rules = table.routes.iter().filter(|(name, _)| name == route);
            rules.find_map(|(_, rule)| rule.burst.map(|burst| (burst, rule.quota)))
        };
        let bursts = tables
            .iter()
            .filter_map(|table| Some((table, rule_of(table)?)));
        let has_quota = |table: &&Policy| {
            let mut rules = table.routes.iter().filter(|(name, _)| name == route);
            rules.any(|(_, rule)| rule.quota.is_some())
        };
        for (table, (burst, beside)) in bursts {
            let path = self.path_of(table);
            match beside.or(quota).map(|quota| quota.with_burst(Some(burst))) {
                _ if !tables.iter().any(has_quota) => problems.push(format!(
                    "{path}.route.{route:?}.burst: there is no quota for this route; add `quota` beside it"
                )),
                Some(quota) if burst > 0 => problems.extend(quota.problem().map(|problem| {
                    format!("{path}.route.{route:?}.burst: \"{quota}\" {problem}")
                })),
                _ => {}
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
