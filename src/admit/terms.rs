//! The policies as they apply to one caller, with its buckets.

use std::sync::Arc;

use super::bucket::{Account, Bucket};
#[cfg(feature = "redis")]
use super::fleet::{Cell, Pool, Told};
use super::policy::{Block, Mode, Policy, clamp_binds, quota_of};
#[cfg(feature = "redis")]
use super::policy::{Scope, scope_of};
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
    tokens: Tokens,
    routes: Box<[RouteTerms]>,
    pub(super) max_in_flight: Option<u32>,
    max_streams: Option<u32>,
    pub(super) weight: f64,
    /// What all callers of this provenance share, and the mode of that.
    pub(super) total: Option<(Arc<Bucket>, Mode)>,
    /// What the ceiling does, if there is one.
    pub(super) ceiling: Option<Mode>,
    /// One quota over all routes beside the written ones, enforced and for allowed callers too, while a clamp lasts.
    clamp: Account,
}

/// What policies say of a caller: its tables, the narrowest first, and what it shares.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) tables: &'a [&'a Policy],
    pub(super) total: Option<(Arc<Bucket>, Mode)>,
    pub(super) ceiling: Option<Mode>,
    /// The quota of a clamp, beside all others.
    pub(super) clamp: Option<Quota>,
    /// Where quotas of the scope `fleet` are counted, of whom, and the scope of those that no table says it of.
    #[cfg(feature = "redis")]
    pub(super) fleet: Option<(&'a Pool, &'a Subject<'a>, Scope)>,
}

/// What measures a quota.
#[derive(Debug, Default)]
struct Tokens {
    account: Account,
    /// Counted over all replicas instead; the account rests.
    #[cfg(feature = "redis")]
    shared: Option<Arc<Cell>>,
    /// What a fleet knows of what is missing in the account.
    #[cfg(feature = "redis")]
    told: Option<Told>,
}

impl Tokens {
    /// What measures the written quota of a route, or of all others (`""`), where this was. What was spent stays
    /// spent.
    fn under(
        &self,
        found: &Found<'_>,
        route: &str,
        written: Option<Quota>,
        now: Timestamp,
    ) -> Self {
        #[cfg(feature = "redis")]
        {
            let stays = |cell: &Cell| match (found.pool(), written) {
                (Some((pool, _)), Some(quota)) => cell.is_of(quota, pool.home()),
                _ => false,
            };
            if let Some(cell) = self.shared.as_ref().filter(|cell| !stays(cell)) {
                cell.leave(now);
            }
            let (own, told) = match &self.shared {
                Some(cell) => (Some(cell.settled(now)), cell.told(now).or(self.told)),
                None => (self.account.last(), self.told),
            };
            if let (Some((pool, subject)), Some(quota)) = (found.pool(), written) {
                let cell = match &self.shared {
                    Some(cell) if stays(cell) => Arc::clone(cell),
                    _ => pool.cell(subject, route, quota, own.map(|own| (own, told)), now),
                };
                return Self {
                    account: self.account.under(None, now),
                    shared: Some(cell),
                    told: told.filter(|_| pool.home().is_none()),
                };
            }
            let account = own.map(|own| Account::resting(Arc::clone(own)));
            Self {
                account: account.unwrap_or_default().under(written, now),
                shared: None,
                told,
            }
        }
        #[cfg(not(feature = "redis"))]
        {
            let _ = (found, route);
            Self {
                account: self.account.under(written, now),
            }
        }
    }

    fn has_quota(&self) -> bool {
        #[cfg(feature = "redis")]
        if self.shared.is_some() {
            return true;
        }
        self.account.bucket().is_some()
    }

    fn owes(&self, now: Timestamp) -> bool {
        #[cfg(feature = "redis")]
        if let Some(cell) = &self.shared
            && cell.owes(now)
        {
            return true;
        }
        self.account.owes(now)
    }
}

#[cfg(feature = "redis")]
impl<'a> Found<'a> {
    /// Where the caller's quotas are counted, if over all replicas.
    fn pool(&self) -> Option<(&'a Pool, &'a Subject<'a>)> {
        let (pool, subject, scope) = self.fleet?;
        (scope_of(self.tables, scope) == Scope::Fleet).then_some((pool, subject))
    }
}

