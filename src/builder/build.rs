//! From settings to a table.

use std::sync::Arc;

use http::HeaderName;

use super::{BuildError, Builder, EXPORTED, PAIRS, RESERVED, SERIES, random_key};
use crate::admit::Admission;
#[cfg(feature = "redis")]
use crate::admit::fleet::Part;
use crate::admit::policy::CallerPolicy;
use crate::callers::Callers;
use crate::clock::{MonotonicClock, Ticker};
use crate::outcome::{Class, Fault};
use crate::pipeline::{Core, Exempt, Standing};
use crate::registry::{Limits, OURS, Registry};
use crate::roster::Roster;
use crate::upkeep::Upkeep;
use crate::watch::Watch;

impl Builder {
    /// The table.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the settings, at once; among it that no source of identity was given.
    pub fn build(mut self) -> Result<Callers, BuildError> {
        let mut problems = Vec::new();
        #[cfg(feature = "config")]
        let config = self.apply_config();
        #[cfg(feature = "dashboard")]
        let keeper = self.keeper().map_err(|problem| problems.push(problem)).ok();
        if self.sources.is_empty() {
            problems.push(
                "identify: no source of identity; add one, such as `.identify(identify::header(\"x-client-id\"))`"
                    .to_owned(),
            );
        }
        problems.extend(self.sources.iter().filter_map(|source| source.problem()));
        let keep = |result: Result<_, Vec<String>>, problems: &mut Vec<String>| {
            result.map_err(|found| problems.extend(found)).ok()
        };
        let ticker = match self.clock {
            None => Ticker::Monotonic(MonotonicClock::new()),
            Some(clock) => Ticker::Other(clock),
        };
        let now = ticker.now();
        for account in &self.accounts {
            problems.extend(account.problems(now));
            let policy = CallerPolicy {
                policy: account.policy.clone(),
                tier: account.tier.clone(),
                provenance: account.provenance(),
            };
            self.policies.callers.insert(account.name.clone(), policy);
        }
        let roster = keep(Roster::new(self.accounts), &mut problems);
        let exempt = Exempt::new(&self.exempt)
            .map_err(|found| problems.extend(found))
            .ok();
        let response_header = self.response_header.and_then(|name| {
            HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| {
                    problems.push(format!("response_header: {name:?} is not a header name"))
                })
                .ok()
        });
        let version_header = self.watch.version_header();
        problems.extend(version_header.as_ref().err().cloned());
        let exported = self.exported.unwrap_or(self.series * EXPORTED / SERIES);
        let least = OURS + RESERVED + 1;
        if exported < least {
            problems.push(format!(
                "max_exported: {exported} rows are too few; use at least {least}"
            ));
        }
        problems.extend(self.policies.problems(now));
        #[cfg(feature = "redis")]
        problems.extend(self.policies.problems_of_fleet(self.fleet.as_ref()));
        let (Some(roster), Some(exempt), true) = (roster, exempt, problems.is_empty()) else {
            return Err(BuildError::of(problems));
        };
        #[cfg(feature = "redis")]
        let fleet = Part::new(self.inferred_key.as_deref(), &ticker);
        #[cfg(feature = "redis")]
        fleet.enter(self.fleet.as_ref()).map_err(BuildError::of)?;
        let limits = Limits {
            tracked: self.tracked,
            exported,
            reserved: RESERVED,
            pairs: self.series.max(exported * SERIES / EXPORTED) * PAIRS / SERIES,
            idle: self.idle,
            inferred: self.inferred,
            inferred_key: self.inferred_key.unwrap_or_else(random_key),
        };
        let roster = Arc::new(roster);
        let registry = Registry::new(Arc::clone(&roster), limits, ticker.clone());
        let standing = Standing { roster, exempt };
        // Every row's route `__other__` has its series kept free.
        let series = self.series.max(registry.limits().exported * Class::COUNT);
        let route_series = series.saturating_sub(registry.limits().exported * Fault::ALL.len());
        let mode = self.mode.unwrap_or_default();
        let admission = Admission::new(self.policies, mode, self.style, now);
        #[cfg(feature = "redis")]
        let admission = admission.with_fleet(fleet);
        let mut core = Core::new(registry, ticker, self.sources.into(), standing, admission);
        core.cost = self.cost;
        core.version_header = version_header.ok().flatten();
        core.route = self.route;
        core.peer = self.peer;
        core.late_identity = self.late_identity;
        core.response_header = response_header;
        let version = self.watch.version.clone();
        let watch = Watch::new(self.watch.log(now));
        watch.started(version.as_deref(), now);
        let upkeep = Upkeep::new(Arc::new(core), watch, route_series);
        #[cfg(feature = "config")]
        let upkeep = upkeep.with_config(config);
        #[cfg(feature = "dashboard")]
        let upkeep = upkeep.with_keeper(keeper.unwrap_or_default());
        #[cfg(feature = "dashboard")]
        upkeep.restore(now);
        upkeep.core.admission.show();
        let upkeep = Arc::new(upkeep);
        if !self.manual_tick {
            upkeep.start().map_err(|error| BuildError {
                problems: vec![format!(
                    "the thread `callerid` could not be started: {error}"
                )],
            })?;
        }
        upkeep.watch.log.tell();
        Ok(Callers::new(upkeep))
    }
}

#[cfg(feature = "config")]
impl Builder {
    /// The time by the clock that was set, or else the system's.
    pub(crate) fn time(&self) -> crate::clock::Timestamp {
        let clock = self.clock.as_ref();
        clock.map_or_else(crate::config::wall_time, |clock| clock.now())
    }

    /// Lays the files over what the program says, and keeps the latter for a reload.
    fn apply_config(&mut self) -> crate::config::Config {
        let loaded = self.config.take();
        let base = crate::config::Base {
            policies: self.policies.clone(),
            accounts: self.accounts.clone(),
            mode: self.mode,
            exempt: self.exempt.clone(),
            #[cfg(feature = "redis")]
            fleet: self.fleet.clone(),
        };
        if let Some(contents) = loaded.as_ref().map(|loaded| &loaded.contents) {
            (self.policies, self.accounts) = contents.over(&self.policies, &self.accounts);
            self.mode = contents.mode.or(self.mode);
            if let Some(exempt) = &contents.exempt {
                self.exempt.clone_from(exempt);
            }
            #[cfg(feature = "redis")]
            {
                self.fleet = contents.fleet_over(self.fleet.as_ref());
            }
        }
        crate::config::Config::new(base, loaded.as_ref())
    }
}
