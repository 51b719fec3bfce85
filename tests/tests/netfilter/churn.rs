//! Rules that change all the time, as kube-proxy writes maps, sets and chains while Services come and go: what they mean
//! for the fast path stays the same, and so does its mode.

use std::{fmt::Write, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_tests::{
    talk::{Steady, Talk, Transport},
    wait::eventually,
};

use crate::lab::{FAMILIES, Mode, World, direct_ends};

/// Rules that take a while to read, beside those that change.
fn many() -> String {
    let mut text = String::from("table ip many {\n");
    for n in 0..1500 {
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "chain c{n} {{ ip daddr {{ 10.0.{}.{}, 10.1.0.1 }} accept; }}", n / 250, n % 250);
    }
    text + "chain forward { type filter hook forward priority 0; jump c0; }\n}\n"
}

const COMES: &str = "table ip churn {
    set s { type ipv4_addr; elements = { 10.0.0.1 }; }
    map m { type ipv4_addr : verdict; elements = { 10.0.0.2 : drop }; }
    chain c { ip daddr @s drop; ip daddr vmap @m; }
    chain forward { type filter hook forward priority 0; ct state new jump c; }
}
";

const CHURN: &str = "for n in $(seq 250); do nft -f /etc/comes.nft; nft -f /etc/goes.nft; done\n";

#[test]
fn the_mode_stays_while_maps_and_sets_come_and_go() -> Result<()> {
    let world = World::new(Mode::Auto)?;
    let host = world.a.host();
    host.write_file("/etc/many.nft", &many())?;
    host.write_file("/etc/comes.nft", COMES)?;
    host.write_file("/etc/goes.nft", "delete table ip churn\n")?;
    host.write_file("/etc/churn.sh", CHURN)?;
    host.sh("nft -f /etc/many.nft")?;
    let modes = || anyhow::Ok(world.a.manx.dataplane()?.modes);
    eventually("the many rules are read", Duration::from_secs(10), || {
        ensure!(!modes()?.pools.is_empty());
        Ok(())
    })?;
    let before = modes()?.pools;
    ensure!(before.iter().all(|pool| pool.mode == "guarded") == world.carries, "{before:?}");
    let talk = Talk::open(&world.a.pods[1], Transport::Tcp, direct_ends(FAMILIES[0])[0].0)?;
    let steady = Steady::start(talk, 100, Duration::from_millis(5));
    steady.goes_on(10)?;
    let carried = world.carried()?;
    host.sh("sh -e /etc/churn.sh")?;
    let carried = world.carried()?.since(carried);
    let after = modes()?;
    for (before, after) in before.iter().zip(&after.pools) {
        // A mode that had changed and come back would be a newer one.
        ensure!((&before.mode, &before.since) == (&after.mode, &after.since), "{before:?}, {after:?}");
    }
    ensure!(after.found.is_empty(), "{:?}", after.found);
    let answers = steady.answers();
    steady.stop().context("the conversation broke")?;
    println!("{answers} answers, {carried:?} carried");
    ensure!(!world.carries || carried.a >= 100, "{carried:?} carried");
    Ok(())
}
