//! What the recorder is told of the switch, of quotas in force and of the configuration.

use std::collections::HashMap;

use metrics::Label;

use crate::admit::Mode;
use crate::record::handles::{Flush, GaugeHandle};
use crate::record::names;
use crate::registry::Registry;
use crate::upkeep::Upkeep;

/// The gauges of admission.
#[derive(Debug)]
pub(crate) struct Gauges {
    modes: Vec<(Mode, GaugeHandle)>,
    /// By the label of the caller's row.
    quotas: HashMap<Box<str>, GaugeHandle>,
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
        Self {
            modes: Mode::ALL.into_iter().map(mode).collect(),
            quotas: HashMap::new(),
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
            self.flush_quotas(&upkeep.core.registry, flush);
        }
        #[cfg(feature = "config")]
        self.flush_config(&upkeep.config, flush);
    }

    fn flush_quotas(&mut self, registry: &Registry, flush: &Flush<'_>) {
        let mut in_force = HashMap::new();
        for entry in registry.entries() {
            let quota = entry.seat().and_then(|seat| seat.terms()?.quota());
            if let (Some(row), Some(quota)) = (entry.row(), quota) {
                in_force.insert(row.label.clone(), quota.rate());
            }
        }
        for label in in_force.keys() {
            let gauge = || {
                let caller = Label::new("caller", label.to_string());
                let scope = Label::from_static_parts("scope", "instance");
                GaugeHandle::new(names::QUOTA_LIMIT, vec![caller, scope])
            };
            self.quotas.entry(label.clone()).or_insert_with(gauge);
        }
        self.quotas.retain(|label, gauge| {
            let rate = in_force.get(label).copied();
            gauge.set(rate.unwrap_or(0.0), flush);
            rate.is_some()
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
