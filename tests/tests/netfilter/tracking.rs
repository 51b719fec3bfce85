//! What rules say about tracking itself: conntrack's zones, which the guard cannot ask for, and timeouts that a rule
//! gives to flows.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_tests::{
    kernel::Family,
    talk::{BOTH, Steady, Talk, Transport, crowd},
    wait::{eventually, throughout},
};

use crate::{
    lab::{B, Carried, FAMILIES, Mode, Node, World, direct_ends, pod_end},
    rules::TABLE,
};

both_ways! {
    flows_that_get_a_zone_are_judged_anew_as_the_kernel_judges_them,
    flows_with_timeouts_of_their_own_are_kept_alive,
    flows_whose_own_timeouts_are_the_usual_ones_are_carried_and_kept_alive,
}

const SOON: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(5);

/// Both nodes say this of what they found, and have their pools so.
fn is_said(world: &World, words: &str, mode: &str) -> Result<()> {
    [&world.a, &world.b].into_iter().try_for_each(|node| {
        eventually(&format!("{words:?} is said, and pools are {mode}"), SOON, || {
            let modes = node.manx.dataplane()?.modes;
            ensure!(modes.pools.iter().all(|pool| pool.mode == mode), "{:?}", modes.pools);
            ensure!(modes.found.iter().any(|text| text.contains(words)), "{:?}", modes.found);
            Ok(())
        })
    })
}

const ZONES: &str = "table inet zones {
    chain raw {
        type filter hook prerouting priority raw;
        ip saddr 172.16.0.0/16 ct zone set 5
        ip6 saddr fd00:172::/32 ct zone set 5
    }
}";

/// By nft, and as iptables has them. What adds them, what takes them away, and the words that name them.
const WAYS: [(&[&str], &[&str], &str); 2] = [
    (&["nft -f /etc/zones.nft"], &["nft delete table inet zones"], "ct zone set"),
    (
        &[
            "iptables-nft -t raw -A PREROUTING -s 172.16.0.0/16 -j CT --zone 5",
            "ip6tables-nft -t raw -A PREROUTING -s fd00:172::/32 -j CT --zone 5",
        ],
        &["nft delete table ip raw", "nft delete table ip6 raw"],
        "CT --zone",
    ),
];

fn on_both(world: &World, commands: &[&str]) -> Result<()> {
    for node in [&world.a, &world.b] {
        commands.iter().try_for_each(|command| node.host().sh(command).map(drop))?;
    }
    Ok(())
}

fn flows_that_get_a_zone_are_judged_anew_as_the_kernel_judges_them(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    for node in [&world.a, &world.b] {
        node.host().write_file("/etc/zones.nft", ZONES)?;
        // Flows that come back from a zone are outside of the window that the default one knew, without Manx too.
        node.host().sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "1")?;
    }
    let ends: Vec<_> = FAMILIES.into_iter().flat_map(direct_ends).collect();
    for (come, go, words) in WAYS {
        let mut running = Vec::new();
        for ((to, _), transport) in ends.iter().flat_map(|end| BOTH.map(|t| (end, t))) {
            let talk = Talk::open(&world.a.pods[1], transport, *to)?;
            talk.set_patience(Duration::from_secs(2))?;
            running.push((format!("{transport:?} with {to}"), Steady::start(talk, 200, PACE)));
        }
        let go_on = |what: &str| -> Result<()> {
            running.iter().try_for_each(|(name, steady)| {
                steady.goes_on(10).with_context(|| format!("{words}: {what}: {name}"))
            })
        };
        let before = world.carried()?;
        go_on("without zones")?;
        ensure!((world.carried()?.since(before).a > 0) == world.carries, "nothing is carried");

        // Their entries are in the default zone still, and say that they were seen in both directions.
        on_both(&world, come)?;
        if world.carries {
            is_said(&world, words, "off")?;
        }
        let before = world.carried()?;
        go_on("in a zone")?;
        for ((to, server), transport) in ends.iter().flat_map(|end| BOTH.map(|t| (end, t))) {
            crowd(&world.a.pods[1], transport, *to, 5).unbroken()?.answered_by(&[server])?;
        }
        ensure!(world.carried()? == before, "{words}: carried by an entry of another zone");

        on_both(&world, go)?;
        if world.carries {
            world.has_the_fast_path_again()?;
        }
        go_on("without zones again")?;
        if world.carries {
            let before = world.carried()?;
            go_on("fast again")?;
            ensure!(world.carried()?.since(before).a > 0, "{words}: slow still");
        }

        // To conntrack they are new once they get a zone; so the policy, which lets them be, judges them.
        let deny = format!("nft add rule {TABLE} policies meta l4proto {{ tcp, udp }} drop");
        on_both(&world, &[&deny])?;
        go_on("the policy is younger")?;
        // Nor has the zone heard of them before.
        on_both(&world, &["conntrack -D --family ipv4 --zone 5", "conntrack -D --family ipv6 --zone 5"])?;
        on_both(&world, come)?;
        if world.carries {
            is_said(&world, words, "off")?;
        }
        thread::sleep(Duration::from_millis(500));
        let answers: Vec<u64> = running.iter().map(|(_, steady)| steady.answers()).collect();
        thread::sleep(Duration::from_secs(1));
        for ((name, steady), before) in running.iter().zip(answers) {
            ensure!(steady.answers() == before, "{words}: {name} goes on past the policy");
        }
        on_both(&world, go)?;
        on_both(&world, &[&format!("nft flush chain {TABLE} policies")])?;
        world.has_the_fast_path_again()?;
    }
    Ok(())
}

