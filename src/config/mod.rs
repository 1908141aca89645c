//! `callerid.toml`: policies and the roster in files, merged, checked as a whole, and read again while the service
//! runs.

mod file;
mod read;

use std::fmt;
use std::path::Path;
use std::sync::Mutex;

use sha2::{Digest, Sha256};
use toml::{Table, Value};

pub(crate) use self::file::Contents;
#[cfg(feature = "redis")]
use crate::admit::fleet::{Fleet, Next};
use crate::admit::policy::CallerPolicy;
use crate::admit::{Mode, Policies, Policy};
use crate::builder::{Builder, visible};
use crate::callers::Callers;
use crate::clock::{Clock, MonotonicClock, Timestamp};
use crate::events::{Change, Pin};
use crate::lock::lock;
use crate::pipeline::{Core, Exempt};
use crate::roster::{Account, Roster};

/// The environment variable that overrules `mode` in the files.
const MODE: &str = "CALLERID_MODE";

/// A configuration that cannot be used, every problem at once; none of it has taken effect.
#[derive(Debug)]
pub struct ConfigError {
    problems: Vec<String>,
}

impl ConfigError {
    fn of(problems: Vec<String>) -> Result<(), Self> {
        let mut problems: Vec<_> = problems.into_iter().map(visible).collect();
        problems.sort();
        problems.dedup();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Self { problems })
        }
    }

    /// Each problem, with its path and what to do:
    /// `caller.checkout.quota: "10/fortnight" is not a rate; use N/s, N/min or N/h`.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.problems.iter().map(String::as_str)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("; "))
    }
}

impl std::error::Error for ConfigError {}

/// What the files say, laid over each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loaded {
    merged: Table,
    pub(crate) contents: Contents,
}

impl Loaded {
    /// Lays another file over what is there.
    fn add(&mut self, path: &Path) -> Result<(), String> {
        let fail = |problem: String| format!("{}: {problem}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        let table: Table = text
            .parse()
            .map_err(|error: toml::de::Error| fail(said(&error, &text)))?;
        overlay(&mut self.merged, table);
        Ok(())
    }

    /// Reads what has been merged, the environment included. Returns everything that is wrong, whatever another
    /// file or the program may say.
    fn read(&mut self, now: Timestamp) -> Vec<String> {
        let mut problems = Vec::new();
        self.contents = file::read(&self.merged, now, &mut problems);
        if let Some(mode) = std::env::var_os(MODE) {
            match mode.to_string_lossy().parse() {
                Ok(mode) => self.contents.mode = Some(mode),
                Err(error) => problems.push(format!("{MODE}: {error}")),
            }
        }
        let (policies, roster) = self.contents.over(&Policies::default(), &[]);
        problems.extend(policies.problems_of_tables(now));
        problems.extend(Roster::new(roster).err().unwrap_or_default());
        let exempt = self.contents.exempt.iter().flatten();
        problems.extend(Exempt::new(exempt).err().unwrap_or_default());
        #[cfg(feature = "redis")]
        let fleet = self.contents.fleet.as_ref();
        #[cfg(feature = "redis")]
        problems.extend(fleet.into_iter().flat_map(|fleet| fleet.wrong()));
        if !problems.is_empty() {
            #[cfg(feature = "redis")]
            {
                let missing = match fleet {
                    Some(fleet) => fleet.missing(),
                    None => policies.without_fleet(),
                };
                let path = |problem: &str| problem.split(':').next().map(str::to_owned);
                let said: Vec<_> = problems.iter().map(|problem| path(problem)).collect();
                let missing = missing.into_iter();
                problems.extend(missing.filter(|problem| !said.contains(&path(problem))));
            }
            problems.extend(policies.problems_between_tables());
        }
        problems
    }

    /// A short hash of what the files say, to compare replicas by.
    fn hash(&self) -> String {
        let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(self.merged.to_string()).into();
        format!("{a:02x}{b:02x}{c:02x}{d:02x}")
    }
}

/// Where a text is no TOML, without the text: a secret may stand in it. Names of tables and fields are none.
fn said(error: &toml::de::Error, text: &str) -> String {
    let span = error.span().unwrap_or_default();
    let before = text.get(..span.start).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    if error.message() != "duplicate key" {
        return format!("line {line}: {}", error.message());
    }
    let head = text.lines().nth(line - 1).unwrap_or_default().trim();
    let head = head.strip_prefix('[').and_then(|head| head.split_once(']'));
    let name = head.map_or(text.get(span).unwrap_or_default(), |(name, _)| name.trim());
    format!("line {line}: {name} is there twice; write all that it says in one place")
}

/// Later wins, field by field. A quota brings its own burst: without one, the earlier burst does not stay.
/// So does a block its end, and `block = false` ends one that has an end too.
fn overlay(table: &mut Table, later: Table) {
    for (key, beside) in [
        ("quota", "burst"),
        ("block", "block_until"),
        ("block_until", "block"),
    ] {
        if later.contains_key(key) && !later.contains_key(beside) {
            table.remove(beside);
        }
    }
    for (key, value) in later {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(known)), Value::Table(later)) => overlay(known, later),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

impl Contents {
    /// The fleet of the files, with what they leave open from that of the program.
    #[cfg(feature = "redis")]
    pub(crate) fn fleet_over(&self, base: Option<&Fleet>) -> Option<Fleet> {
        match &self.fleet {
            Some(fleet) => Some(fleet.clone().over(base)),
            None => base.cloned(),
        }
    }

