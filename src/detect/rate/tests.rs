use super::*;

fn world() -> World {
    World {
        total: 50.0,
        ..World::default()
    }
}

fn run(rate: &mut Rate, seconds: u32, mut n: impl FnMut(u32) -> f32) -> Option<(f32, Alarm)> {
    for tick in 0..seconds * 4 {
        rate.observe(n(tick), 0.25, &world());
        rate.settle(false, false);
        if tick % 40 == 39 {
            rate.roll(false);
        }
        if let Some(rise) = rate.rise(&world(), 0.0, 0.0) {
            return Some((tick as f32 / 4.0, rise));
        }
    }
    None
}

fn steady() -> Rate {
    let mut rate = Rate::default();
    let calm = |tick: u32| [0.0, 1.0, 1.0, 2.0][tick as usize % 4];
    assert!(run(&mut rate, 1200, calm).is_none());
    rate
}

#[test]
fn a_rise_is_found_within_seconds_and_dated() {
    let mut rate = steady();
    assert!((rate.mean() - 4.0).abs() < 0.2, "{}", rate.mean());
    let (delay, rise) = run(&mut rate, 60, |_| 15.0).unwrap();
    assert!(delay <= 2.0, "{delay}");
    assert!((rise.age - delay).abs() <= 1.0, "{rise:?}");
}

#[test]
fn a_rise_that_is_nothing_to_the_service_is_no_alarm() {
    assert!(run(&mut steady(), 600, |_| 2.0).is_none());
}

#[test]
fn a_burst_that_ended_by_itself_may_come_again_but_not_stay() {
    let mut rate = steady();
    // The first one is seen without being said, as in the first minutes.
    for tick in 0..400 {
        rate.observe(if tick < 60 { 10.0 } else { 1.0 }, 0.25, &world());
        rate.settle(false, false);
    }
    assert!(run(&mut rate, 60, |tick| if tick < 60 { 11.0 } else { 1.0 }).is_none());
    let (delay, _) = run(&mut rate, 300, |_| 11.0).unwrap();
    assert!(delay > 15.0, "{delay}");
}

#[test]
fn a_plateau_on_the_way_up_is_no_burst_that_has_ended() {
    let mut rate = steady();
    assert!(run(&mut rate, 60, |_| 2.75).is_none());
    let (delay, _) = run(&mut rate, 60, |_| 3.875).unwrap();
    assert!(delay < 20.0, "{delay}");
}

#[test]
fn nothing_is_learned_in_an_alarm() {
    let mut rate = steady();
    for _ in 0..40 {
        rate.observe(400.0, 10.0, &world());
        rate.settle(true, false);
        rate.roll(true);
    }
    assert!((rate.mean() - 4.0).abs() < 0.2);
    assert!(rate.fano() < 3.0);
}

#[test]
fn burstiness_divides_the_evidence() {
    let mut bursty = Rate::default();
    let mut rng = fastrand::Rng::with_seed(1);
    for tick in 0..4800 {
        bursty.observe(if rng.u32(0..40) == 0 { 40.0 } else { 0.0 }, 0.25, &world());
        bursty.settle(false, false);
        if tick % 40 == 39 {
            bursty.roll(false);
        }
    }
    assert!(bursty.fano() > 5.0 * steady().fano(), "{}", bursty.fano());
}

#[test]
fn a_newcomer_who_comes_in_visits_and_grows_is_found_though_its_mean_follows() {
    let world = World {
        total: 35.0,
        age: 150,
        ..World::default()
    };
    let mut rate = Rate::default();
    let found = (0..160_u16).find(|&tick| {
        // Visits under way: 45 requests a second after half a minute.
        let level = 45.0 * (1.0 - (-f32::from(tick) / 120.0).exp());
        rate.observe(
            [0.4, 1.6][usize::from(tick / 4 % 2)] * 0.25 * level,
            0.25,
            &world,
        );
        rate.settle(false, false);
        if tick % 40 == 39 {
            rate.roll(false);
        }
        rate.rise(&world, 0.0, 0.0).is_some()
    });
    let seconds = found.map(|tick| tick / 4);
    assert!(seconds.is_some_and(|seconds| seconds <= 20), "{seconds:?}");
}
