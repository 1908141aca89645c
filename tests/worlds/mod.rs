//! A small world of clients and one service, for judging the detector: sessions of requests that bring more
//! requests, heavy-tailed pauses, and a service that becomes slower the more it has to do.
//!
//! Everything follows from a seed. Traffic is fed as ticks, in two ways: as production sees it (a request
//! counts when it starts, what is in flight is known) and as a log tells it (a request is known when it ends).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use callerid::detect::{Detector, Event, RouteDelta};
use callerid::{Class, Timestamp};

mod tick;

use tick::feed;

pub(crate) const TICK: f64 = 0.25;
const ROUTES: usize = 14;

/// A function of time that multiplies something.
pub(crate) type Shape = Box<dyn Fn(f64) -> f64>;

pub(crate) struct Client {
    pub(crate) name: String,
    /// Requests per second on average.
    pub(crate) rate: f64,
    /// Requests that one visit brings, on average.
    pub(crate) visit: f64,
    /// Mean pause between the requests of a visit, in seconds.
    pub(crate) pause: f64,
    pub(crate) routes: Vec<(u32, f64)>,
    pub(crate) errors: f64,
    pub(crate) error: Class,
    pub(crate) shape: Shape,
}

/// What happens on top of ordinary life.
pub(crate) enum Effect {
    /// Extra requests per second of a client on one route with one class.
    Extra {
        client: usize,
        route: u32,
        class: Class,
        rate: Shape,
    },
    /// From `from` to `to` this share of a client's answers is of a class.
    Spoil {
        client: Option<usize>,
        route: Option<u32>,
        class: Class,
        share: f64,
        from: f64,
        to: f64,
        retries: u32,
    },
    /// Durations are multiplied.
    Slow {
        client: Option<usize>,
        route: Option<u32>,
        by: f64,
        from: f64,
        to: f64,
    },
    /// Nothing arrives at all.
    Silence { from: f64, to: f64 },
    /// Names never heard before, so many a second, with so many requests each on average.
    Names { rate: Shape, each: f64 },
    /// Nothing ends between `from` and `to` but what times out.
    Hang {
        client: Option<usize>,
        route: Option<u32>,
        timeout: f64,
        from: f64,
        to: f64,
    },
    /// A client's durations are multiplied by a function of time.
    Leak { client: usize, by: Shape },
}

pub(crate) struct World {
    pub(crate) rng: fastrand::Rng,
    pub(crate) clients: Vec<Client>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) deploys: Vec<(f64, usize, &'static str)>,
    pub(crate) length: f64,
    /// Requests in flight at which durations have doubled.
    pub(crate) capacity: f64,
    /// Clients beyond this many share a row.
    pub(crate) places: usize,
    /// When the service forgets everything.
    pub(crate) restart: f64,
    /// Requests of this client name nobody.
    pub(crate) unnamed: Option<usize>,
}

/// The row of everybody who has none, and of those who are not named; clients come after.
pub(crate) const OTHER: u32 = 0;
pub(crate) const UNKNOWN: u32 = 1;

struct Job {
    client: usize,
    route: u32,
    forced: Option<Class>,
    left: u32,
    tries: u32,
    visit: bool,
}

enum What {
    Start(Job),
    End {
        slot: u32,
        route: u32,
        class: Class,
        took: f64,
    },
}

#[derive(Default)]
struct Account {
    started: u32,
    new_names: u32,
    in_flight: u32,
    busy: f64,
    routes: BTreeMap<u32, RouteDelta>,
}

