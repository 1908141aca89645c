use std::sync::Arc;

use tower::Layer;

use super::service::CallerService;
use crate::upkeep::Upkeep;

/// Attributes, counts and times every request that passes through; made by
/// [`Callers::layer`](crate::Callers::layer).
///
/// It belongs on the outside: above authentication, inside a panic catcher, and on axum on the router
/// (`Router::layer`), where the matched route can be seen. Cloning it shares the same table of callers, and a
/// request that passes two layers of the same [`Callers`](crate::Callers) is counted once.
#[derive(Clone, Debug)]
pub struct CallerLayer {
    upkeep: Arc<Upkeep>,
}

impl CallerLayer {
    pub(crate) fn new(upkeep: Arc<Upkeep>) -> Self {
        Self { upkeep }
    }
}

impl<S> Layer<S> for CallerLayer {
    type Service = CallerService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallerService::new(inner, Arc::clone(&self.upkeep))
    }
}
