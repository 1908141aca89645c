//! The ceiling: soft for the light, hard for all, fair between them.

use callerid::{Account, Ceiling, Policy, Reason};

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