#[derive(Debug)]
struct RouteTerms {
    route: Box<str>,
    cost: u32,
    tokens: Tokens,
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

/// What measures a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Measure<'t> {
    Nothing,
    /// This replica's own count.
    Instance(&'t Arc<Bucket>),
    /// That of all replicas.
    #[cfg(feature = "redis")]
    Fleet(&'t Arc<Cell>),
}

impl<'t> Measure<'t> {
    pub(super) fn bucket(self) -> Option<&'t Arc<Bucket>> {
        match self {
            Self::Instance(bucket) => Some(bucket),
            _ => None,
        }
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
        let first =
            |field: fn(&Policy) -> Option<u32>| tables.iter().find_map(|table| field(table));
        let nothing = Tokens::default();
        let tokens = before.map_or(&nothing, |before| &before.tokens);
        Self {
            generation,
            mode: tables
                .iter()
                .find_map(|table| table.mode)
                .unwrap_or_default(),
            block: tables.iter().find_map(|table| table.block),
            allow: tables.iter().find_map(|table| table.allow).unwrap_or(false),
            tokens: tokens.under(&found, "", written, now),
            routes: Self::routes(&found, before, now),
            max_in_flight: first(|table| table.max_in_flight),
            max_streams: first(|table| table.max_streams),
            weight: tables.iter().find_map(|table| table.weight).unwrap_or(1.0),
            total: found.total,
            ceiling: found.ceiling,
            clamp: before
                .map_or(&Account::default(), |before| &before.clamp)
                .under(found.clamp, now),
        }
    }

    /// The routes that tables name, and those that are named no more while something is owed there.
    fn routes(found: &Found<'_>, before: Option<&Self>, now: Timestamp) -> Box<[RouteTerms]> {
        let old = before.map_or(&[][..], |before| &before.routes);
        let named = routes_of(found.tables);
        let nothing = Tokens::default();
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
            tokens: tokens_of(route).under(found, route, quota, now),
        })
        .collect()
    }

    /// What measures a request of this route, and how many tokens it takes.
    #[inline]
    pub(super) fn measure(&self, method: &str, template: &str) -> (Measure<'_>, u32) {
        let is = |known: &&RouteTerms| {
            let rest = known
                .route
                .strip_prefix(method)
                .and_then(|rest| rest.strip_prefix(' '));
            rest == Some(template)
        };
        let (tokens, cost) = match self.routes.iter().find(is) {
            None => (&self.tokens, 1),
            Some(route) if !route.tokens.has_quota() => (&self.tokens, route.cost),
            Some(route) => (&route.tokens, route.cost),
        };
        #[cfg(feature = "redis")]
        if let Some(cell) = &tokens.shared {
            return (Measure::Fleet(cell), cost);
        }
        let bucket = tokens.account.bucket();
        (bucket.map_or(Measure::Nothing, Measure::Instance), cost)
    }

    /// What a clamp lets through.
    #[inline]
    pub(super) fn clamp(&self) -> Option<&Bucket> {
        self.clamp.bucket().map(|bucket| &**bucket)
    }

    /// What all callers of this provenance share.
    pub(super) fn total_bucket(&self) -> Option<&Bucket> {
        self.total.as_ref().map(|(bucket, _)| &**bucket)
    }

    pub(super) fn max_streams(&self) -> Option<u32> {
        self.max_streams
    }

    pub(super) fn has_debt(&self, now: Timestamp) -> bool {
        self.tokens.owes(now)
            || self.clamp.owes(now)
            || self.routes.iter().any(|route| route.tokens.owes(now))
    }

    /// The quota as it is written.
    fn written(&self) -> Option<Quota> {
        #[cfg(feature = "redis")]
        if let Some(cell) = &self.tokens.shared {
            return Some(cell.quota);
        }
        self.tokens.account.bucket().map(|bucket| bucket.quota)
    }

    fn clamp_binds(&self, clamp: Quota) -> bool {
        clamp_binds(clamp, self.written(), (self.mode, self.allow))
    }

    /// The caller's quota in force.
    pub(crate) fn quota(&self) -> Option<Quota> {
        let clamp = self.clamp().map(|bucket| bucket.quota);
        let clamp = clamp.filter(|clamp| self.clamp_binds(*clamp));
        clamp.or_else(|| self.written())
    }

    /// Whole tokens of that quota that are left.
    #[cfg(feature = "dashboard")]
    pub(crate) fn left(&self, now: Timestamp) -> Option<u64> {
        let clamp = self.clamp();
        if let Some(clamp) = clamp.filter(|clamp| self.clamp_binds(clamp.quota)) {
            return Some(clamp.left(now));
        }
        // Of what all replicas share, one cannot say.
        #[cfg(feature = "redis")]
        if self.tokens.shared.is_some() {
            return None;
        }
        self.tokens.account.bucket().map(|bucket| bucket.left(now))
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