    #[cfg(feature = "replay")]
    fn leave_fleet(&mut self) {
        #[cfg(feature = "redis")]
        {
            self.fleet = None;
        }
        for policy in tables_mut(&mut self.policies, &mut self.accounts) {
            policy.scope = policy.scope.map(|_| crate::admit::Scope::Instance);
        }
    }

    /// The policies and accounts of the files laid over those of the program.
    pub(crate) fn over(&self, base: &Policies, accounts: &[Account]) -> (Policies, Vec<Account>) {
        let mut policies = self.policies.clone();
        policies.default = policies.default.over(&base.default);
        for (policy, wider) in policies.provenance.iter_mut().zip(&base.provenance) {
            *policy = std::mem::take(policy).over(wider);
        }
        for (name, wider) in &base.tiers {
            let tier = policies.tiers.entry(name.clone()).or_default();
            *tier = std::mem::take(tier).over(wider);
        }
        policies.ceiling = policies.ceiling.or(base.ceiling);
        policies.on_runaway = policies.on_runaway.or(base.on_runaway);
        policies.scope = base.scope;
        let mut roster = accounts.to_vec();
        for account in &self.accounts {
            match roster.iter_mut().find(|known| known.name == account.name) {
                None => roster.push(account.clone()),
                Some(known) => {
                    let mut merged = account.clone();
                    merged.owner = merged.owner.or(known.owner.take());
                    merged.contact = merged.contact.or(known.contact.take());
                    merged.runbook = merged.runbook.or(known.runbook.take());
                    merged.tier = merged.tier.or(known.tier.take());
                    merged.expect = merged.expect.or(known.expect);
                    merged.accept_claimed |= known.accept_claimed;
                    merged.keys.append(&mut known.keys);
                    merged.policy = merged.policy.over(&known.policy);
                    *known = merged;
                }
            }
        }
        let named = roster.iter().map(|account| {
            let policy = CallerPolicy {
                policy: account.policy.clone(),
                tier: account.tier.clone(),
                provenance: account.provenance(),
            };
            (account.name.clone(), policy)
        });
        policies.callers = named.collect();
        (policies, roster)
    }
}

impl Policy {
    /// This one, with what it leaves open from `wider`.
    fn over(mut self, wider: &Self) -> Self {
        if self.quota.is_none() {
            self.quota = wider.quota;
            self.burst = self.burst.or(wider.burst);
        }
        self.costs.extend(wider.costs.iter().cloned());
        self.routes.extend(wider.routes.iter().cloned());
        Self {
            max_in_flight: self.max_in_flight.or(wider.max_in_flight),
            max_streams: self.max_streams.or(wider.max_streams),
            weight: self.weight.or(wider.weight),
            mode: self.mode.or(wider.mode),
            block: self.block.or(wider.block),
            allow: self.allow.or(wider.allow),
            total: self.total.or(wider.total),
            scope: self.scope.or(wider.scope),
            ..self
        }
    }
}

/// Every table of limits, before those of callers are among the policies.
fn tables_mut<'a>(
    policies: &'a mut Policies,
    accounts: &'a mut [Account],
) -> impl Iterator<Item = &'a mut Policy> {
    std::iter::once(&mut policies.default)
        .chain(&mut policies.provenance)
        .chain(policies.tiers.values_mut())
        .chain(accounts.iter_mut().map(|account| &mut account.policy))
}

