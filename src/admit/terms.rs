//! The policies as they apply to one caller, with its buckets.

use std::sync::Arc;

use super::bucket::{Account, Bucket};
use super::policy::{Block, Mode, Policy, quota_of};
use super::quota::Quota;
use crate::caller::Provenance;
use crate::clock::Timestamp;

/// Whom a policy is looked up for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    pub(crate) provenance: Provenance,
    /// Whether the name is proven, or on the roster and reached as its account says: a party of its own, and the
    /// only one that a policy by name applies to.
    pub(crate) proven: bool,
}

/// What applies to one caller.
#[derive(Debug)]
pub(crate) struct Terms {
    /// Of the policies that these were found in.
    pub(super) generation: u64,
    pub(super) mode: Mode,
    pub(super) block: Option<Block>,
    pub(super) allow: bool,
    tokens: Account,
    routes: Box<[RouteTerms]>,
    pub(super) max_in_flight: Option<u32>,
    max_streams: Option<u32>,
    pub(super) weight: f64,
    /// What all callers of this provenance share, and the mode of that.
    pub(super) total: Option<(Arc<Bucket>, Mode)>,
    /// What the ceiling does, if there is one.
    pub(super) ceiling: Option<Mode>,
    /// One quota for all routes, enforced and for allowed callers too, while a clamp lasts.
    pub(super) clamped: bool,
}

/// What policies say of a caller: its tables, the narrowest first, and what it shares.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) tables: &'a [&'a Policy],
    pub(super) total: Option<(Arc<Bucket>, Mode)>,
    pub(super) ceiling: Option<Mode>,
    /// The quota of a clamp, in place of all others.
    pub(super) clamp: Option<Quota>,
}

#[derive(Debug)]
struct RouteTerms {
    route: Box<str>,
    cost: u32,
    tokens: Account,
}

/// The quotas that provenances share, by provenance.
pub(super) type Totals = [Total; Provenance::ALL.len()];

/// What all callers of a provenance share.
#[derive(Debug, Default)]
pub(super) struct Total {
    tokens: Account,
    mode: Mode,
}

impl Total {
    /// The total that a table gives, where this one was.
    pub(super) fn under(&self, table: &Policy, now: Timestamp) -> Self {
        Self {
            tokens: self.tokens.under(table.total, now),
            mode: table.mode.unwrap_or_default(),
        }
    }

    pub(super) fn in_force(&self) -> Option<(Arc<Bucket>, Mode)> {
        Some((Arc::clone(self.tokens.bucket()?), self.mode))
    }
}

impl Terms {
    /// What was found for a caller. Buckets whose quota is what it was stay; a changed one inherits.
    pub(super) fn new(
        generation: u64,
        found: Found<'_>,
        before: Option<&Self>,
        now: Timestamp,
    ) -> Self {
        let tables = found.tables;
        let written = quota_of(tables.iter().map(|table| (table.quota, table.burst)));
        let quota = found.clamp.or(written);
        let first =
            |field: fn(&Policy) -> Option<u32>| tables.iter().find_map(|table| field(table));
        let nothing = Account::default();
        let tokens = before.map_or(&nothing, |before| &before.tokens);
        Self {
            generation,
            mode: tables
                .iter()
                .find_map(|table| table.mode)
                .unwrap_or_default(),
            block: tables.iter().find_map(|table| table.block),
            allow: tables.iter().find_map(|table| table.allow).unwrap_or(false),
            tokens: tokens.under(quota, now),
            routes: Self::routes(tables, before, now),
            max_in_flight: first(|table| table.max_in_flight),
            max_streams: first(|table| table.max_streams),
            weight: tables.iter().find_map(|table| table.weight).unwrap_or(1.0),
            total: found.total,
            ceiling: found.ceiling,
            clamped: found.clamp.is_some(),
        }
    }

    /// The routes that tables name, and those that are named no more while something is owed there.
    fn routes(tables: &[&Policy], before: Option<&Self>, now: Timestamp) -> Box<[RouteTerms]> {
        let old = before.map_or(&[][..], |before| &before.routes);
        let named = routes_of(tables);
        let nothing = Account::default();
        let tokens_of = |route: &str| {
            let known = old.iter().find(|known| *known.route == *route);
            known.map_or(&nothing, |known| &known.tokens)
        };
        let gone = old.iter().filter(|known| {
            known.tokens.owes(now) && !named.iter().any(|(route, ..)| **route == *known.route)
        });
        let all = named
            .iter()
            .copied()
            .chain(gone.map(|known| (&*known.route, None, 1)));
        all.map(|(route, quota, cost)| RouteTerms {
            route: route.into(),
            cost,
            tokens: tokens_of(route).under(quota, now),
        })
        .collect()
    }

    /// The bucket that measures a request of this route, and how many tokens it takes.
    #[inline]
    pub(super) fn measure(&self, method: &str, template: &str) -> (Option<&Arc<Bucket>>, u32) {
        let is = |known: &&RouteTerms| {
            let rest = known
                .route
                .strip_prefix(method)
                .and_then(|rest| rest.strip_prefix(' '));
            rest == Some(template)
        };
        match self.routes.iter().find(is) {
            None => (self.tokens.bucket(), 1),
            Some(route) if self.clamped => (self.tokens.bucket(), route.cost),
            Some(route) => {
                let bucket = route.tokens.bucket().or(self.tokens.bucket());
                (bucket, route.cost)
            }
        }
    }

    pub(super) fn max_streams(&self) -> Option<u32> {
        self.max_streams
    }

    pub(super) fn has_debt(&self, now: Timestamp) -> bool {
        self.tokens.owes(now) || self.routes.iter().any(|route| route.tokens.owes(now))
    }

    /// The caller's quota in force.
    pub(crate) fn quota(&self) -> Option<Quota> {
        self.tokens.bucket().map(|bucket| bucket.quota)
    }

    /// Whole tokens of that quota that are left.
    #[cfg(feature = "dashboard")]
    pub(crate) fn left(&self, now: Timestamp) -> Option<u64> {
        self.tokens.bucket().map(|bucket| bucket.left(now))
    }

    /// How many requests it may have in flight.
    pub(crate) fn max_in_flight(&self) -> Option<u32> {
        self.max_in_flight
    }

    /// Its share of the ceiling.
    pub(crate) fn weight(&self) -> f64 {
        self.weight
    }

    /// What its own limits do.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }
}

/// Every route that a table names, with its quota and cost.
pub(super) fn routes_of<'a>(tables: &[&'a Policy]) -> Vec<(&'a str, Option<Quota>, u32)> {
    let costs = tables
        .iter()
        .flat_map(|table| table.costs.iter().map(|(route, _)| route));
    let quotas = tables
        .iter()
        .flat_map(|table| table.routes.iter().map(|(route, _)| route));
    let mut names: Vec<&str> = costs.chain(quotas).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let row = |route: &'a str| {
        let mut costs = tables.iter().flat_map(|table| &table.costs);
        let cost = costs
            .find(|(name, _)| name == route)
            .map_or(1, |(_, cost)| *cost);
        let rules = tables
            .iter()
            .flat_map(|table| &table.routes)
            .filter(|(name, _)| name == route);
        (
            route,
            quota_of(rules.map(|(_, rule)| (rule.quota, rule.burst))),
            cost,
        )
    };
    names.into_iter().map(row).collect()
}
