//! What the recorder is told of the switch, of quotas in force, of the roster and of the configuration.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use metrics::Label;

#[cfg(feature = "redis")]
use crate::admit::fleet::{Part, Trouble};
use crate::admit::{Mode, Scope};
use crate::caller::{EXEMPT, OTHER, Provenance};
use crate::pipeline::Core;
#[cfg(feature = "redis")]
use crate::record::handles::CounterHandle;
use crate::record::handles::{Flush, GaugeHandle};
use crate::record::last_pins::LastPinHandles;
use crate::record::names;
use crate::roster::{Account, Key, Roster};
use crate::upkeep::Upkeep;

/// The gauges of admission.
#[derive(Debug)]
pub(crate) struct Gauges {
    modes: Vec<(Mode, GaugeHandle)>,
    /// By the label of the caller's row.
    quotas: HashMap<(Box<str>, Scope), GaugeHandle>,
    /// The roster that [`Gauges::info`] tells of.
    told: Option<Arc<Roster>>,
    /// By their labels.
    info: HashMap<[String; 5], GaugeHandle>,
    /// By caller and id.
    keys: HashMap<(String, String), GaugeHandle>,
    ours: LastPinHandles,
    #[cfg(feature = "redis")]
    has_fleet: bool,
    #[cfg(feature = "redis")]
    degraded: GaugeHandle,
    #[cfg(feature = "redis")]
    troubles: Vec<CounterHandle>,
    #[cfg(feature = "config")]
    config: Option<(String, GaugeHandle)>,
    #[cfg(feature = "config")]
    reloaded: GaugeHandle,
}

impl Gauges {
    pub(crate) fn new() -> Self {
        let mode = |mode: Mode| {
            let label = Label::from_static_parts("mode", mode.as_str());
            (mode, GaugeHandle::new(names::MODE, vec![label]))
        };
        #[cfg(feature = "redis")]
        let troubles = |trouble: Trouble| {
            let label = Label::from_static_parts("kind", trouble.as_str());
            CounterHandle::new(names::LIMITER_ERRORS, vec![label])
        };
        Self {
            modes: Mode::ALL.into_iter().map(mode).collect(),
            quotas: HashMap::new(),
            told: None,
            info: HashMap::new(),
            keys: HashMap::new(),
            ours: LastPinHandles::default(),
            #[cfg(feature = "redis")]
            has_fleet: false,
            #[cfg(feature = "redis")]
            degraded: GaugeHandle::new(names::LIMITER_DEGRADED, Vec::new()),
            #[cfg(feature = "redis")]
            troubles: Trouble::ALL.into_iter().map(troubles).collect(),
            #[cfg(feature = "config")]
            config: None,
            #[cfg(feature = "config")]
            reloaded: GaugeHandle::new(names::CONFIG_RELOADED, Vec::new()),
        }
    }

    pub(crate) fn flush(&mut self, upkeep: &Upkeep, flush: &Flush<'_>) {
        let now = upkeep.core.admission.mode();
        for (mode, gauge) in &mut self.modes {
            gauge.set(if *mode == now { 1.0 } else { 0.0 }, flush);
        }
        if flush.limits || !self.quotas.is_empty() {
            self.flush_quotas(&upkeep.core, flush);
        }
        let roster = upkeep.core.registry.roster();
        self.flush_info(&roster, flush);
        self.flush_keys(&roster, flush);
        self.ours.tell("", &upkeep.watch.ours, flush);
        #[cfg(feature = "redis")]
        if let Some(part) = upkeep.core.admission.fleet() {
            self.flush_fleet(part, flush);
        }
        #[cfg(feature = "config")]
        self.flush_config(&upkeep.config, flush);
    }

    #[cfg(feature = "redis")]
    fn flush_fleet(&mut self, part: &Part, flush: &Flush<'_>) {
        let degraded = part.pool().as_ref().map(|pool| pool.is_degraded());
        self.has_fleet |= degraded.is_some();
        // A fleet that was left is not missed.
        if self.has_fleet {
            let degraded = if degraded == Some(true) { 1.0 } else { 0.0 };
            self.degraded.set(degraded, flush);
            for (counter, total) in self.troubles.iter_mut().zip(part.trouble_totals()) {
                counter.bring_to(total, flush);
            }
        }
    }

