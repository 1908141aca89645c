//! What stands in `callerid.toml`.

use std::collections::HashMap;

use toml::{Table, Value};

use super::read::{Reader, time_of};
#[cfg(feature = "redis")]
use crate::admit::fleet::{Fleet, FleetMode, OnFailure};
use crate::admit::policy::{Block, OnRunaway, RoutePolicy};
use crate::admit::{Ceiling, Mode, Policies, Policy, Scope};
use crate::caller::Provenance;
use crate::clock::Timestamp;
use crate::roster::{Account, ApiKey, BASELINE, EXPECTED_BEFORE, Expect, NO_FACTOR, is_factor};

/// A configuration that has been read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    pub(crate) mode: Option<Mode>,
    pub(crate) exempt: Option<Vec<String>>,
    /// All but those of callers by name, which are in their accounts.
    pub(crate) policies: Policies,
    pub(crate) accounts: Vec<Account>,
    #[cfg(feature = "redis")]
    pub(crate) fleet: Option<Fleet>,
}

/// Reads the merged tables of all files, and notes everything that is wrong with them.
pub(super) fn read(table: &Table, now: Timestamp, problems: &mut Vec<String>) -> Contents {
    let mut top = Reader::new("", table, problems);
    let mut contents = Contents {
        mode: top.parsed("mode"),
        exempt: exempt(&mut top),
        ..Contents::default()
    };
    let policies = &mut contents.policies;
    policies.default = top.within("default", policy).unwrap_or_default();
    top.within("provenance", |tables| {
        for provenance in Provenance::ALL {
            let table = tables.within(provenance.as_str(), |table| {
                let total = table.parsed("total");
                Policy {
                    total,
                    ..policy(table)
                }
            });
            if let (Some(read), Some(place)) =
                (table, policies.provenance.get_mut(provenance as usize))
            {
                *place = read;
            }
        }
    });
    policies.tiers = top
        .each("tier", |_, table| policy(table))
        .into_iter()
        .collect::<HashMap<_, _>>();
    let accounts = top.each("caller", |name, table| account(name, table, now));
    contents.accounts = accounts.into_iter().map(|(_, account)| account).collect();
    policies.ceiling = top.within("ceiling", ceiling).flatten();
    policies.on_runaway = top.within("on_runaway", on_runaway).flatten();
    let fleet = top.within("fleet", fleet);
    #[cfg(feature = "redis")]
    {
        contents.fleet = fleet;
    }
    #[cfg(not(feature = "redis"))]
    if fleet.is_some() {
        top.say(
            "fleet",
            "needs the feature `redis` of callerid; build with it, or leave the table out",
        );
    }
    top.end();
    contents
}

fn exempt(top: &mut Reader<'_>) -> Option<Vec<String>> {
    let list = top.list("exempt")?;
    let mut paths = Vec::new();
    for value in list {
        match value.as_str() {
            Some(path) => paths.push(path.to_owned()),
            None => top.say(
                "exempt",
                format_args!("{value} is not a path; put it in quotes"),
            ),
        }
    }
    Some(paths)
}

/// `enforce` or `shadow`: what a limit does. The other two words are the switch's alone.
fn limit_mode(table: &mut Reader<'_>) -> Option<Mode> {
    table.word("mode", &["enforce", "shadow"])?.parse().ok()
}

/// The fields that every table of a policy has.
fn policy(table: &mut Reader<'_>) -> Policy {
    let scope = scope(table);
    let routes = table.each("route", |_, route| RoutePolicy {
        quota: route.parsed("quota"),
        burst: route.count("burst"),
    });
    let block = match (table.flag("block"), table.time("block_until")) {
        (Some(true), Some(_)) => {
            table.say(
                "block",
                "has an end in `block_until`; leave one of the two out",
            );
            None
        }
        (_, Some(end)) => Some(Block::Until(end)),
        (Some(true), None) => Some(Block::Yes),
        (Some(false), None) => Some(Block::No),
        (None, None) => None,
    };
    Policy {
        quota: table.parsed("quota"),
        burst: table.count("burst"),
        max_in_flight: table.count("max_in_flight"),
        max_streams: table.count("max_streams"),
        weight: table.number("weight"),
        mode: limit_mode(table),
        block,
        allow: table.flag("allow"),
        costs: table.counts("cost"),
        routes,
        total: None,
        scope,
    }
}

fn scope(table: &mut Reader<'_>) -> Option<Scope> {
    match table.word("scope", &["instance", "fleet"])? {
        "instance" => Some(Scope::Instance),
        #[cfg(feature = "redis")]
        _ => Some(Scope::Fleet),
        #[cfg(not(feature = "redis"))]
        _ => {
            table.say(
                "scope",
                "\"fleet\" needs [fleet] and the feature `redis` of callerid; use \"instance\"",
            );
            None
        }
    }
}

fn account(name: &str, table: &mut Reader<'_>, now: Timestamp) -> Account {
    let text = |text: Option<&str>| text.map(str::to_owned);
    let mut account = Account::new(name);
    account.owner = text(table.text("owner"));
    account.contact = text(table.text("contact"));
    account.runbook = text(table.text("runbook"));
    account.tier = text(table.text("tier"));
    account.accept_claimed = table.word("accept", &["claimed", "verified"]) == Some("claimed");
    account.keys = keys(table);
    account.expect = table.within("expect", |table| expect(table, now)).flatten();
    account.policy(policy(table))
}

/// A factor of at least 1, which a table needs.
fn factor(table: &mut Reader<'_>, key: &'static str, of: &str) -> Option<f64> {
    if !table.has(key) {
        table.say(key, format_args!("is missing; say how many times {of}"));
    }
    let factor = table.number(key)?;
    let usable = is_factor(factor);
    if !usable {
        table.say(key, format_args!("{NO_FACTOR}, times {of}"));
    }
    usable.then_some(factor)
}

