//! Where tower begins: the layer, its service, its future and its body. They hold an open account and bring it to
//! its end; every decision is made in the pipeline.

mod body;
mod future;
mod layer;
pub mod propagate;
mod service;

pub use self::body::ResponseBody;
pub use self::future::{MayWait, ResponseFuture};
pub use self::layer::CallerLayer;
pub use self::service::CallerService;
