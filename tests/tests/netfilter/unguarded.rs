//! The fast path without its guard, beside rules that translate: what the guard is there for, and the proof that
//! these scenarios can fail.

use std::thread;

use anyhow::{Result, ensure};
use manx_tests::talk::{BOTH, Tally, crowd};

use crate::lab::{FAMILIES, Mode, World, direct_ends, service_ends};

#[test]
fn without_the_guard_services_break_and_what_is_not_translated_does_not() -> Result<()> {
    let world = World::new(Mode::Unguarded)?;
    let client = &*world.a.pods[1];
    for (family, transport) in FAMILIES.into_iter().flat_map(|f| BOTH.map(|t| (f, t))) {
        for (to, server) in direct_ends(family) {
            crowd(client, transport, to, 20).unbroken()?.answered_by(&[server])?;
        }
    }
    // All at once: each waits for an answer that comes from the wrong address.
    let ways: Vec<_> = FAMILIES
        .into_iter()
        .flat_map(|family| service_ends(family).into_iter().flat_map(|(to, _)| BOTH.map(|t| (t, to))))
        .collect();
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let crowds: Vec<_> =
            ways.iter().map(|(transport, to)| scope.spawn(|| crowd(client, *transport, *to, 4))).collect();
        crowds.into_iter().map(|crowd| crowd.join().unwrap_or_default()).collect()
    });
    for ((transport, to), tally) in ways.iter().zip(tallies) {
        println!("{transport:?} to {to}: {tally:?}");
        ensure!(tally.held == 0 && tally.failed == 4, "{transport:?} to {to}: {tally:?}");
    }
    Ok(())
}
