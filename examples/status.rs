//! The status of a service from its state file, in a process of its own, so that it outlives the service.
//!
//! ```text
//! cargo run --example status -- /var/lib/prices/callerid.json 127.0.0.1:3001
//! ```

use std::error::Error;

use axum::Router;
use callerid::dashboard::{Access, Grant, StatusPage};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let file = args.next().ok_or("usage: status STATE_FILE [ADDR]")?;
    let address = args.next().unwrap_or_else(|| "127.0.0.1:3001".into());
    let address = address.into_string().map_err(|_| "an address is text")?;

    // Everybody who reaches this listener may read.
    let everybody = Access::from_fn(|_| Grant::nothing().read());
    let app = Router::new().fallback_service(StatusPage::new(file).access(everybody));

    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
