//! Allocations per request, warm, beyond those of the service alone. A bench of its own, since counting costs time.
//!
//! ```text
//! cargo bench --all-features --bench allocations
//! ```

use std::process::ExitCode;

use crate::support::contenders::{Contender, Kind, on_axum, on_tower};
use crate::support::{Requests, builder, builder_with_route, install_recorder};

mod support;

const REQUESTS: usize = 10_000;

fn main() -> ExitCode {
    let _exporter = install_recorder();
    println!("allocations per request over the bare service, one warm caller");
    println!(
        "  {:<24} {:>14} {:>18} {:>16}",
        "", "on tower", "in an axum router", "bytes on tower"
    );
    let tower = builder_with_route().build().expect("valid settings");
    let axum = builder().build().expect("valid settings");
    let bare = (
        count(on_tower(Kind::Bare, &tower)),
        count(on_axum(Kind::Bare, &axum)),
    );
    let mut fits = true;
    for kind in Kind::ALL {
        let on_tower = count(on_tower(kind, &tower));
        let on_axum = count(on_axum(kind, &axum));
        let (plain, routed) = (on_tower.0 - bare.0.0, on_axum.0 - bare.1.0);
        println!(
            "  {:<24} {plain:>14.2} {routed:>18.2} {:>16.0}",
            kind.name(),
            on_tower.1 - bare.0.1
        );
        if kind == Kind::Callerid {
            fits = plain <= 3.0;
        }
    }
    println!(
        "goal: the tag's alone, 3 on a bare tower stack and 1 where an extensions map exists. In a router, TraceLayer"
    );
    println!(
        "shows what axum takes for any layer that wraps bodies; past that come the tag and, where the map is full,"
    );
    println!(
        "its growth. {}",
        if fits {
            "reached on tower"
        } else {
            "MISSED on tower"
        }
    );
    if fits {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Allocations and bytes per request.
fn count(mut service: Box<dyn Contender>) -> (f64, f64) {
    let mut requests = Requests::of("client", 1);
    service.serve(&mut requests, REQUESTS);
    let counted = allocation_counter::measure(|| service.serve(&mut requests, REQUESTS));
    (
        counted.count_total as f64 / REQUESTS as f64,
        counted.bytes_total as f64 / REQUESTS as f64,
    )
}
