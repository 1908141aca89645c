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
use std::process::ExitCode;

use axum::Router;
use axum::routing::get;
use callerid::{Callers, identify};

const USAGE: &str = "\
usage: notify [--alertmanager http://HOST:PORT] [--webhook http://HOST:PORT/PATH] [--listen ADDRESS]

  --alertmanager  where Alertmanager listens
  --webhook       what takes a POST of JSON; one of the two is needed
  --listen        where the service itself listens; 127.0.0.1:3000 unless told";

struct Args {
    settings: pager::Settings,
    listen: String,
}

/// `None` where help is wanted.
fn read_args() -> Result<Option<Args>, String> {
    let mut settings = pager::Settings::default();
    let mut listen = "127.0.0.1:3000".to_owned();
    let args = std::env::args_os().skip(1);
    let mut args = args.map(|arg| {
        let text = arg.into_string();
        text.map_err(|arg| format!("argument {arg:?} is not UTF-8"))
    });
    while let Some(arg) = args.next().transpose()? {
        let mut value = || {
            let value = args.next().transpose()?;
            value.ok_or_else(|| format!("{arg} needs a value"))
        };
        match &*arg {
            "--help" | "-h" => return Ok(None),
            "--alertmanager" => {
                let base = value()?;
                let alerts = format!("{}/api/v2/alerts", base.trim_end_matches('/'));
                settings.alertmanager = Some(pager::receiver(&alerts)?);
            }
            "--webhook" => settings.webhook = Some(pager::receiver(&value()?)?),
            "--listen" => listen = value()?,
            _ => return Err(format!("unknown argument {arg:?}")),
        }
    }
    if settings.alertmanager.is_none() && settings.webhook.is_none() {
        return Err("neither --alertmanager nor --webhook: nobody would be paged".to_owned());
    }
    Ok(Some(Args { settings, listen }))
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let args = match read_args() {
        Ok(Some(args)) => args,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = serve(args) {
        eprintln!("notify: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

#[tokio::main]
async fn serve(Args { settings, listen }: Args) -> Result<(), Box<dyn Error>> {
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
