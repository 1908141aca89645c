//! gRPC methods as routes. A path is what the client sends, so a method is a route only once the service has given
//! it an answer that only a method gives: neither UNIMPLEMENTED nor what an interceptor says to any path
//! (UNAUTHENTICATED, PERMISSION_DENIED, RESOURCE_EXHAUSTED).

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

/// How many methods are learnt.
const ROOM: usize = 512;
/// The longest path that is learnt, in bytes.
pub(crate) const LONGEST: usize = 256;

/// The methods that the service has.
#[derive(Debug, Default)]
pub(crate) struct GrpcRoutes(RwLock<HashSet<Box<str>>>);

impl GrpcRoutes {
    pub(crate) fn knows(&self, path: &str) -> bool {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(path)
    }

    /// Learns a method; says whether it is known now.
    pub(crate) fn learn(&self, path: &str) -> bool {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.contains(path) || (known.len() < ROOM && known.insert(path.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_learnt_up_to_a_bound() {
        let routes = GrpcRoutes::default();
        for method in 0..2_000 {
            routes.learn(&format!("/pkg.Svc/M{method}"));
        }
        assert!(routes.knows("/pkg.Svc/M0") && routes.knows("/pkg.Svc/M511"));
        assert!(!routes.knows("/pkg.Svc/M512") && !routes.learn("/pkg.Svc/M512"));
    }
}
