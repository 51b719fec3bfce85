//! Every blackhole counts its own packets and octets, whoever asked for it, in both families, and wherever they die: in
//! TC at a pod, in XDP at an uplink that runs it, and in TC at one that does not.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_tests::{
    lab::UPLINK,
    netns::Netns,
    pair::{FIRST, POOL_NAMES, Pair, SECOND, addresses},
    story::counted,
    wait::eventually,
};

use super::ordered::list_of;

const SOON: Duration = Duration::from_secs(10);
/// An uplink without XDP, beside the usual one.
const WITHOUT_XDP: &str = "ens34";
/// A packet of `ping` without options.
const OCTETS: [u64; 2] = [84, 104];

/// A blackhole, and an address in it that nothing else answers for.
struct Hole {
    prefix: &'static str,
    address: IpAddr,
    /// The program drops it by the map alone; else the kernel's FIB agrees.
    explicit: bool,
}

fn holes() -> Vec<Hole> {
    let [own4, own6] = addresses(10, 61);
    let [pool4, pool6] = addresses(77, 1);
    let hole = |prefix, address, explicit| Hole { prefix, address, explicit };
    vec![
        hole("172.16.10.0/26", own4, false),
        hole("fd00:172:0:10::/122", own6, false),
        hole("172.16.0.0/16", pool4, false),
        hole("fd00:172::/32", pool6, false),
        hole("198.51.100.0/24", IpAddr::from([198, 51, 100, 7]), true),
        hole("2001:db8:77::/48", IpAddr::from([0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 7]), true),
    ]
}

fn second_uplink(pair: &Pair) -> Result<()> {
    pair.second_uplink(WITHOUT_XDP)?;
    eventually("it is an uplink with TC alone", SOON, || {
        let interfaces = pair.here.dataplane()?.interfaces;
        let found = interfaces.iter().find(|interface| interface.name == WITHOUT_XDP);
        ensure!(
            found.is_some_and(|interface| interface.programs.len() == 1 && interface.links.len() == 1),
            "{found:?}"
        );
        Ok(())
    })
}

/// Packets and octets by prefix.
fn counts(pair: &Pair) -> Result<BTreeMap<String, (u64, u64)>> {
    let rows = list_of(&pair.here.host, "--all")?;
    let count = |row: &manx_api::BlackholeRow| (row.packets.unwrap_or(0), row.bytes.unwrap_or(0));
    Ok(rows.iter().map(|row| (row.prefix.to_string(), count(row))).collect())
}

/// Sends three packets to the hole, which all have to be counted there, in `program`, and nowhere else.
fn die_in(pair: &Pair, from: &Netns, hole: &Hole, program: &str) -> Result<()> {
    let (before, programs) = (counts(pair)?, pair.here.counters()?);
    let said = from.output(&format!("ping -n -c 3 -i 0.05 -W 0.3 {}", hole.address))?;
    ensure!(!said.status.success() && !said.stdout.contains("nreachable"), "{said:?}");
    let octets = OCTETS[usize::from(hole.address.is_ipv6())];
    let mut wanted = before.clone();
    let count = wanted.get_mut(hole.prefix).with_context(|| format!("{} in {before:?}", hole.prefix))?;
    *count = (count.0 + 3, count.1 + 3 * octets);
    let after = counts(pair)?;
    ensure!(after == wanted, "{} in {program}: {after:?} instead of {wanted:?}", hole.prefix);
    let verdict = if hole.explicit { "blackhole_explicit" } else { "blackhole_own" };
    let dropped = counted(&pair.here.counters()?, program, verdict) - counted(&programs, program, verdict);
    ensure!(dropped == 3, "{}: {program} dropped {dropped}", hole.prefix);
    Ok(())
}

#[test]
fn each_counts_its_own_in_xdp_and_in_tc_and_in_both_families() -> Result<()> {
    let pair = Pair::closed(&[])?;
    second_uplink(&pair)?;
    pair.here.host.sh("manxctl blackhole add 198.51.100.0/24 2001:db8:77::/48")?;
    let holes = holes();
    eventually("all are in force", SOON, || {
        let counts = counts(&pair)?;
        ensure!(holes.iter().all(|hole| counts.contains_key(hole.prefix)), "{counts:?}");
        let rows = list_of(&pair.here.host, "--all")?;
        ensure!(rows.iter().all(|row| row.in_map == Some(true) && row.in_kernel), "{rows:?}");
        Ok(())
    })?;
    for hole in &holes {
        die_in(&pair, &pair.neighbour, hole, "pod_tc")?;
        // The other node's pool is closed as well: its own host sends by a longer route.
        for (gateways, program) in [(FIRST, "uplink_xdp"), (SECOND, "uplink_tc")] {
            let gateway = gateways[usize::from(hole.address.is_ipv6())];
            let route = format!("{} via {gateway} dev {UPLINK} onlink", hole.address);
            pair.there.host.sh(&format!("ip route replace {route}"))?;
            die_in(&pair, &pair.there.host, hole, program)
                .with_context(|| format!("from the wire by {gateway}"))?;
        }
        pair.there.host.sh(&format!("ip route del {}", hole.address))?;
    }
    Ok(())
}

#[test]
fn whoever_sends_into_one_is_told_where_that_is_wanted_and_it_is_counted_too() -> Result<()> {
    let pair = Pair::closed(&[])?;
    // Of its errors to one peer the kernel otherwise sends a few, and then hardly one while it is asked for more.
    for key in ["net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"] {
        pair.here.host.sysctl(key, "0")?;
    }
    let reject = "manx.dev/unallocatedBlocks: Reject, manx.dev/unassignedAddresses: Reject";
    pair.annotate(&POOL_NAMES.map(|pool| (pool, reject)))?;
    pair.here.host.sh("manxctl blackhole add 198.51.100.0/24 2001:db8:77::/48 --reply unreachable")?;
    for hole in holes() {
        eventually("the sender is told", SOON, || {
            let before = counts(&pair)?;
            let said = pair.neighbour.output(&format!("ping -n -c 2 -i 0.3 -W 1 {}", hole.address))?;
            ensure!(!said.status.success() && said.stdout.contains("nreachable"), "{said:?}");
            let count = |counts: &BTreeMap<String, (u64, u64)>| counts.get(hole.prefix).copied();
            let (before, after) = (count(&before).context("not listed")?, count(&counts(&pair)?));
            ensure!(after.is_some_and(|after| after.0 == before.0 + 2), "{before:?} then {after:?}");
            Ok(())
        })
        .with_context(|| hole.prefix)?;
    }
    Ok(())
}
