//! The ceiling: soft for the light, hard for all, fair between them.

use callerid::{Account, Ceiling, Policy, Provenance, Quota, Reason};

use crate::support::{Answer, Rig, claimed, from};

fn hold(rig: &Rig, name: &str, requests: usize) -> Vec<Answer> {
    let answers = (0..requests).map(|_| rig.send(from(name)));
    answers.filter(|answer| answer.status() == 200).collect()
}

#[test]
fn idle_capacity_may_be_used_by_anyone() {
    let rig = Rig::new(|builder| builder.ceiling(64));
    assert_eq!(hold(&rig, "alone", 64).len(), 64);
}

#[test]
fn a_flood_is_refused_and_light_callers_come_in() {
    let rig = Rig::new(|builder| builder.ceiling(64));
    let mut flood = hold(&rig, "flood", 1_000);
    assert_eq!(flood.len(), 64);
    let mut calm = Vec::new();
    for name in 0..30 {
        let answers = hold(&rig, &format!("calm{name}"), 2);
        assert_eq!(answers.len(), 2, "calm{name}");
        calm.extend(answers);
        assert!(hold(&rig, "flood", 3).is_empty());
        rig.wait(5);
    }
    // As the flood drains, it comes to rest at what the others leave.
    for _ in 0..200 {
        if !flood.is_empty() {
            flood.remove(0);
        }
        flood.extend(hold(&rig, "flood", 5));
        rig.wait(25);
    }
    assert!(flood.len() <= 5, "{}", flood.len());
    assert_eq!(
        rig.counts("flood").refused[Reason::Ceiling],
        rig.counts("flood").refused.total()
    );
}

#[test]
fn what_is_in_flight_never_exceeds_the_hard_limit() {
    let rig = Rig::new(|builder| builder.ceiling(Ceiling::new(10).hard_max(15)));
    let held: Vec<_> = (0..40)
        .flat_map(|name| hold(&rig, &format!("c{name}"), 1))
        .collect();
    assert_eq!(held.len(), 15);
    // Nobody has more than its share: the service is full, and that is nobody's fault.
    assert_eq!(rig.get("late"), 503);
    drop(held);
    assert_eq!(rig.get("late"), 200);
    assert_eq!(rig.callers.snapshot().ceiling.unwrap().in_flight, 0);
}

#[test]
fn weights_divide_the_ceiling() {
    let rig = Rig::new(|builder| {
        builder
            .ceiling(Ceiling::new(30).hard_max(60))
            .caller(Account::new("heavy").policy(Policy::new().weight(2.0)))
    });
    let (mut heavy, mut light) = (hold(&rig, "heavy", 100), hold(&rig, "light", 100));
    for _ in 0..300 {
        for held in [&mut heavy, &mut light] {
            if !held.is_empty() {
                held.remove(0);
            }
        }
        heavy.extend(hold(&rig, "heavy", 4));
        light.extend(hold(&rig, "light", 4));
        rig.wait(25);
    }
    assert!((18..=22).contains(&heavy.len()), "{}", heavy.len());
    assert!((8..=12).contains(&light.len()), "{}", light.len());
}

#[test]
fn a_thousand_invented_names_take_the_share_of_one_group() {
    let rig = Rig::new(|builder| builder.ceiling(Ceiling::new(64)));
    let flood: Vec<_> = (0..1_000)
        .map(|name| rig.send(claimed(&format!("n{name}"))))
        .filter(|answer| answer.status() == 200)
        .collect();
    assert!(flood.len() <= 64 + 32, "{}", flood.len());
    for name in 0..10 {
        assert_eq!(hold(&rig, &format!("proven{name}"), 1).len(), 1);
    }
}

#[test]
fn invented_names_that_come_all_at_once_leave_half_of_the_room_to_the_others() {
    let rig = Rig::new(|builder| builder.ceiling(Ceiling::new(16).hard_max(32)));
    let calm: Vec<_> = (0..10)
        .flat_map(|name| hold(&rig, &format!("calm{name}"), 1))
        .collect();
    rig.wait(1_000);
    let mut flood = Vec::new();
    for name in 0..1_000 {
        rig.wait(name % 2);
        let answer = rig.send(claimed(&format!("n{name}")));
        flood.extend((answer.status() == 200).then_some(answer));
    }
    assert!(calm.len() + flood.len() <= 24, "{}", flood.len());
    let others = (10..18).flat_map(|name| hold(&rig, &format!("calm{name}"), 1));
    assert_eq!(others.collect::<Vec<_>>().len(), 8);
}