impl World {
    /// `n` clients with Zipf rates that add up to `total` requests per second.
    pub(crate) fn new(seed: u64, n: usize, total: f64, length: f64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 17);
        let weights: Vec<f64> = (0..n).map(|i| 1.0 / (i as f64 + 2.0)).collect();
        let sum: f64 = weights.iter().sum();
        let clients = (0..n)
            .map(|i| {
                let first = rng.u32(0..ROUTES as u32);
                let k = rng.u32(1..6);
                Client {
                    name: format!("client-{i}"),
                    rate: total * weights[i] / sum,
                    visit: 1.0 + 9.0 * rng.f64().powi(2),
                    pause: 0.05 + 3.0 * rng.f64(),
                    routes: (0..k)
                        .map(|j| ((first + j * j) % ROUTES as u32, 1.0 / f64::from(j + 1)))
                        .collect(),
                    errors: if rng.f64() < 0.1 {
                        0.2
                    } else {
                        0.02 * rng.f64()
                    },
                    error: [
                        Class::NotFound,
                        Class::Validation,
                        Class::Conflict,
                        Class::ServerError,
                    ][rng.usize(0..4)],
                    shape: Box::new(|_| 1.0),
                }
            })
            .collect();
        Self {
            rng,
            clients,
            effects: Vec::new(),
            deploys: Vec::new(),
            length,
            capacity: total * 0.3 + 4.0,
            places: usize::MAX,
            restart: f64::INFINITY,
            unnamed: None,
        }
    }

    fn exp(&mut self, mean: f64) -> f64 {
        -(1.0 - self.rng.f64()).ln() * mean
    }

    fn normal(&mut self) -> f64 {
        let r = (-2.0 * (1.0 - self.rng.f64()).ln()).sqrt();
        r * (std::f64::consts::TAU * self.rng.f64()).cos()
    }

    fn pick(&mut self, client: usize) -> u32 {
        let routes = self.clients[client].routes.clone();
        let sum: f64 = routes.iter().map(|r| r.1).sum();
        let mut u = self.rng.f64() * sum;
        for (route, weight) in &routes {
            u -= weight;
            if u <= 0.0 {
                return *route;
            }
        }
        routes[0].0
    }

    fn row(&self, client: usize) -> u32 {
        if self.unnamed == Some(client) {
            UNKNOWN
        } else if client >= self.places {
            OTHER
        } else {
            client as u32 + 2
        }
    }

    fn silent(&self, t: f64) -> bool {
        self.effects
            .iter()
            .any(|e| matches!(e, Effect::Silence { from, to } if t >= *from && t < *to))
    }

    /// Runs the world; `live` feeds as production does.
    pub(crate) fn run(mut self, live: bool) -> Said {
        let mut queue: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
        let mut things: HashMap<u64, What> = HashMap::new();
        let mut key = 0u64;
        let nanos = |t: f64| (t.max(0.0) * 1e9) as u64;
        let mut accounts: BTreeMap<u32, Account> = BTreeMap::new();
        let mut names = vec!["__other__".to_owned(), "__unknown__".to_owned()];
        names.extend(self.clients.iter().map(|c| c.name.clone()));
        let mut known = self.clients.len();
        let mut detector = Detector::new();
        let mut said = Said::default();
        let mut in_flight = 0u32;
        let mut t = 0.0;
        let mut deploys = std::mem::take(&mut self.deploys);
        deploys.sort_by(|a, b| a.0.total_cmp(&b.0));
        while t < self.length {
            let silent = self.silent(t);
            // Arrivals of the next tick.
            let mut fresh: Vec<(f64, Job)> = Vec::new();
            for i in 0..self.clients.len() {
                let c = &self.clients[i];
                let rate = c.rate * (c.shape)(t);
                let visit = c.visit.max(1.0);
                let mut at = t;
                loop {
                    let gap = if rate > 0.0 {
                        self.exp(visit / rate)
                    } else {
                        break;
                    };
                    at += gap;
                    if at >= t + TICK {
                        break;
                    }
                    let left = (self.exp(visit - 1.0 + 1e-9)) as u32;
                    let route = self.pick(i);
                    fresh.push((
                        at,
                        Job {
                            client: i,
                            route,
                            forced: None,
                            left,
                            tries: 0,
                            visit: true,
                        },
                    ));
                }
            }
            for e in 0..self.effects.len() {
                let (client, route, forced, rate, each) = match &self.effects[e] {
                    Effect::Extra {
                        client,
                        route,
                        class,
                        rate,
                    } => (*client, *route, Some(*class), rate(t), 1.0),
                    Effect::Names { rate, each } => (usize::MAX, 0, None, rate(t), *each),
                    _ => continue,
                };
                if rate <= 0.0 {
                    continue;
                }
                let mut at = t;
                loop {
                    at += self.exp(1.0 / rate);
                    if at >= t + TICK {
                        break;
                    }
                    let mut left = 0;
                    let client = if client == usize::MAX {
                        left = self.exp(each - 1.0) as u32;
                        if known < self.places {
                            names.push(format!("invented-{known}"));
                        } else {
                            accounts.entry(OTHER).or_default().new_names += 1;
                        }
                        known += 1;
                        known - 1
                    } else {
                        client
                    };
                    fresh.push((
                        at,
                        Job {
                            client,
                            route,
                            forced,
                            left,
                            tries: 0,
                            visit: left > 0,
                        },
                    ));
                }
            }
            if !silent {
                for (at, job) in fresh {
                    key += 1;
                    queue.push(Reverse((nanos(at), key)));
                    things.insert(key, What::Start(job));
                }
            }
            // What happens in the tick.
            while let Some(Reverse((at, k))) = queue.peek().copied() {
                if at >= nanos(t + TICK) {
                    break;
                }
                queue.pop();
                let at = at as f64 / 1e9;
                let Some(what) = things.remove(&k) else {
                    continue;
                };
                match what {
                    What::End {
                        slot,
                        route,
                        class,
                        took,
                    } => {
                        in_flight -= 1;
                        let account = accounts.entry(slot).or_default();
                        account.in_flight -= 1;
                        let delta = account.routes.entry(route).or_insert(RouteDelta {
                            route,
                            ..RouteDelta::default()
                        });
                        delta.by_class[class as usize] += 1;
                        delta.service_time += took as f32;
                        if live {
                            account.busy -= t + TICK - at;
                        } else {
                            account.busy += took;
                            account.started += 1;
                        }
                    }
                    What::Start(job) => {
                        if self.silent(at) {
                            continue;
                        }
                        let (class, took, again) = self.serve(&job, at, in_flight);
                        in_flight += 1;
                        said.requests.push(Sent {
                            at,
                            took,
                            client: job.client,
                            route: job.route,
                            class,
                        });
                        let account = accounts.entry(self.row(job.client)).or_default();
                        account.in_flight += 1;
                        if live {
                            account.started += 1;
                            account.busy += t + TICK - at;
                        }
                        key += 1;
                        queue.push(Reverse((nanos(at + took), key)));
                        things.insert(
                            key,
                            What::End {
                                slot: self.row(job.client),
                                route: job.route,
                                class,
                                took,
                            },
                        );
                        let next = if again {
                            Some((
                                at + took + self.exp(0.4),
                                Job {
                                    tries: job.tries + 1,
                                    ..job
                                },
                            ))
                        } else if job.visit && job.left > 0 {
                            let client = self.clients.get(job.client);
                            let pause = client.map_or(1.0, |c| c.pause);
                            let route = match client {
                                Some(_) => self.pick(job.client),
                                None => job.route,
                            };
                            let pause = pause * (0.8 * self.normal()).exp();
                            Some((
                                at + took + pause,
                                Job {
                                    route,
                                    left: job.left - 1,
                                    tries: 0,
                                    ..job
                                },
                            ))
                        } else {
                            None
                        };
                        if let Some((at, job)) = next {
                            key += 1;
                            queue.push(Reverse((nanos(at), key)));
                            things.insert(key, What::Start(job));
                        }
                    }
                }
            }
            if (t..t + TICK).contains(&self.restart) {
                detector = Detector::new();
            }
            t += TICK;
            while deploys.first().is_some_and(|d| d.0 <= t) {
                let (at, client, version) = deploys.remove(0);
                detector.deployed(
                    &names[client + 2],
                    version,
                    Timestamp::from_nanos(nanos(at)),
                );
            }
            feed(
                &mut detector,
                &accounts,
                &names,
                live,
                in_flight,
                Timestamp::from_nanos(nanos(t)),
                &mut said,
            );
            accounts.retain(|_, a| {
                a.started = 0;
                a.new_names = 0;
                a.routes.clear();
                a.busy = if live {
                    f64::from(a.in_flight) * TICK
                } else {
                    0.0
                };
                a.in_flight > 0
            });
        }
        said
    }

    fn serve(&mut self, job: &Job, t: f64, in_flight: u32) -> (Class, f64, bool) {
        let base = 0.004 * 1.5_f64.powi((job.route % ROUTES as u32) as i32);
        let crowding = 1.0 + (f64::from(in_flight) / self.capacity).powi(2);
        let mut took = base * (0.6 * self.normal()).exp() * crowding.min(50.0);
        let mut class = job.forced.unwrap_or(Class::Ok);
        let mut again = false;
        if let Some(client) = self.clients.get(job.client)
            && job.forced.is_none()
            && self.rng.f64() < client.errors
        {
            class = client.error;
        }
        for e in 0..self.effects.len() {
            match &self.effects[e] {
                Effect::Slow {
                    client,
                    route,
                    by,
                    from,
                    to,
                } if t >= *from
                    && t < *to
                    && client.is_none_or(|c| c == job.client)
                    && route.is_none_or(|r| r == job.route) =>
                {
                    took *= by;
                }
                Effect::Leak { client, by } if *client == job.client => took *= by(t),
                Effect::Hang {
                    client,
                    route,
                    timeout,
                    from,
                    to,
                } if t >= *from
                    && t < *to
                    && client.is_none_or(|c| c == job.client)
                    && route.is_none_or(|r| r == job.route) =>
                {
                    took += *to - t;
                    if took > *timeout {
                        took = *timeout;
                        class = Class::Timeout;
                    }
                }
                Effect::Spoil {
                    client,
                    route,
                    class: bad,
                    share,
                    from,
                    to,
                    retries,
                } if t >= *from
                    && t < *to
                    && client.is_none_or(|c| c == job.client)
                    && route.is_none_or(|r| r == job.route)
                    && self.rng.f64() < *share =>
                {
                    class = *bad;
                    again = job.tries < *retries;
                }
                _ => {}
            }
        }
        (class, took, again)
    }
}

/// What came of a run.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) events: Vec<Event>,
    /// Whom a clamp would have held, and when.
    pub(crate) held: Vec<(f64, String)>,
    /// Every request, by when it started.
    pub(crate) requests: Vec<Sent>,
}

/// A request of a client.
#[allow(dead_code, reason = "each test binary uses its part")]
pub(crate) struct Sent {
    pub(crate) at: f64,
    pub(crate) took: f64,
    pub(crate) client: usize,
    pub(crate) route: u32,
    pub(crate) class: Class,
}

/// From `from` to `to`.
pub(crate) fn between(from: f64, to: f64, value: f64) -> Shape {
    Box::new(move |t| if t >= from && t < to { value } else { 0.0 })
}
