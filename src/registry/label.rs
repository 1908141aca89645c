//! Under which label a caller appears in the metrics.

use sha2::{Digest, Sha256};

use super::entry::Entry;
use super::{InferredLabel, Registry};
use crate::caller::Provenance;

impl Registry {
    /// The value of the metric label `caller` for an entry; `None` where it must not have one.
    pub(crate) fn label(&self, entry: &Entry) -> Option<String> {
        let name = entry.name();
        if entry.provenance() != Provenance::Inferred {
            return Some(name.to_owned());
        }
        match self.limits.inferred {
            InferredLabel::Export => Some(name.to_owned()),
            InferredLabel::Hide => None,
            InferredLabel::Hash => {
                let (kind, _) = name.split_once(':')?;
                let hash = Sha256::new()
                    .chain_update((self.limits.inferred_key.len() as u64).to_le_bytes())
                    .chain_update(&self.limits.inferred_key)
                    .chain_update(name)
                    .finalize();
                let [a, b, c, d, ..]: [u8; 32] = hash.into();
                Some(format!("{kind}:{a:02x}{b:02x}{c:02x}{d:02x}"))
            }
        }
    }
}
