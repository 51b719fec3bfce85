//! Other people's programs and filters on the TC hooks that a packet of the fast path has to pass: whatever they saw and
//! did without Manx they see and do with it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_tests::{
    host::Pod,
    kernel::Family,
    lab::UPLINK,
    talk::{BOTH, Talk, Transport, crowd},
    tcx::{Does, Hook, NAME, Place, Program},
    wait::eventually,
};

use crate::lab::{A, Mode, Node, World, pod_end};

const SOON: Duration = Duration::from_secs(15);
/// An answer that does not come.
const REFUSED: Duration = Duration::from_millis(100);
/// Where nobody takes anything.
const SINK: &str = "sink0";
const ASKED: usize = 20;

/// A conversation of pod b2 with a1, in which both nodes carry if they can.
fn talk(world: &World) -> Result<Talk> {
    let mut talk = Talk::open(&world.b.pods[1], Transport::Udp, pod_end(A, Family::V4, 0))?;
    talk.set_patience(REFUSED)?;
    (0..ASKED).try_for_each(|_| talk.ask(100).map(drop))?;
    Ok(talk)
}

fn make_sink(node: &Node) -> Result<()> {
    node.host().sh(&format!("ip link add {SINK} type veth peer name sink1"))?;
    [SINK, "sink1"].iter().try_for_each(|end| node.host().sh(&format!("ip link set {end} up")).map(drop))
}

/// Both ends of a pod's link keep each other's MAC: what redirects everything takes ARP too, and who has forgotten a MAC
/// meanwhile sends nothing that could be counted.
fn know_each_other(node: &Node, pod: &Pod) -> Result<()> {
    let interface = pod.interface();
    let mac = |brief: String| brief.split_whitespace().nth(2).map(str::to_owned).context("no MAC");
    let own = mac(pod.sh("ip -br link show eth0")?)?;
    let host = mac(node.host().sh(&format!("ip -br link show {interface}"))?)?;
    pod.sh(&format!("ip neigh replace 169.254.1.1 lladdr {host} dev eth0 nud permanent"))?;
    let address = pod.address();
    node.host().sh(&format!("ip neigh replace {address} lladdr {own} dev {interface} nud permanent"))?;
    Ok(())
}

/// What node a says of an interface: its own mode, and what was found.
fn said(node: &Node, interface: &str) -> Result<(Option<String>, Vec<String>)> {
    let modes = node.manx.dataplane()?.modes;
    let row = modes.interfaces.into_iter().find(|row| row.name == interface);
    Ok((row.with_context(|| format!("no {interface}"))?.mode, modes.found))
}

/// The interface is left to the stack for the sake of `what`, or of nobody.
fn is_left(node: &Node, interface: &str, what: Option<&str>) -> Result<()> {
    eventually(&format!("{interface} is left to the stack for {what:?}"), SOON, || {
        let (mode, found) = said(node, interface)?;
        let named =
            found.iter().find(|text| text.starts_with(&format!("on {interface} others stand behind")));
        match what {
            Some(what) => {
                ensure!(mode.as_deref() == Some("off"), "{mode:?}, {found:?}");
                ensure!(named.is_some_and(|text| text.contains(what)), "{found:?}");
            }
            None => ensure!(mode.is_none() && named.is_none(), "{mode:?}, {found:?}"),
        }
        Ok(())
    })
}

/// What is for the pod behind the interface is the stack's for the sake of `what`, or of nobody.
fn is_passed(node: &Node, interface: &str, what: Option<&str>) -> Result<()> {
    eventually(&format!("packets pass {what:?} at {interface}"), SOON, || {
        let interfaces = node.manx.dataplane()?.interfaces;
        let row = interfaces.iter().find(|row| row.name == interface).context("no such interface")?;
        let noted = row.notes.iter().find(|note| note.contains("the stack brings what is for the pod"));
        match what {
            Some(what) => ensure!(noted.is_some_and(|note| note.contains(what)), "{row:?}"),
            None => ensure!(noted.is_none(), "{row:?}"),
        }
        Ok(())
    })
}

const KINDS: [Does; 3] = [Does::Nothing, Does::Drops(7000), Does::Redirects(SINK)];

#[test]
fn a_program_behind_ours_gets_every_packet_that_it_got_without_us() -> Result<()> {
    let world = World::new(Mode::Auto)?;
    make_sink(&world.a)?;
    know_each_other(&world.a, &world.a.pods[0])?;
    let pod = world.a.pods[0].interface().to_owned();
    for (interface, does) in
        [UPLINK, &pod].into_iter().flat_map(|interface| KINDS.map(|does| (interface, does)))
    {
        let mut talk = talk(&world)?;
        let program = Program::attach(world.a.host(), interface, Hook::Ingress, Place::Last, does)?;
        is_left(&world.a, interface, Some(NAME))?;
        let (seen, carried) = (program.seen()?, world.carried()?);
        let answers = (0..ASKED).filter(|_| talk.ask(100).is_ok()).count();
        let seen = program.seen()? - seen;
        ensure!(seen >= ASKED as u64, "{does:?} on {interface}: it saw {seen} packets of {ASKED}");
        // The pod's answers are to another port.
        let passes = match does {
            Does::Nothing => true,
            Does::Drops(_) => interface != UPLINK,
            Does::Redirects(_) => false,
        };
        ensure!(answers == if passes { ASKED } else { 0 }, "{does:?} on {interface}: {answers} answers");
        if passes && world.carries {
            // The other direction is carried still, but for a packet that keeps an entry alive.
            let carried = world.carried()?.since(carried);
            ensure!(
                (ASKED as u64 / 2..=ASKED as u64).contains(&carried.a),
                "{does:?} on {interface}: {carried:?}"
            );
        }
        drop(program);
        is_left(&world.a, interface, None)?;
        let carried = world.carried()?;
        let mut talk = self::talk(&world)?;
        (0..ASKED).try_for_each(|_| talk.ask(100).map(drop))?;
        ensure!((world.carried()?.since(carried).a > ASKED as u64) == world.carries, "it is slow still");
    }
    world.nothing_was_invalid()
}