/// Seconds without a packet: of TCP, whatever it did last, and of UDP.
const TCP: u64 = 3;
const UDP: u64 = 2;

fn timeouts() -> String {
    format!(
        "table ip lives {{
            ct timeout of_tcp {{
                protocol tcp
                l3proto ip
                policy = {{ established : {TCP}, unack : {TCP}, retrans : {TCP} }}
            }}
            ct timeout of_udp {{
                protocol udp
                l3proto ip
                policy = {{ unreplied : {UDP}, replied : {UDP} }}
            }}
            chain prerouting {{
                type filter hook prerouting priority -150;
                ip protocol tcp ct timeout set \"of_tcp\"
                ip protocol udp ct timeout set \"of_udp\"
            }}
        }}"
    )
}

fn flows_with_timeouts_of_their_own_are_kept_alive(mode: Mode) -> Result<()> {
    lives(mode, false)
}

fn flows_whose_own_timeouts_are_the_usual_ones_are_carried_and_kept_alive(mode: Mode) -> Result<()> {
    lives(mode, true)
}

/// `usual`: conntrack's own timeouts are the same.
fn lives(mode: Mode, usual: bool) -> Result<()> {
    let mut world = World::without_manxd(mode)?;
    for node in [&world.a, &world.b] {
        if usual {
            for (key, seconds) in [
                ("tcp_timeout_established", TCP),
                ("tcp_timeout_unacknowledged", TCP),
                ("tcp_timeout_max_retrans", TCP),
                ("udp_timeout_stream", UDP),
                ("udp_timeout", UDP),
            ] {
                node.host().sysctl(&format!("net.netfilter.nf_conntrack_{key}"), &seconds.to_string())?;
            }
        }
        node.host().write_file("/etc/lives.nft", &timeouts())?;
        node.host().sh("nft -f /etc/lives.nft")?;
    }
    world.start()?;
    if world.carries {
        is_said(&world, "ct timeout set", "guarded")?;
    }
    let mut running = Vec::new();
    for transport in BOTH {
        let mut talk = Talk::open(&world.a.pods[1], transport, pod_end(B, Family::V4, 0))?;
        talk.ask(10)?;
        let port = talk.local()?.port();
        running.push((transport, port, Steady::start(talk, 100, PACE)));
    }
    running.iter().try_for_each(|(.., steady)| steady.goes_on(20))?;
    // The first packet of a flow that was forgotten is refused.
    on_both(&world, &[&format!("nft add rule {TABLE} policies meta l4proto {{ tcp, udp }} drop")])?;
    let entries = || -> Result<Vec<String>> {
        let nodes = [&world.a, &world.b];
        let pairs = nodes.into_iter().flat_map(|node| running.iter().map(move |r| (node, r)));
        pairs.map(|(node, (transport, port, _))| entry(node, *transport, *port)).collect()
    };
    let (ids, before) = (entries()?, world.carried()?);
    throughout("the entries of living flows live", Duration::from_secs(3 * TCP), || {
        let now = entries()?;
        ensure!(now == ids, "{now:?}, not {ids:?}");
        Ok(())
    })?;
    let carried = world.carried()?.since(before);
    println!("{mode:?}, usual: {usual}: carried {carried:?}");
    if world.carries && usual {
        ensure!(carried.a > 100 && carried.b > 100, "{carried:?}");
    } else {
        ensure!(carried == Carried::default(), "{carried:?}");
    }
    for (transport, _, steady) in running {
        steady.goes_on(20)?;
        steady.stop().with_context(|| format!("{transport:?}"))?;
    }
    world.nothing_was_invalid()
}

/// The id of the entry of a flow from this port of pod a2, which has no more time than a rule gave it.
fn entry(node: &Node, transport: Transport, port: u16) -> Result<String> {
    let (protocol, most) = if transport == Transport::Tcp { ("tcp", TCP) } else { ("udp", UDP) };
    let text = node
        .host()
        .sh(&format!("conntrack -L --family ipv4 --proto {protocol} --orig-port-src {port} -o id"))?;
    let mut words = text.split_whitespace();
    let rest: u64 = words.nth(2).and_then(|word| word.parse().ok()).with_context(|| format!("{text:?}"))?;
    ensure!(rest <= most, "{transport:?}: {rest} s are left");
    words.find(|word| word.starts_with("id=")).map(str::to_owned).with_context(|| format!("{text:?}"))
}
