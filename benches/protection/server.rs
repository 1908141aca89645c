//! A service of known capacity, behind one kind of protection or none, in a process of its own.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::error_handling::HandleErrorLayer;
use axum::routing::get;
use callerid::{Callers, Policy, Provenance, Quota, identify};
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_governor::GovernorLayer;
use tower_governor::governor::GovernorConfigBuilder;

/// How long a request keeps one of the workers busy. A wait and no work, so that the capacity is the same on a busy
/// machine.
pub(crate) const SERVICE: Duration = Duration::from_millis(100);
/// Requests that are served at once: 200 a second in all.
pub(crate) const WORKERS: usize = 20;

/// What stands in front of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    Nothing,
    Quota,
    Ceiling,
    Governor,
    Shed,
}

impl Setting {
    pub(crate) const ALL: [Self; 5] = [
        Self::Nothing,
        Self::Quota,
        Self::Ceiling,
        Self::Governor,
        Self::Shed,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no protection",
            Self::Quota => "callerid, quota and in-flight",
            Self::Ceiling => "callerid, ceiling alone",
            Self::Governor => "tower_governor by address",
            Self::Shed => "ConcurrencyLimit + load_shed",
        }
    }

    /// Whether the goal is ours to reach.
    pub(crate) fn ours(self) -> bool {
        matches!(self, Self::Quota | Self::Ceiling)
    }
}

fn callers(setting: Setting, workers: usize) -> Option<Callers> {
    let builder = Callers::builder()
        .identify(identify::header("x-client-id").verified())
        .identify(identify::header("x-app"));
    let builder = match setting {
        // Five times what a calm caller sends; and for all names that nobody has proven, a tenth of the capacity.
        Setting::Quota => builder
            .default_policy(
                Policy::new()
                    .quota(Quota::per_second(10).burst(20))
                    .max_in_flight(5),
            )
            .provenance(
                Provenance::Claimed,
                Policy::new().total(Quota::per_second(20)),
            ),
        // Four fifths of what is served at once: what is let in beyond that only waits, and the fifth is for what
        // light callers have more now than on average.
        Setting::Ceiling => builder.ceiling(workers as u32 * 4 / 5),
        _ => return None,
    };
    Some(builder.build().expect("valid settings"))
}

fn app(setting: Setting, workers: usize) -> Router {
    let workers = Arc::new(Semaphore::new(workers));
    let permits = workers.available_permits();
    // Taking the body means waiting for its end.
    let work = move |_: Bytes| {
        let workers = Arc::clone(&workers);
        async move {
            let _worker = workers.acquire().await;
            tokio::time::sleep(SERVICE).await;
            "done"
        }
    };
    let app = Router::new()
        .route("/v1/prices", get(work.clone()).post(work))
        .route("/healthz", get(async || "ok"));
    match setting {
        Setting::Nothing => app,
        Setting::Quota | Setting::Ceiling => match callers(setting, permits) {
            Some(callers) => app.layer(callers.layer()),
            None => app,
        },
        Setting::Governor => {
            let quota = GovernorConfigBuilder::default()
                .per_millisecond(100)
                .burst_size(20)
                .finish();
            app.layer(GovernorLayer::new(quota.expect("a period and a burst")))
        }
        Setting::Shed => app.layer(
            ServiceBuilder::new()
                .layer(HandleErrorLayer::new(async |_: axum::BoxError| {
                    StatusCode::SERVICE_UNAVAILABLE
                }))
                .load_shed()
                .layer(GlobalConcurrencyLimitLayer::new(permits)),
        ),
    }
}

/// Serves until standard input ends.
pub(crate) fn serve(setting: Setting, workers: usize) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("{}", listener.local_addr().expect("an address"));
        let _ = std::io::stdout().flush();
        std::thread::spawn(|| {
            let _ = std::io::stdin().lines().count();
            std::process::exit(0);
        });
        let app = app(setting, workers).into_make_service_with_connect_info::<SocketAddr>();
        axum::serve(listener, app).await.expect("the server serves");
    });
    ExitCode::SUCCESS
}
