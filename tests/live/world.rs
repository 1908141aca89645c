//! A service with a crowd of calm callers, second by second.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use callerid::events::{Event, Kind};
use callerid::middleware::ResponseBody;
use callerid::{Account, Builder, CallerLayer, ErrorDetail, Timestamp, identify};
use fastrand::Rng;
use http::{Request, Response};
use tower::{Layer, Service};

use crate::support::{Answer, Inner, Script, Step, Table, drain, now, route_of_header};

pub const TICK: Duration = Duration::from_millis(250);

/// What a caller sends.
#[derive(Clone)]
pub struct Load {
    pub caller: String,
    pub agent: String,
    /// Requests per second.
    pub rate: f64,
    pub route: &'static str,
    pub status: u16,
    pub latency: Duration,
    /// How many different keys there are in its paths.
    pub keys: u64,
}

impl Load {
    pub fn new(caller: &str, rate: f64) -> Self {
        Self {
            caller: caller.into(),
            agent: format!("{caller}/v1 (test)"),
            rate,
            route: "/v1/prices/{sku}",
            status: 200,
            latency: Duration::from_millis(20),
            keys: 1_000,
        }
    }
}

pub struct World {
    pub table: Table,
    service: callerid::middleware::CallerService<Inner>,
    open: BinaryHeap<Reverse<(Timestamp, u64)>>,
    bodies: std::collections::HashMap<u64, Response<ResponseBody<Script>>>,
    next: u64,
    time: Timestamp,
    random: Rng,
    pub loads: Vec<Load>,
}

/// Ten callers whom nobody complains about.
pub fn calm() -> Vec<Load> {
    let rates = [8.0, 6.0, 5.0, 4.0, 4.0, 3.0, 3.0, 2.0, 2.0, 1.0];
    let names = [
        "checkout",
        "search",
        "web-shop",
        "mobile-bff",
        "recs",
        "ads",
        "mail",
        "reports",
        "stock",
        "crm",
    ];
    let named = names.iter().zip(rates);
    named.map(|(name, rate)| Load::new(name, rate)).collect()
}

impl World {
    pub fn new(settings: impl FnOnce(Builder) -> Builder) -> Self {
        let table = Table::with(|builder| {
            let account = Account::new("checkout")
                .owner("Payments")
                .contact("#payments-oncall");
            settings(
                builder
                    .identify(identify::header("x-client-id").verified())
                    .identify(identify::header("x-claimed"))
                    .route(route_of_header)
                    .caller(account)
                    .service("prices")
                    .instance("7f3a"),
            )
        });
        let layer: CallerLayer = table.callers.layer();
        let service = layer.layer(Inner::new(|request| {
            let status = request.headers()["x-status"].to_str().unwrap();
            let mut response = Response::new(Script::new([Step::Data("x")]));
            *response.status_mut() = status.parse().unwrap();
            if response.status() == 422 {
                response.extensions_mut().insert(ErrorDetail::new("sku"));
            }
            Answer::Respond(response)
        }));
        let time = crate::support::START;
        Self {
            table,
            service,
            open: BinaryHeap::new(),
            bodies: Default::default(),
            next: 0,
            time,
            random: Rng::with_seed(7),
            loads: calm(),
        }
    }

    /// Seconds since the beginning.
    pub fn seconds(&self) -> f64 {
        self.time.since(crate::support::START).as_secs_f64()
    }

    fn send(&mut self, load: &Load) {
        let key = self.random.u64(..load.keys);
        let path = load.route.replace("{sku}", &key.to_string());
        let name = if load.caller.starts_with("claimed-") {
            "x-claimed"
        } else {
            "x-client-id"
        };
        let request = Request::builder()
            .uri(path)
            .header(name, &load.caller)
            .header("user-agent", &load.agent)
            .header("x-route", load.route)
            .header("x-status", load.status.to_string())
            .body(String::new())
            .unwrap();
        let response = now(self.service.call(request)).unwrap();
        if response.status() == 429 && load.status != 429 {
            return;
        }
        let jitter = 0.5 + self.random.f64();
        let end = self.time + load.latency.mul_f64(jitter);
        self.open.push(Reverse((end, self.next)));
        self.bodies.insert(self.next, response);
        self.next += 1;
    }

    fn to(&mut self, time: Timestamp) {
        if time > self.time {
            self.table.clock.advance(time.since(self.time));
            self.time = time;
        }
    }

    /// Lets the loads run for a while, in Poisson arrivals.
    pub fn run(&mut self, time: Duration) {
        let end = self.time + time;
        while self.time < end {
            let tick = self.time + TICK;
            let mut arrivals = Vec::new();
            for (at, load) in self.loads.iter().enumerate() {
                let mut t = 0.0;
                loop {
                    t -= (1.0 - self.random.f64()).ln() / load.rate.max(1e-9);
                    if t >= TICK.as_secs_f64() {
                        break;
                    }
                    arrivals.push((self.time + Duration::from_secs_f64(t), at));
                }
            }
            arrivals.sort_unstable();
            let loads = Arc::new(self.loads.clone());
            for (t, at) in arrivals {
                self.end_until(t);
                self.to(t);
                self.send(&loads[at]);
            }
            self.end_until(tick);
            self.to(tick);
            self.table.callers.tick(tick);
        }
    }

    fn end_until(&mut self, t: Timestamp) {
        while let Some(Reverse((end, id))) = self.open.peek().copied() {
            if end > t {
                return;
            }
            self.open.pop();
            self.to(end);
            if let Some(response) = self.bodies.remove(&id) {
                drain(&mut response.into_body());
            }
        }
    }

    pub fn load(&mut self, caller: &str) -> &mut Load {
        self.loads
            .iter_mut()
            .find(|load| load.caller == caller)
            .unwrap()
    }

    pub fn said(&self, kind: Kind) -> Vec<Arc<Event>> {
        let events = self.table.callers.events();
        events
            .into_iter()
            .filter(|event| event.kind == kind)
            .collect()
    }

    /// The first event of a kind, which must be there.
    pub fn first(&self, kind: Kind) -> Arc<Event> {
        let all = || {
            let events = self.table.callers.events();
            events
                .iter()
                .map(|event| event.to_json())
                .collect::<Vec<_>>()
                .join("\n")
        };
        let said = self.said(kind);
        Arc::clone(
            said.first()
                .unwrap_or_else(|| panic!("no {kind:?} in\n{}", all())),
        )
    }
}