#[test]
fn a_calm_name_among_claimed_ones_is_not_refused_for_a_flooding_one() {
    let rig = Rig::new(|builder| builder.ceiling(64));
    let flood: Vec<_> = (0..500)
        .map(|_| rig.send(claimed("flood")))
        .filter(|answer| answer.status() == 200)
        .collect();
    assert_eq!(flood.len(), 64);
    let calm: Vec<_> = (0..20)
        .map(|name| rig.send(claimed(&format!("calm{name}"))))
        .collect();
    assert!(calm.iter().all(|answer| answer.status() == 200));
}

#[test]
fn nothing_leaks_when_callers_are_dropped() {
    let rig = Rig::new(|builder| builder.ceiling(64));
    hold(&rig, "a", 10);
    let weak = std::sync::Arc::downgrade(&rig.reached);
    drop(rig);
    assert!(weak.upgrade().is_none());
}

/// Fifty callers who send two requests a second each at random, which take 100 ms: ten in flight on average, rarely
/// two of one caller. A flood asks ten times as often as the service can answer.
#[test]
fn many_light_callers_vary_and_are_not_refused_beside_a_flood() {
    let rig = Rig::new(|builder| builder.ceiling(16));
    let mut random = fastrand::Rng::with_seed(5);
    let mut held: Vec<(u32, bool, Answer)> = Vec::new();
    let (mut calm, mut most, mut flooding) = (0, 0, Vec::new());
    for millis in 0..20_000 {
        held.retain(|(end, _, _)| *end > millis);
        for name in 0..50 {
            if random.u32(..500) == 0 {
                let answer = rig.send(from(&format!("calm{name}")));
                assert_eq!(answer.status(), 200, "calm{name} after {millis} ms");
                held.push((millis + 100, false, answer));
                calm += 1;
            }
        }
        for _ in 0..2 {
            let answer = rig.send(from("flood"));
            if answer.status() == 200 {
                held.push((millis + 100, true, answer));
            }
        }
        most = most.max(held.len());
        flooding.push(held.iter().filter(|(_, flood, _)| *flood).count());
        rig.wait(1);
    }
    assert!(calm > 1_800, "{calm}");
    assert!(most < 32, "{most}");
    // What the calm leave of the ceiling is the flood's, on average.
    let mean = flooding.iter().sum::<usize>() as f64 / flooding.len() as f64;
    assert!((4.0..=9.0).contains(&mean), "{mean}");
}

#[test]
fn what_the_ceiling_refuses_spends_neither_the_callers_quota_nor_the_groups() {
    let rig = Rig::new(|builder| {
        let claimed = Policy::new()
            .quota(Quota::per_hour(100).burst(100))
            .total(Quota::per_hour(150).burst(150));
        builder.ceiling(8).provenance(Provenance::Claimed, claimed)
    });
    let flood: Vec<_> = (0..1_000).map(|_| rig.send(claimed("flood"))).collect();
    let admitted = flood.iter().filter(|answer| answer.status() == 200).count();
    assert_eq!(admitted, 8);
    let refused = rig.counts("flood").refused;
    assert_eq!(refused[Reason::Ceiling], refused.total());
    drop(flood);
    // 92 of its own tokens are left, and of the group's 142 another 50.
    let again = |name: &str| (0..200).filter(|_| rig.ask(claimed(name)).0 == 200).count();
    assert_eq!((again("flood"), again("calm")), (92, 50));
}

#[test]
fn what_is_in_flight_already_spends_no_quota() {
    let rig = Rig::new(|builder| {
        builder
            .quota(Quota::per_hour(10).burst(10))
            .max_in_flight(2)
            .cost(|_| 3)
    });
    let held: Vec<_> = (0..50).map(|_| rig.send(from("a"))).collect();
    assert_eq!(rig.counts("a").refused[Reason::InFlight], 48);
    drop(held);
    assert_eq!(
        rig.burst("a", 5),
        1,
        "nine of ten tokens for three requests"
    );
}

#[test]
fn threads_that_race_never_exceed_the_hard_limit() {
    const HARD: u32 = 24;
    let rig = Rig::new(|builder| builder.ceiling(Ceiling::new(16).hard_max(HARD)));
    let most = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let rig = &rig;
                scope.spawn(move || {
                    let mut held = Vec::new();
                    let mut most = 0;
                    for round in 0..3_000 {
                        held.extend(hold(rig, &format!("c{thread}-{}", round % 20), 1));
                        let snapshot = if round % 50 == 0 {
                            Some(rig.callers.snapshot().ceiling.unwrap())
                        } else {
                            None
                        };
                        most = most.max(held.len());
                        // Who is refused for a moment counts for a moment: one for each thread.
                        assert!(snapshot.is_none_or(|ceiling| ceiling.in_flight <= HARD + 4));
                        if round % 3 == 0 {
                            held.truncate(held.len() / 2);
                        }
                        rig.clock.advance(std::time::Duration::from_micros(50));
                    }
                    (held, most)
                })
            })
            .collect();
        let ended: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        let held: usize = ended.iter().map(|(held, _)| held.len()).sum();
        assert!(held <= HARD as usize, "{held}");
        assert_eq!(
            rig.callers.snapshot().ceiling.unwrap().in_flight as usize,
            held
        );
        ended.iter().map(|(_, most)| *most).max().unwrap()
    });
    assert!(most > 4, "the threads did race for it: {most}");
    assert_eq!(rig.callers.snapshot().ceiling.unwrap().in_flight, 0);
}

