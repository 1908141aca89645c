//! A small API that knows who calls it, and a crowd of callers that re-enacts an outage.
//!
//! ```text
//! cargo run --release --example demo
//! ```
//!
//! Then look at `http://127.0.0.1:3000/callerid/`, and `http://127.0.0.1:3000/metrics`.

mod api;
mod args;
#[path = "../../src/dashboard/columns.rs"]
mod columns;
mod glance;
mod learned;
#[path = "../notify/pager.rs"]
#[allow(
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a pager is about real time, and its module is made to be copied"
)]
mod pager;
mod past;
mod reread;
mod traffic;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, MatchedPath, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use callerid::dashboard::Access;
use callerid::{Account, Builder, Callers, Fleet, LATENCY_BUCKETS, Scope, identify};
use futures_util::StreamExt as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::subscriber::{NoSubscriber, with_default};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::{Args, Parsed};
use crate::reread::Watched;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How long requests that are under way may take to end after Ctrl-C.
const GRACE: Duration = Duration::from_secs(3);
const UPKEEP: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(Parsed::Run(args)) => *args,
        Ok(Parsed::Help) => {
            let _ = writeln!(std::io::stdout(), "{}", args::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("demo: {problem}\n\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    // What is detected is printed in words.
    let quiet = Targets::new()
        .with_default(tracing::Level::INFO)
        .with_target("callerid::events", tracing::Level::ERROR);
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(log).with(quiet).init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(args: Args) -> Result<(), Error> {
    let mut builder = named(Callers::builder(), &args);
    let watched = args.config.clone().map(|file| Watched::new(file.into()));
    if let Some(config) = &args.config {
        builder = builder.config(config)?;
    }
    if let Some(redis) = args.redis.clone() {
        builder = builder
            .fleet(Fleet::new("demo").redis(redis))
            .scope(Scope::Fleet);
    }
    if let Some(file) = &args.state {
        builder = builder.state_file(file);
    }
    let learned = args.state.as_ref().map(|file| {
        let mut learned = file.clone();
        learned.push(".learned");
        PathBuf::from(learned)
    });
    let kept = learned.as_ref().is_some_and(|file| file.exists());
    // Before there is a recorder: what never happened is not counted, nor said.
    let past = (!kept && !args.no_traffic)
        .then(|| {
            with_default(NoSubscriber::default(), || {
                past::learn(named(Callers::builder(), &args))
            })
        })
        .transpose()?;
    let metrics = recorder()?;
    let callers = builder
        .service("prices-demo")
        .version(env!("CARGO_PKG_VERSION"))
        // Feature `axum` does both by itself; this way the demo runs without naming a feature.
        .route(|head| head.extensions().get().map(MatchedPath::as_str))
        .peer(|extensions| Some(extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip()))
        .build()?;
    if let Some(past) = past {
        callers.restore(&past)?;
    } else if let Some(file) = &learned {
        tracing::info!("{}", learned::restore(&callers, file));
    }

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(&args.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", args.listen))?;
    let address = listener.local_addr()?;

    // The operator's routes are outside of the layer: never counted, never refused. The API is merged into them,
    // not they into it: the fallback, which counts paths that are no route, is that of the router merged last.
    let app = operators(&callers, metrics.clone()).merge(api::routes().layer(callers.layer()));
    let (stop, mut stopped) = watch::channel(());
    let server = axum::serve(
        listener,
        app.into_make_service_with_connect_info::<SocketAddr>(),
    )
    .with_graceful_shutdown(async move {
        let _ = stopped.changed().await;
    });
    let mut server = tokio::spawn(server.into_future());
    tokio::spawn(upkeep(metrics));
    say(&format!("listening on http://{address}\n"));
    tokio::spawn(tell(callers.clone()));
    if args.alertmanager.is_some() || args.webhook.is_some() {
        let settings = pager::Settings {
            alertmanager: args.alertmanager,
            webhook: args.webhook,
            ..pager::Settings::default()
        };
        // It ends with the process.
        let _ = pager::start(callers.subscribe(), settings)?;
    }
    if let Some(watched) = watched {
        tokio::spawn(watched.follow(callers.clone()));
    }
    if let Some(file) = learned.clone() {
        tokio::spawn(keep(callers.clone(), file));
    }
    let crowd = (!args.no_traffic).then(|| tokio::spawn(traffic::run(address, callers.clone())));

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        ended = &mut server => return Ok(ended??),
    }
    crowd.inspect(|crowd| crowd.abort());
    if let Some(file) = &learned {
        learned::keep(&callers, file)?;
    }
    drop(stop);
    match tokio::time::timeout(GRACE, server).await {
        Ok(ended) => ended??,
        Err(_) => tracing::info!("requests were still under way; they end here"),
    }
    Ok(())
}

/// How the demo knows its callers.
fn named(mut builder: Builder, args: &Args) -> Builder {
    let id = identify::header("x-client-id");
    if !(args.no_traffic || args.claimed) {
        for (name, owner, contact) in traffic::ROSTER {
            builder = builder.caller(Account::new(name).owner(owner).contact(contact));
        }
    }
    builder.identify(if args.claimed { id } else { id.verified() })
}

/// Prints what is detected: when, who, and why.
async fn tell(callers: Callers) {
    let mut events = callers.subscribe();
    let mut open = glance::Open::default();
    while let Some(event) = events.next().await {
        if let Some(told) = open.told(&callers, &event) {
            say(&told);
        }
    }
}

/// Keeps what was learned.
async fn keep(callers: Callers, file: PathBuf) {
    loop {
        tokio::time::sleep(learned::EVERY).await;
        if let Err(error) = learned::keep(&callers, &file) {
            tracing::warn!("{error}");
        }
    }
}

/// What operators look at. Whoever is on this machine may use the brake too.
fn operators(callers: &Callers, metrics: PrometheusHandle) -> Router {
    let page = callers.dashboard().access(Access::local_operator());
    Router::new()
        .route("/metrics", get(scrape))
        .with_state((callers.clone(), metrics))
        .nest_service("/callerid", page)
}

async fn scrape(State((callers, metrics)): State<(Callers, PrometheusHandle)>) -> Response {
    callers.flush();
    let format = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (format, metrics.render()).into_response()
}

/// The recorder, with buckets instead of the summaries that it would make of histograms.
fn recorder() -> Result<PrometheusHandle, Error> {
    let seconds = Matcher::Suffix("_seconds".to_owned());
    Ok(PrometheusBuilder::new()
        .set_buckets_for_metric(seconds, &LATENCY_BUCKETS)?
        .install_recorder()?)
}

/// The exporter keeps what histograms are given until somebody renders; where nobody scrapes, this does it.
async fn upkeep(metrics: PrometheusHandle) {
    let mut every = tokio::time::interval(UPKEEP);
    loop {
        every.tick().await;
        metrics.run_upkeep();
    }
}

/// Prints at once, and goes on where nobody reads any more.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