/// What a running table remembers of its configuration.
#[derive(Debug, Default)]
pub(crate) struct Config {
    base: Base,
    state: Mutex<State>,
    /// Held over a reload, which may wait for a Redis.
    reloading: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// What the files say.
    mode: Option<Mode>,
    loaded: Option<(String, bool)>,
}

/// What the program itself says, under the files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Base {
    pub(crate) policies: Policies,
    pub(crate) accounts: Vec<Account>,
    pub(crate) mode: Option<Mode>,
    pub(crate) exempt: Vec<String>,
    #[cfg(feature = "redis")]
    pub(crate) fleet: Option<Fleet>,
}

impl Base {
    /// What is left of it by now: no file could mend an end that the program gave, and that has come.
    fn at(&self, now: Timestamp) -> Self {
        let mut base = self.clone();
        for policy in tables_mut(&mut base.policies, &mut base.accounts) {
            policy.end_block(now);
        }
        base
    }
}

impl Config {
    pub(crate) fn new(base: Base, loaded: Option<&Loaded>) -> Self {
        Self {
            base,
            state: Mutex::new(State {
                mode: loaded.and_then(|loaded| loaded.contents.mode),
                loaded: loaded.map(|loaded| (loaded.hash(), true)),
            }),
            reloading: Mutex::default(),
        }
    }

    /// The hash of what is in force, and whether the last load succeeded; `None` without a file.
    pub(crate) fn state(&self) -> Option<(String, bool)> {
        lock(&self.state).loaded.clone()
    }
}

impl Builder {
    /// Reads policies and the roster from a `callerid.toml`. Said more than once, later files win field by field:
    /// one roster for the organisation, one file for each service. What the files leave open, the program says.
    /// `CALLERID_MODE` in the environment overrules `mode`. Every field is shown in
    /// [`docs::configuration`](crate::docs::configuration).
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the files so far, with its path. What another file or the program may still
    /// mend, such as a tier that nobody has defined yet, is said by [`Builder::build`].
    pub fn config(mut self, path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let mut loaded = self.config.take().unwrap_or_default();
        if let Err(problem) = loaded.add(path.as_ref()) {
            ConfigError::of(vec![problem])?;
        }
        ConfigError::of(loaded.read(self.time()))?;
        self.config = Some(loaded);
        Ok(self)
    }
}

#[cfg(feature = "replay")]
impl Builder {
    /// What would be shared with a fleet is this instance's own: whoever asks what limits would do must not touch the
    /// fleet's counts.
    pub(crate) fn without_fleet(mut self) -> Self {
        if let Some(loaded) = &mut self.config {
            loaded.contents.leave_fleet();
        }
        self
    }
}

/// The time, where the program has set no clock.
pub(crate) fn wall_time() -> Timestamp {
    MonotonicClock::new().now()
}

