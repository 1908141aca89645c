//! The status of a service from its state file, or from the Redis of its fleet, in a process of its own, so that it
//! outlives the service.
//!
//! ```text
//! cargo run --example status -- /var/lib/prices/callerid.json 127.0.0.1:3001
//! REDIS_URL=redis://127.0.0.1:6379 cargo run --example status -- --fleet prices-prod 127.0.0.1:3001
//! ```

use std::error::Error;

use axum::Router;
use callerid::Fleet;
use callerid::dashboard::{Access, Grant, StatusPage};
use tokio::net::TcpListener;

const USAGE: &str =
    "usage: status STATE_FILE|--fleet NAMESPACE [ADDR]; a fleet's Redis is that of REDIS_URL";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let first = args.next().ok_or(USAGE)?;
    let page = if first == "--fleet" {
        let name = args.next().and_then(|name| name.into_string().ok());
        let fleet = Fleet::new(name.ok_or(USAGE)?);
        let redis = std::env::var("REDIS_URL").map_err(|error| format!("REDIS_URL: {error}"))?;
        StatusPage::of_fleet(&fleet.redis(redis))?
    } else if first.to_string_lossy().starts_with('-') {
        return Err(USAGE.into());
    } else {
        StatusPage::new(first)
    };
    let address = args.next().unwrap_or_else(|| "127.0.0.1:3001".into());
    let address = address.into_string().map_err(|_| "an address is text")?;

    // Everybody who reaches this listener may read.
    let everybody = Access::from_fn(|_| Grant::nothing().read());
    let app = Router::new().fallback_service(page.access(everybody));

    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
