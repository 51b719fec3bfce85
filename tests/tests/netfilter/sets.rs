//! Rules with sets that change without a word: whose elements expire, or that packets fill, by nft and by ipset. What they
//! refuse without Manx they refuse with it.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use manx_tests::{
    kernel::Family,
    talk::{Talk, Transport},
    wait::eventually,
};

use crate::lab::{B, Mode, World, pod_end};

both_ways! {
    who_is_banned_for_a_while_is_refused_meanwhile_and_not_after,
    who_knocked_is_refused_from_then_on,
    who_asks_too_often_is_refused_what_is_too_much,
}

const SOON: Duration = Duration::from_secs(10);
const REFUSED: Duration = Duration::from_millis(100);
/// Seconds.
const BANNED: u64 = 3;

/// A conversation of pod a2 with b1 that is old enough to be carried.
fn talk(world: &World) -> Result<Talk> {
    let mut talk = Talk::open(&world.a.pods[1], Transport::Udp, pod_end(B, Family::V4, 0))?;
    talk.set_patience(REFUSED)?;
    let before = world.carried()?;
    (0..10).try_for_each(|_| talk.ask(100).map(drop))?;
    ensure!(world.carried()?.since(before).a == 0 || world.carries, "carried, though it must not");
    Ok(talk)
}

/// Node a leaves its IPv4 pool to the stack for a rule that is named by these words.
fn is_named(world: &World, words: &str) -> Result<()> {
    if !world.carries {
        return Ok(());
    }
    eventually(&format!("{words:?} is named"), SOON, || {
        let modes = world.a.manx.dataplane()?.modes;
        ensure!(modes.found.iter().any(|text| text.contains(words)), "{:?}", modes.found);
        ensure!(modes.pools.iter().any(|pool| pool.mode == "off"), "{:?}", modes.pools);
        Ok(())
    })
}

/// A table before the one that accepts what is established.
fn write(world: &World, content: &str) -> Result<()> {
    let text = format!("table ip sets {{\n{content}\n}}\n");
    world.a.host().write_file("/etc/sets.nft", &text)?;
    world.a.host().sh("nft -f /etc/sets.nft").map(drop)
}

fn who_is_banned_for_a_while_is_refused_meanwhile_and_not_after(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let host = world.a.host();
    let source = crate::lab::A.pod(Family::V4, 1);
    for by_ipset in [false, true] {
        let mut talk = talk(&world)?;
        if by_ipset {
            host.sh(&format!("ipset create banned hash:ip timeout {BANNED}"))?;
            host.sh("iptables-nft -I FORWARD -m set --match-set banned src -j DROP")?;
            is_named(&world, "chain FORWARD")?;
        } else {
            write(
                &world,
                "set banned { type ipv4_addr; flags timeout; }
                 chain forward { type filter hook forward priority -10; ip saddr @banned drop; }\n",
            )?;
            is_named(&world, "the set banned, whose elements expire")?;
        }
        talk.ask(100)?;
        match by_ipset {
            true => host.sh(&format!("ipset add banned {source}"))?,
            false => host.sh(&format!("nft add element ip sets banned {{ {source} timeout {BANNED}s }}"))?,
        };
        for question in 0..5 {
            let answer = talk.ask(100);
            ensure!(answer.is_err(), "by ipset: {by_ipset}: question {question}: {answer:?}");
        }
        thread::sleep(Duration::from_secs(BANNED));
        talk.ask(100)?;
        host.sh(if by_ipset { "nft delete table ip filter" } else { "nft delete table ip sets" })?;
        world.has_the_fast_path_again()?;
        talk.ask(100)?;
    }
    Ok(())
}

fn who_knocked_is_refused_from_then_on(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let mut talk = talk(&world)?;
    write(
        &world,
        "set knocked { type ipv4_addr; flags dynamic; }
         chain forward {
             type filter hook forward priority -10;
             udp dport 7777 add @knocked { ip saddr }
             ip saddr @knocked drop
         }",
    )?;
    is_named(&world, "the set knocked")?;
    (0..5).try_for_each(|_| talk.ask(100).map(drop))?;
    let mut knock = Talk::open(&world.a.pods[1], Transport::Udp, (B.pod(Family::V4, 0), 7777).into())?;
    knock.set_patience(REFUSED)?;
    ensure!(knock.ask(100).is_err(), "somebody answers where nobody listens");
    for question in 0..5 {
        let answer = talk.ask(100);
        ensure!(answer.is_err(), "question {question}: {answer:?}");
    }
    world.a.host().sh("nft flush set ip sets knocked")?;
    talk.ask(100)?;
    Ok(())
}

fn who_asks_too_often_is_refused_what_is_too_much(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let mut talk = talk(&world)?;
    talk.set_patience(Duration::from_millis(20))?;
    write(
        &world,
        "set often { type ipv4_addr; flags dynamic; }
         chain forward {
             type filter hook forward priority -10;
             udp dport 7000 add @often { ip saddr limit rate over 1/second burst 10 packets } drop
         }",
    )?;
    is_named(&world, "the set often")?;
    let answers = (0..100).filter(|_| talk.ask(100).is_ok()).count();
    ensure!((5..30).contains(&answers), "{answers} of 100 were answered");
    Ok(())
}
