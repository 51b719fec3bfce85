//! Whatever is sent at both nodes leaves both in the same way.

use std::panic::{AssertUnwindSafe, catch_unwind};

use manx_dataplane::route::{Action, NextHop};

use crate::{
    compare,
    kinds::{self, Kind},
    lab::Lab,
    model::GATEWAYS,
    packets::{self, Sent},
    random::{self, Random},
    tables::Table,
};

/// Small enough for the processor's backlog, with all that comes of it.
const BATCH: usize = 48;
const PACKETS_PER_TABLE: usize = 2_000;

#[test]
fn random_packets_leave_both_nodes_alike() {
    let (seed, count) = (random::seed(), random::packets(20_000));
    println!("MANX_SEED={seed} MANX_PACKETS={count}");
    let mut random = Random::new(seed);
    let mut lab = Lab::new();
    let before = lab.counters();
    let mut sent = 0;
    while sent < count {
        let table = Table::random(&mut random);
        let pools_on = [0; 4].map(|_| random.percent(85));
        lab.set_table(table, pools_on);
        sent += send(&mut lab, &mut random, PACKETS_PER_TABLE.min(count - sent), seed, packets::random);
    }
    let counted = crate::lab::counted(&before, &lab.counters());
    println!("{sent} packets at each; verdicts with the markers: {counted:?}");
    println!("{} frames of several packets in one came out", lab.several);
    assert!(lab.several > count / 200, "what is several in one stays so on its way");
}

type Make = fn(&mut Random, &Table) -> Sent;

/// Sends so many packets by the table that the lab has. A difference is a panic.
pub fn send(lab: &mut Lab, random: &mut Random, count: usize, seed: u64, make: Make) -> usize {
    let mut batches: Vec<(Kind, Vec<Sent>)> =
        [Kind::Plain, Kind::Padded, Kind::Spoofed, Kind::Blackholed, Kind::Discovery, Kind::Unreachable]
            .map(|kind| (kind, Vec::new()))
            .into();
    let context = format!("MANX_SEED={seed}");
    for _ in 0..count {
        let packet = make(random, &lab.table);
        let kind = kinds::kind(&packet, &lab.table);
        let Some((_, batch)) = batches.iter_mut().find(|(of, _)| *of == kind) else { continue };
        batch.push(packet);
        if batch.len() == BATCH {
            compare::check(lab, kind, &std::mem::take(batch), &context);
        }
    }
    for (kind, batch) in &batches {
        compare::check(lab, *kind, batch, &context);
    }
    count
}

#[test]
fn a_route_that_only_the_map_has_wrong_is_found_and_named() {
    let mut random = Random::new(1);
    let mut lab = Lab::new();
    lab.set_table(Table::random(&mut random), [true; 4]);
    let mut wrong = lab.table.routes(&lab.with_ifindex());
    wrong.retain(|route| route.prefix.to_string() == "172.16.250.64/26");
    wrong[0].action = Action::Via(vec![NextHop {
        gateway: GATEWAYS[3].address(true),
        ifindex: lab.with_ifindex()[GATEWAYS[3].interface],
    }]);
    lab.apply(wrong, Vec::new());
    let found = catch_unwind(AssertUnwindSafe(|| send(&mut lab, &mut random, 2_000, 1, packets::random)));
    let said = *found.expect_err("the next hop's MAC differs").downcast::<String>().expect("a sentence");
    assert!(said.contains("a packet (Plain) into") && said.contains("to 172.16.250."), "{said}");
}