    fn flush_quotas(&mut self, core: &Core, flush: &Flush<'_>) {
        let mut in_force = HashMap::new();
        let entries = if flush.limits {
            core.registry.entries()
        } else {
            Vec::new()
        };
        for entry in entries {
            // Probes have no quota, and those without room share one for each provenance.
            if matches!(entry.name(), EXEMPT | OTHER) {
                continue;
            }
            // Those without a row are many.
            if let Some(row) = entry.row()
                && let Some((quota, scope)) = core.admission.quota_of(&entry.subject())
            {
                in_force.insert((row.label.clone(), scope), quota.rate());
            }
        }
        for key in in_force.keys() {
            let gauge = || {
                let caller = Label::new("caller", key.0.to_string());
                let scope = Label::from_static_parts("scope", key.1.as_str());
                GaugeHandle::new(names::QUOTA_LIMIT, vec![caller, scope])
            };
            self.quotas.entry(key.clone()).or_insert_with(gauge);
        }
        self.quotas.retain(|key, gauge| {
            let rate = in_force.get(key).copied();
            gauge.set(rate.unwrap_or(0.0), flush);
            rate.is_some()
        });
    }

    fn flush_info(&mut self, roster: &Arc<Roster>, flush: &Flush<'_>) {
        if self
            .told
            .as_ref()
            .is_some_and(|told| Arc::ptr_eq(told, roster))
        {
            for gauge in self.info.values_mut() {
                gauge.set(1.0, flush);
            }
            return;
        }
        self.told = Some(Arc::clone(roster));
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let labels = |account: &Account| {
            let provenance = if account.accept_claimed {
                Provenance::Claimed
            } else {
                Provenance::Verified
            };
            [
                account.name.clone(),
                text(&account.owner),
                text(&account.contact),
                text(&account.tier),
                provenance.as_str().to_owned(),
            ]
        };
        let named: HashSet<_> = roster.accounts().map(labels).collect();
        for values in &named {
            let gauge = || {
                let names = ["caller", "owner", "contact", "tier", "provenance"];
                let labels = names.into_iter().zip(values.clone());
                let labels = labels.map(|(name, value)| Label::new(name, value));
                GaugeHandle::new(names::CALLER_INFO, labels.collect())
            };
            self.info.entry(values.clone()).or_insert_with(gauge);
        }
        self.info.retain(|values, gauge| {
            let stays = named.contains(values);
            gauge.set(if stays { 1.0 } else { 0.0 }, flush);
            stays
        });
    }

    fn flush_keys(&mut self, roster: &Roster, flush: &Flush<'_>) {
        let used = |key: &Key| Some(((key.caller.clone(), key.id.clone()), key.last_used()?));
        let used: HashMap<_, _> = roster.keys().filter_map(used).collect();
        for key in used.keys() {
            let gauge = || {
                let caller = Label::new("caller", key.0.clone());
                let id = Label::new("key_id", key.1.clone());
                GaugeHandle::new(names::KEY_LAST_USED, vec![caller, id])
            };
            self.keys.entry(key.clone()).or_insert_with(gauge);
        }
        self.keys.retain(|key, gauge| {
            let secs = used.get(key);
            gauge.set(secs.map_or(0.0, |secs| *secs as f64), flush);
            secs.is_some()
        });
    }

    #[cfg(feature = "config")]
    fn flush_config(&mut self, config: &crate::config::Config, flush: &Flush<'_>) {
        let Some((hash, succeeded)) = config.state() else {
            return;
        };
        self.reloaded.set(if succeeded { 1.0 } else { 0.0 }, flush);
        if self.config.as_ref().is_none_or(|(known, _)| *known != hash) {
            if let Some((_, old)) = &mut self.config {
                old.set(0.0, flush);
            }
            let label = Label::new("hash", hash.clone());
            self.config = Some((hash, GaugeHandle::new(names::CONFIG_INFO, vec![label])));
        }
        if let Some((_, gauge)) = &mut self.config {
            gauge.set(1.0, flush);
        }
    }
}
