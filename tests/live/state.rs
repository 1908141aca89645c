//! What detection has learned outlives a restart.

use std::time::Duration;

use callerid::StateError;
use callerid::events::Kind;

use crate::world::{Load, World};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn learned() -> Vec<u8> {
    let mut world = World::new(|builder| builder);
    // A job that runs for twenty seconds every five minutes is nothing new.
    for _ in 0..3 {
        world.run(seconds(280));
        world.loads.push(Load::new("reports", 40.0));
        world.run(seconds(20));
        world.loads.pop();
    }
    world.run(seconds(60));
    world.table.callers.export_state()
}

/// A runaway two minutes after a restart, before ten minutes of the new life are known.
fn restarted(state: Option<&[u8]>) -> World {
    let mut world = World::new(|builder| builder);
    if let Some(state) = state {
        world.table.callers.restore(state).unwrap();
    }
    world.run(seconds(120));
    world.loads.push(Load::new("reports", 40.0));
    world.run(seconds(20));
    world.loads.pop();
    world.run(seconds(60));
    world.loads.push(Load::new("checkout", 80.0));
    world.run(seconds(10));
    world
}

#[test]
fn a_restored_past_finds_what_a_fresh_one_does_not_dare_to_say() {
    let fresh = restarted(None);
    assert_eq!(fresh.said(Kind::RunawayStarted), []);
    let state = learned();
    let known = restarted(Some(&state));
    let said = known.said(Kind::RunawayStarted);
    let callers: Vec<_> = said.iter().filter_map(|event| event.caller()).collect();
    assert_eq!(callers, ["checkout"], "and the job is still nothing new");
    let found = said[0].finding().unwrap();
    assert!((6.0..10.0).contains(&found.baseline), "{}", found.baseline);
    assert_eq!(found.route.as_deref(), Some("GET /v1/prices/{sku}"));
    // Bounded: a few hundred bytes for each of ten callers.
    assert!(state.len() < 6_000, "{}", state.len());
}

#[test]
fn a_state_that_is_torn_foreign_of_another_version_or_too_old_changes_nothing() {
    let state = learned();
    let world = World::new(|builder| builder);
    let callers = &world.table.callers;
    for length in (0..state.len()).step_by(97) {
        let refused = callers.restore(&state[..length]).unwrap_err();
        assert_eq!(refused, StateError::Damaged, "{length}");
    }
    for at in [20, 200, state.len() - 1] {
        let mut changed = state.clone();
        changed[at] ^= 0x10;
        assert_eq!(callers.restore(&changed), Err(StateError::Damaged));
    }
    let mut other = state.clone();
    other["callerid state\n".len()] += 1;
    assert!(matches!(
        callers.restore(&other),
        Err(StateError::Version(_))
    ));
    assert_eq!(callers.restore(b"hello"), Err(StateError::Damaged));
    let late = World::new(|builder| builder);
    late.table.clock.advance(seconds(8 * 86_400));
    let refused = late.table.callers.restore(&state).unwrap_err();
    assert!(matches!(refused, StateError::TooOld { seconds } if seconds > 7.0 * 86_400.0));
    assert!(
        refused.to_string().contains("more than a week"),
        "{refused}"
    );
    assert_eq!(callers.restore(&state), Ok(()));
}
