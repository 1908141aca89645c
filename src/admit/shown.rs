//! What limits say when they come into force: a rate that was read otherwise than it was meant shows here.

use std::fmt::Write;

use super::Quota;
use super::policy::{Policies, Policy};
use crate::caller::Provenance;

/// Quotas that are written out; of the others there is a number.
const MOST: usize = 16;

impl Policies {
    /// Every quota as it was understood: `default 500/s, burst 1000; tier.batch 100/s, burst 100`.
    pub(crate) fn quotas_in_words(&self) -> String {
        let mut quotas = Vec::new();
        for (provenance, policy) in Provenance::ALL.iter().zip(&self.provenance) {
            quotas_of(&format!("provenance.{provenance}"), policy, &mut quotas);
        }
        for (path, policy) in self.tables_without_total() {
            quotas_of(&path, policy, &mut quotas);
        }
        if quotas.is_empty() {
            return "none".to_owned();
        }
        // The default first, callers and tiers by name.
        quotas.sort_by_cached_key(|(path, _)| (path != "default", path.clone()));
        let shown = quotas.iter().take(MOST);
        let shown: Vec<_> = shown
            .map(|(path, quota)| format!("{path} {quota}"))
            .collect();
        let mut words = shown.join("; ");
        if quotas.len() > MOST {
            let _ = write!(words, "; and {} more", quotas.len() - MOST);
        }
        words
    }
}

fn quotas_of(path: &str, policy: &Policy, quotas: &mut Vec<(String, Quota)>) {
    let with = |quota: Quota, burst: Option<u32>| burst.map_or(quota, |burst| quota.burst(burst));
    if let Some(quota) = policy.quota {
        quotas.push((path.to_owned(), with(quota, policy.burst)));
    }
    if let Some(total) = policy.total {
        quotas.push((format!("{path}.total"), total));
    }
    for (route, of_route) in &policy.routes {
        if let Some(quota) = of_route.quota {
            quotas.push((
                format!("{path}.route.{route:?}"),
                with(quota, of_route.burst),
            ));
        }
    }
}