#[test]
fn a_program_before_ours_sees_every_packet_and_ours_carries_them() -> Result<()> {
    let world = World::new(Mode::Auto)?;
    let pod = world.a.pods[0].interface().to_owned();
    for interface in [UPLINK, &pod] {
        let mut talk = talk(&world)?;
        let program = Program::attach(world.a.host(), interface, Hook::Ingress, Place::First, Does::Nothing)?;
        // Longer than it takes to look for it.
        std::thread::sleep(Duration::from_secs(6));
        is_left(&world.a, interface, None)?;
        let (seen, carried) = (program.seen()?, world.carried()?);
        (0..ASKED).try_for_each(|_| talk.ask(100).map(drop))?;
        let (seen, carried) = (program.seen()? - seen, world.carried()?.since(carried));
        ensure!(seen >= ASKED as u64, "{interface}: it saw {seen} packets of {ASKED}");
        ensure!((carried.a > ASKED as u64) == world.carries, "{interface}: {carried:?}");
    }
    Ok(())
}

#[test]
fn a_program_where_packets_leave_gets_them_all() -> Result<()> {
    let world = World::new(Mode::Auto)?;
    make_sink(&world.a)?;
    know_each_other(&world.a, &world.a.pods[0])?;
    let pod = world.a.pods[0].interface().to_owned();
    for does in KINDS {
        let mut talk = talk(&world)?;
        let program = Program::attach(world.a.host(), &pod, Hook::Egress, Place::Last, does)?;
        is_passed(&world.a, &pod, Some(NAME))?;
        let seen = program.seen()?;
        let answers = (0..ASKED).filter(|_| talk.ask(100).is_ok()).count();
        ensure!(program.seen()? - seen >= ASKED as u64, "{does:?}: it missed some");
        let passes = matches!(does, Does::Nothing);
        ensure!(answers == if passes { ASKED } else { 0 }, "{does:?}: {answers} answers");
        drop(program);
        is_passed(&world.a, &pod, None)?;
    }
    // What leaves by an uplink passes its programs though it is carried.
    for does in KINDS {
        let mut talk = talk(&world)?;
        let (program, carried) =
            (Program::attach(world.a.host(), UPLINK, Hook::Egress, Place::Last, does)?, world.carried()?);
        let answers = (0..ASKED).filter(|_| talk.ask(100).is_ok()).count();
        ensure!(program.seen()? >= ASKED as u64, "{does:?} on the uplink: it missed some");
        let passes = !matches!(does, Does::Redirects(_));
        ensure!(answers == if passes { ASKED } else { 0 }, "{does:?} on the uplink: {answers} answers");
        ensure!((world.carried()?.since(carried).a > ASKED as u64) == world.carries, "{does:?}: not carried");
    }
    world.nothing_was_invalid()
}

/// As the bandwidth plugin of CNI limits what a pod sends: a filter redirects all of it to a device that shapes.
#[test]
fn filters_get_every_packet_that_they_got_without_us() -> Result<()> {
    let world = World::new(Mode::Auto)?;
    make_sink(&world.a)?;
    know_each_other(&world.a, &world.a.pods[0])?;
    let pod = world.a.pods[0].interface().to_owned();
    let host = world.a.host();
    for (qdisc, hook, parent) in [
        ("ingress", Hook::Ingress, "parent ffff:"),
        ("clsact", Hook::Ingress, "ingress"),
        ("clsact", Hook::Egress, "egress"),
    ] {
        let mut talk = talk(&world)?;
        host.sh(&format!("tc qdisc add dev {pod} {qdisc}"))?;
        host.sh(&format!(
            "tc filter add dev {pod} {parent} protocol ip u32 match u32 0 0 action mirred egress redirect dev {SINK}"
        ))?;
        match hook {
            Hook::Ingress => is_left(&world.a, &pod, Some("tc filter (u32"))?,
            Hook::Egress => is_passed(&world.a, &pod, Some("tc filter (u32"))?,
        }
        let sent = sent(&world.a)?;
        let answers = (0..ASKED).filter(|_| talk.ask(100).is_ok()).count();
        ensure!(answers == 0, "{qdisc} {hook:?}: {answers} answers");
        ensure!(self::sent(&world.a)? - sent >= ASKED as u64, "{qdisc} {hook:?}: redirected elsewhere");
        host.sh(&format!("tc qdisc del dev {pod} {qdisc}"))?;
        is_left(&world.a, &pod, None)?;
        is_passed(&world.a, &pod, None)?;
        for transport in BOTH {
            crowd(&world.b.pods[1], transport, pod_end(A, Family::V4, 0), 5).unbroken()?;
        }
    }
    world.nothing_was_invalid()
}

/// Packets that were sent into the sink.
fn sent(node: &Node) -> Result<u64> {
    let text = node.host().sh(&format!("cat /sys/class/net/{SINK}/statistics/tx_packets"))?;
    text.trim().parse().with_context(|| text.clone())
}
