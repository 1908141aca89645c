//! A service that wakes people: through Alertmanager, and through a webhook.
//!
//! ```text
//! cargo run --example notify -- --alertmanager http://127.0.0.1:9093 --webhook http://127.0.0.1:8080/page
//! ```
//!
//! `pager.rs` is all there is to it, and made to be copied: it needs nothing but the subscription.
#![allow(
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a pager is about real time, and its module is made to be copied"
)]

mod pager;

use std::error::Error;

use axum::Router;
use axum::routing::get;
use callerid::{Callers, identify};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let mut settings = pager::Settings::default();
    let mut listen = "127.0.0.1:3000".to_owned();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or(format!("{arg} needs a value"))?;
        match &*arg {
            "--alertmanager" => {
                let base = value.trim_end_matches('/');
                settings.alertmanager = Some(pager::receiver(&format!("{base}/api/v2/alerts"))?);
            }
            "--webhook" => settings.webhook = Some(pager::receiver(&value)?),
            "--listen" => listen = value,
            _ => return Err(format!("unknown argument {arg:?}").into()),
        }
    }

    let callers = Callers::builder()
        .service("notify-example")
        .identify(identify::header("x-client-id").verified())
        .build()?;
    let pager = pager::start(callers.subscribe(), settings)?;

    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .layer(callers.layer());
    drop(callers);
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    axum::serve(listener, app)
        .with_graceful_shutdown(stop)
        .await?;
    // The last handle went with the router: the pager says what is left, and ends.
    pager.join().map_err(|_| "the pager panicked")?;
    Ok(())
}