#[test]
fn a_full_service_blames_a_group_that_has_more_than_its_share() {
    let rig = Rig::new(|builder| builder.ceiling(Ceiling::new(20).hard_max(20)));
    let flood: Vec<_> = (0..100)
        .map(|name| rig.send(claimed(&format!("n{name}"))))
        .filter(|answer| answer.status() == 200)
        .collect();
    assert_eq!(flood.len(), 20);
    rig.get("proven"); // has a share from the next levels on
    rig.wait(25);
    assert_eq!(rig.get("proven"), 429, "full, and not by nobody's fault");
    let rig = Rig::new(|builder| builder.ceiling(Ceiling::new(20).hard_max(20)));
    let flood = hold(&rig, "flood", 100);
    rig.wait(25);
    assert_eq!(rig.get("calm"), 429);
    // The flood has gone below its share for a moment: it was the flood all the same.
    let mut flood = flood;
    flood.truncate(5);
    let _others: Vec<_> = (0..15)
        .flat_map(|name| hold(&rig, &format!("c{name}"), 1))
        .collect();
    rig.wait(200);
    assert_eq!(rig.get("proven"), 429);
    let rig = Rig::new(|builder| builder.ceiling(Ceiling::new(20).hard_max(20)));
    let _held: Vec<_> = (0..20)
        .flat_map(|name| hold(&rig, &format!("c{name}"), 1))
        .collect();
    assert_eq!(rig.get("proven"), 503);
}

#[test]
fn an_adaptive_ceiling_is_shown_and_refuses_nothing() {
    let rig = Rig::new(|builder| builder.ceiling(Ceiling::new(60).adaptive(4, 50)));
    let adaptive = || rig.callers.snapshot().ceiling.unwrap().adaptive.unwrap();
    assert_eq!(
        (adaptive().max_in_flight, adaptive().min, adaptive().max),
        (50, 4, 50)
    );
    let slow = |millis: u64| {
        let inner = rig.clock.clone();
        let service = tower::service_fn(move |_: http::Request<String>| {
            inner.advance(std::time::Duration::from_millis(millis));
            let body = http_body_util::Full::new(bytes::Bytes::from_static(b"ok"));
            async { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
        });
        let mut service = tower::Layer::layer(&rig.callers.layer(), service);
        let held: Vec<_> = (0..40)
            .map(|_| crate::support::now(tower::Service::call(&mut service, from("a"))).unwrap())
            .collect();
        assert!(held.iter().all(|answer| answer.status() == 200));
        rig.wait(1_000);
    };
    for _ in 0..12 {
        slow(1);
    }
    assert_eq!(adaptive().max_in_flight, 50, "latency stays");
    for _ in 0..30 {
        slow(100);
    }
    let limit = adaptive().max_in_flight;
    assert!((4..40).contains(&limit), "{limit}");
    assert!(adaptive().would_refuse > 0);
    let counts = rig.counts("a");
    assert_eq!(
        (counts.refused.total(), counts.would_refuse.total()),
        (0, 0)
    );
}

#[test]
fn a_stall_in_which_all_have_more_than_usual_refuses_nobody_below_the_hard_limit() {
    let rig = Rig::new(|builder| builder.ceiling(16));
    // Twenty callers with a request now and then, which is answered at once.
    for round in 0..100 {
        rig.get(&format!("calm{}", round % 20));
        rig.wait(20);
    }
    // Now nothing is answered. Some have one in flight already when they ask again.
    let mut stalled = hold(&rig, "calm0", 2);
    for name in (0..20).chain(1..8) {
        rig.wait(2);
        stalled.extend(hold(&rig, &format!("calm{name}"), 1));
    }
    assert_eq!(stalled.len(), 2 + 20 + 7);
    assert!(hold(&rig, "calm0", 1).is_empty(), "it has most");
    assert_eq!(hold(&rig, "calm9", 1).len(), 1);
}