fn expect(table: &mut Reader<'_>, now: Timestamp) -> Option<Expect> {
    let factor = factor(table, "factor", BASELINE);
    if !table.has("until") {
        table.say("until", "is missing; what is expected has an end");
    }
    let until = table.time("until");
    if until.is_some_and(|end| end <= now) {
        table.say("until", EXPECTED_BEFORE);
    }
    let (factor, until) = (factor?, until?);
    Some(Expect { factor, until })
}

fn on_runaway(table: &mut Reader<'_>) -> Option<OnRunaway> {
    let (clamp, mode) = (factor(table, "clamp", BASELINE), limit_mode(table));
    // An alert is cheap, a limit needs more: it is tried first.
    let mode = mode.unwrap_or(Mode::Shadow);
    Some(OnRunaway {
        clamp: clamp?,
        mode,
    })
}

fn keys(table: &mut Reader<'_>) -> Vec<ApiKey> {
    let mut keys = Vec::new();
    for (at, value) in table.list("api_key").unwrap_or_default().iter().enumerate() {
        let Some(key) = value.as_table() else {
            table.say(
                "api_key",
                format_args!("[{at}] is not a table; use {{ id = \"..\", sha256 = \"..\" }}"),
            );
            continue;
        };
        let text = |field: &str| key.get(field).and_then(Value::as_str);
        let (Some(id), Some(sha256)) = (text("id"), text("sha256")) else {
            table.say(
                "api_key",
                format_args!("[{at}] needs an `id` and a `sha256`"),
            );
            continue;
        };
        let mut made = ApiKey::sha256(id, sha256);
        for field in key.keys() {
            match field.as_str() {
                "id" | "sha256" => {}
                "not_after" => match key.get(field).and_then(time_of) {
                    Some(end) => made = made.not_after(end),
                    None => table.say("api_key", format_args!("[{at}].not_after is not a time; use one such as \"2027-01-01T00:00:00Z\"")),
                },
                _ => table.say("api_key", format_args!("[{at}].{field} is not a field; use id, not_after, sha256")),
            }
        }
        keys.push(made);
    }
    keys
}

fn ceiling(table: &mut Reader<'_>) -> Option<Ceiling> {
    let (max, hard_max, mode) = (
        table.count("max_in_flight"),
        table.count("hard_max"),
        limit_mode(table),
    );
    let adaptive = table.within("adaptive", adaptive).flatten();
    if max.is_none() {
        table.say(
            "max_in_flight",
            "is missing; say how many requests the service takes in at once",
        );
    }
    Some(Ceiling {
        max_in_flight: max?,
        hard_max,
        mode: mode.unwrap_or_default(),
        adaptive,
    })
}

fn adaptive(table: &mut Reader<'_>) -> Option<(u32, u32)> {
    if table.word("mode", &["enforce", "shadow"]) == Some("enforce") {
        table.say(
            "mode",
            "\"enforce\" is not offered: it is computed and shown, and refuses nothing; use \"shadow\"",
        );
    }
    let bounds = (table.count("min"), table.count("max"));
    for (field, bound) in [("min", bounds.0), ("max", bounds.1)] {
        if bound.is_none() {
            table.say(
                field,
                "is missing; an adaptive ceiling has a least and a most",
            );
        }
    }
    bounds.0.zip(bounds.1)
}

#[cfg(feature = "redis")]
fn fleet(table: &mut Reader<'_>) -> Fleet {
    let mut fleet = Fleet::unnamed();
    fleet.namespace = table.text("namespace").map(str::to_owned);
    let mode = table.word("mode", FleetMode::WORDS);
    fleet.mode = mode.and_then(FleetMode::from_word);
    let on_failure = table.word("on_failure", OnFailure::WORDS);
    fleet.on_failure = on_failure.and_then(OnFailure::from_word);
    fleet.replicas = table.count("replicas");
    match address(table) {
        None => {}
        Some(Ok(url)) => fleet.redis = Some(url),
        Some(Err(variable)) => fleet.unset = Some(variable),
    }
    fleet
}

/// The fields are known, so that a mistake in them is said together with the missing feature.
#[cfg(not(feature = "redis"))]
fn fleet(table: &mut Reader<'_>) {
    table.text("namespace");
    table.word("mode", &["leased", "strict", "local"]);
    table.word("on_failure", &["local_share", "open", "closed"]);
    table.count("replicas");
    address(table);
}

/// The address of the Redis, or the variable that should hold it and does not. It is never shown: a password may be
/// in it.
fn address(table: &mut Reader<'_>) -> Option<Result<String, String>> {
    match table.any("redis")? {
        Value::String(url) if url.contains('@') || url.contains("pass=") => {
            table.say(
                "redis",
                "holds a password; put the address into the environment: { env = \"REDIS_URL\" }",
            );
            None
        }
        Value::String(url) => Some(Ok(url.clone())),
        Value::Table(source)
            if source.len() == 1 && source.get("env").is_some_and(Value::is_str) =>
        {
            let variable = source.get("env").and_then(Value::as_str)?;
            let word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
            if variable.is_empty() || !variable.bytes().all(word) {
                // Perhaps the address itself, password and all.
                table.say(
                    "redis",
                    "env is not the name of a variable; use one such as { env = \"REDIS_URL\" }",
                );
                return None;
            }
            let set = std::env::var(variable).ok().filter(|url| !url.is_empty());
            Some(set.ok_or_else(|| variable.to_owned()))
        }
        _ => {
            table.say(
                "redis",
                "is not an address; use { env = \"REDIS_URL\" } or \"redis://host:6379\"",
            );
            None
        }
    }
}