impl Callers {
    /// Reads the configuration again, from these files, and puts all of it in force for the next request: policies,
    /// the roster with its API keys, `exempt`, `mode` and `[fleet]`. Buckets whose quota stays are left as they are; a
    /// changed one inherits what is spent. A mode that [`Callers::set_mode`] has set stays, unless the files say another
    /// than before. A changed `[fleet]` is waited for up to half a second, as at the start.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, among it a roster with more callers than there have been rows for since the start;
    /// then everything stays as it is, and `callerid_config_last_reload_successful` is 0.
    pub fn reload<P: AsRef<Path>>(
        &self,
        paths: impl IntoIterator<Item = P>,
    ) -> Result<(), ConfigError> {
        let reloaded = self.reload_alone(paths);
        self.upkeep().watch.log.tell();
        reloaded
    }

    fn reload_alone<P: AsRef<Path>>(
        &self,
        paths: impl IntoIterator<Item = P>,
    ) -> Result<(), ConfigError> {
        let (core, config) = (&self.upkeep().core, &self.upkeep().config);
        let _one_at_a_time = lock(&config.reloading);
        let now = core.ticker.now();
        let read = load(core, &config.base, paths, now);
        let mut state = lock(&config.state);
        match read {
            Ok(new) => {
                core.set_standing(new.roster, new.exempt);
                #[cfg(feature = "redis")]
                core.admission.set_policies_of(new.fleet, new.policies, now);
                #[cfg(not(feature = "redis"))]
                core.admission.set_policies(new.policies, now);
                if new.loaded.contents.mode != state.mode {
                    state.mode = new.loaded.contents.mode;
                    let mode = state.mode.or(config.base.mode);
                    core.admission.set_mode(mode.unwrap_or_default());
                }
                core.admission.show();
                let hash = new.loaded.hash();
                let pin = Pin::new(Change::Config).version(&hash);
                self.upkeep().watch.ours(pin.text("read again"), now);
                state.loaded = Some((hash, true));
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "callerid: the configuration is not usable; the old one stays in force");
                let hash = state
                    .loaded
                    .take()
                    .map(|(hash, _)| hash)
                    .unwrap_or_default();
                state.loaded = Some((hash, false));
                Err(error)
            }
        }
    }
}

/// What a reload puts in force.
struct Reloaded {
    loaded: Loaded,
    policies: Policies,
    roster: Roster,
    exempt: Exempt,
    #[cfg(feature = "redis")]
    fleet: Next,
}

fn load<P: AsRef<Path>>(
    core: &Core,
    base: &Base,
    paths: impl IntoIterator<Item = P>,
    now: Timestamp,
) -> Result<Reloaded, ConfigError> {
    let mut loaded = Loaded::default();
    let mut problems = Vec::new();
    for path in paths {
        problems.extend(loaded.add(path.as_ref()).err());
    }
    problems.extend(loaded.read(now));
    let base = base.at(now);
    let (policies, accounts) = loaded.contents.over(&base.policies, &base.accounts);
    problems.extend(policies.problems(now));
    #[cfg(feature = "redis")]
    let fleet = loaded.contents.fleet_over(base.fleet.as_ref());
    #[cfg(feature = "redis")]
    problems.extend(policies.problems_of_fleet(fleet.as_ref()));
    let exempt = loaded.contents.exempt.as_ref().unwrap_or(&base.exempt);
    match (Roster::new(accounts), Exempt::new(exempt)) {
        (Ok(roster), Ok(exempt)) => {
            problems.extend(core.registry.cannot_enrol(&roster));
            ConfigError::of(problems)?;
            #[cfg(feature = "redis")]
            let prepared = match core.admission.fleet() {
                Some(part) => part.prepare(fleet.as_ref()),
                None => Ok(Next::Same),
            };
            Ok(Reloaded {
                loaded,
                policies,
                roster,
                exempt,
                #[cfg(feature = "redis")]
                fleet: prepared.map_err(|problems| ConfigError { problems })?,
            })
        }
        (roster, exempt) => {
            problems.extend(roster.err().into_iter().chain(exempt.err()).flatten());
            problems.sort();
            problems.dedup();
            Err(ConfigError { problems })
        }
    }
}
