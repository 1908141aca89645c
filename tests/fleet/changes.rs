//! Any sequence of reloads, with requests in between: no bucket is handed out anew, and nothing is charged twice.

use callerid::Callers;
use proptest::prelude::*;

use crate::programs::until;
use crate::reload::{Scrape, callers, reload};
use crate::server::Redis;
use crate::sharing::{File, status_without_a_runtime, undisturbed};

/// Where the quota of a caller is counted.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Nowhere,
    Instance,
    /// In each replica's half.
    Local,
    /// In the Redis, under one of two namespaces.
    Fleet(Mode, usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Strict,
    Leased,
}

/// A reload of one of the replicas, and requests after it.
#[derive(Clone, Copy, Debug)]
struct Step {
    replica: usize,
    place: Place,
    burst: u32,
    requests: u32,
}

fn steps(places: &'static [Place]) -> impl Strategy<Value = Vec<Step>> {
    let burst = prop::sample::select(&[4u32, 10, 30][..]);
    let step = (0usize..2, prop::sample::select(places), burst, 0u32..8);
    let step = step.prop_map(|(replica, place, burst, requests)| Step {
        replica,
        place,
        burst,
        requests,
    });
    prop::collection::vec(step, 2..16)
}

fn policies(redis: &Redis, step: &Step) -> String {
    let quota = |scope| {
        let burst = step.burst;
        format!("[default]\nquota = \"1/h\"\nburst = {burst}\nscope = \"{scope}\"\n")
    };
    let fleet = |more: &str| {
        let url = redis.url();
        quota("fleet") + &format!("[fleet]\nredis = \"{url}\"\nreplicas = 2\n{more}\n")
    };
    match step.place {
        Place::Nowhere => String::new(),
        Place::Instance => quota("instance"),
        Place::Local => fleet("namespace = \"x\"\nmode = \"local\""),
        Place::Fleet(mode, at) => fleet(&format!(
            "namespace = \"{}\"\nmode = \"{}\"",
            ["x", "y"][at],
            if mode == Mode::Strict {
                "strict"
            } else {
                "leased"
            }
        )),
    }
}

/// What is known to be spent, in tokens: none comes back while a test runs.
#[derive(Default)]
struct Spent {
    /// By each replica, as far as its bucket can tell.
    by: [u32; 2],
    /// Of that, what the fleet of each namespace was told of.
    told: [[u32; 2]; 2],
    /// What that fleet knows: it is told of no more than its burst, as a bucket cannot be emptier than empty.
    fleet: [u32; 2],
    /// The most that each replica may hold, lent to it while that fleet had tokens left.
    hand: [[u32; 2]; 2],
}

impl Spent {
    /// Checks an answer, with what the fleet knows exactly, or at the least: where tokens are lent, it knows of those
    /// that lapse too.
    fn note(&mut self, step: &Step, admitted: bool, exact: bool) -> Result<(), TestCaseError> {
        let own = self.by[step.replica];
        let must = match step.place {
            Place::Nowhere => {
                prop_assert!(admitted);
                return Ok(());
            }
            Place::Instance => own < step.burst,
            Place::Local => own < step.burst / 2,
            Place::Fleet(_, at) => {
                let (told, fleet) = (&mut self.told[at][step.replica], &mut self.fleet[at]);
                let news = own - std::mem::replace(told, own);
                *fleet = (*fleet).max(step.burst.min(*fleet + news));
                let there = *fleet < step.burst;
                let hand = &mut self.hand[at][step.replica];
                if there {
                    // A lease holds a quarter of the burst at the most, and another may have been asked for meanwhile.
                    *hand = if exact { 0 } else { 2 * step.burst.div_ceil(4) };
                } else if admitted {
                    prop_assert!(*hand > 0, "handed out anew: {step:?}");
                    *hand -= 1;
                }
                *fleet += u32::from(admitted);
                // Neither is this replica's own bucket emptier than empty, whatever a fleet that knows less lets in.
                let spent = own + u32::from(admitted && own < step.burst);
                self.by[step.replica] = spent;
                *told = spent;
                if exact {
                    prop_assert_eq!(admitted, there, "{:?}, {} spent here", step, own);
                }
                return Ok(());
            }
        };
        prop_assert_eq!(admitted, must, "{:?}, {} spent here", step, own);
        self.by[step.replica] += u32::from(admitted);
        Ok(())
    }
}

fn play(redis: &Redis, steps: &[Step], exact: bool) -> Result<(), TestCaseError> {
    let file = File::new("");
    undisturbed(|| {
        redis.say(&["FLUSHALL"]);
        std::fs::write(&file.0, "").unwrap();
        let replicas = [callers(&file.0), callers(&file.0)];
        // A reload waits for the Redis half a second at most: on a busy machine it may begin without.
        let scrapes = [Scrape::new(), Scrape::new()];
        let away = std::cell::Cell::new(0.0);
        let moves = |step: &Step| {
            let here: &Callers = &replicas[step.replica];
            reload(here, &file, &policies(redis, step));
            if matches!(step.place, Place::Fleet(..))
                && scrapes[step.replica].degraded(here) != Some(0.0)
            {
                away.set(away.get() + 1.0);
            }
            here
        };
        let mut spent = Spent::default();
        let mut ask = |step: &Step, requests| {
            let here = moves(step);
            (0..requests).try_for_each(|_| {
                let admitted = status_without_a_runtime(here, "a") == 200;
                spent.note(step, admitted, exact)
            })
        };
        let mut played = steps.iter().try_for_each(|step| ask(step, step.requests));
        // Who was silent has all of its own, and that once.
        let last = |replica| Step {
            replica,
            place: Place::Fleet(Mode::Strict, 0),
            burst: 10,
            requests: 7,
        };
        let others = [last(0), last(1)].map(|step| {
            let here = moves(&step);
            let status = |_| status_without_a_runtime(here, "b");
            let admitted = (0..step.requests)
                .map(status)
                .filter(|status| *status == 200);
            admitted.count()
        });
        if played.is_ok() && others != [7, 3] {
            played = Err(TestCaseError::fail(format!("others: {others:?}")));
        }
        let seen = replicas.iter().zip(&scrapes);
        let late: f64 = seen.map(|(callers, scrape)| scrape.late(callers)).sum();
        (away.get() + late, played)
    })
}

const ONE: &[Place] = &[
    Place::Nowhere,
    Place::Instance,
    Place::Local,
    Place::Fleet(Mode::Strict, 0),
];
const ALL: &[Place] = &[
    Place::Nowhere,
    Place::Instance,
    Place::Local,
    Place::Fleet(Mode::Strict, 0),
    Place::Fleet(Mode::Leased, 0),
    Place::Fleet(Mode::Strict, 1),
];

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(100)
    }
}

#[test]
fn a_quota_that_moves_to_and_fro_is_charged_once() {
    let redis = Redis::start();
    proptest!(config(), |(steps in steps(ONE))| {
        play(&redis, &steps, true)?;
    });
}

#[test]
fn no_reload_of_a_fleet_hands_out_anything_anew() {
    let redis = Redis::start();
    proptest!(config(), |(steps in steps(ALL))| {
        play(&redis, &steps, false)?;
    });
}

/// The first replica under some policies, and how many of so many requests it lets in.
struct Alone<'r> {
    callers: Callers,
    file: File,
    scrape: Scrape,
    redis: &'r Redis,
}

impl<'r> Alone<'r> {
    fn new(redis: &'r Redis) -> Self {
        let file = File::new("");
        Self {
            callers: callers(&file.0),
            file,
            scrape: Scrape::new(),
            redis,
        }
    }

    fn moves(&self, place: Place) {
        let step = Step {
            replica: 0,
            place,
            burst: 20,
            requests: 0,
        };
        reload(&self.callers, &self.file, &policies(self.redis, &step));
    }

    fn admitted(&self, requests: u32) -> usize {
        let status = |_| status_without_a_runtime(&self.callers, "a");
        let statuses = (0..requests).map(status);
        statuses.filter(|status| *status == 200).count()
    }

    fn is(&self, what: &str, degraded: f64) {
        until(what, || self.is_degraded(degraded).then_some(()));
    }

    fn is_degraded(&self, degraded: f64) -> bool {
        self.scrape.degraded(&self.callers) == Some(degraded)
    }

    /// What it does, and how many answers came too late meanwhile.
    fn with_late<T>(&self, what: impl FnOnce() -> T) -> (f64, T) {
        let before = self.scrape.late(&self.callers);
        let away = f64::from(u8::from(self.is_degraded(1.0)));
        let done = what();
        let late = self.scrape.late(&self.callers) - before;
        (late + away, done)
    }
}

const STRICT: Place = Place::Fleet(Mode::Strict, 0);

#[test]
fn what_was_spent_before_is_told_to_a_redis_that_was_away() {
    let redis = Redis::start();
    let seen = undisturbed(|| {
        redis.say(&["FLUSHALL"]);
        let alone = Alone::new(&redis);
        alone.moves(Place::Instance);
        let mut seen = vec![alone.admitted(12)];
        redis.signal("STOP");
        alone.moves(STRICT);
        // Of its half, which is spent.
        seen.push(alone.admitted(3));
        redis.signal("CONT");
        alone.is("it is found", 0.0);
        let (late, rest) = alone.with_late(|| alone.admitted(30));
        seen.push(rest);
        (late, seen)
    });
    assert_eq!(seen, [12, 0, 8]);
}

#[test]
fn what_was_let_in_while_the_redis_was_away_is_told_when_it_is_back() {
    let redis = Redis::start();
    let seen = undisturbed(|| {
        redis.say(&["FLUSHALL"]);
        let alone = Alone::new(&redis);
        alone.moves(STRICT);
        let (early, four) = alone.with_late(|| alone.admitted(4));
        let mut seen = vec![four];
        redis.signal("STOP");
        alone.is("the loss is noticed", 1.0);
        seen.push(alone.admitted(30));
        redis.signal("CONT");
        alone.is("it is found", 0.0);
        let (late, rest) = alone.with_late(|| alone.admitted(30));
        seen.push(rest);
        (early + late, seen)
    });
    assert_eq!(seen, [4, 6, 10], "its half, and then the rest");
}
