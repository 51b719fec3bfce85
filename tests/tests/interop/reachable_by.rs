//! A peer behind a router that nothing but its BGPPeer's `reachableBy` leads to: a real BIRD, two hops away.

use std::{fs, process::Command, time::Duration};

use anyhow::{Result, ensure};
use manx_api::SessionState;
use manx_tests::{
    host::Host,
    lab::{Lab, UPLINK},
    peers::manx::{BgpPeer, Manx, resources},
    process::Daemon,
    wait::eventually,
};

use crate::lab::{AS, HIGH, MIDDLE, POOLS};

const UP: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(5);
const FAR: [&str; 2] = ["10.99.0.2", "fd00:99::2"];
const BY: [&str; 2] = [", reachableBy: 192.168.80.90", ", reachableBy: \"fd00:80::90\""];
/// A router that is on no link of the node.
const NOWHERE: [&str; 2] = [", reachableBy: 192.168.99.1", ", reachableBy: \"fd00:66::1\""];
const BLOCKS: [&str; 2] = ["172.16.99.0/26", "fd00:172:0:99::/122"];

/// The switch carries a second network, and only the high place has an address in both.
fn networks(lab: &mut Lab) -> Result<(Host, Host, Host)> {
    let node = lab.host(MIDDLE.name, MIDDLE.ipv4(), 24)?;
    node.sh(&format!("ip address add {}/64 dev {UPLINK} nodad", MIDDLE.ipv6()))?;
    let router = HIGH.host(lab)?;
    router.sh(&format!("ip address add 10.99.0.1/24 dev {UPLINK}"))?;
    router.sh(&format!("ip address add fd00:99::1/64 dev {UPLINK} nodad"))?;
    for group in ["all", UPLINK] {
        router.sysctl(&format!("net.ipv4.conf.{group}.send_redirects"), "0")?;
    }
    let far = lab.host("far", "10.99.0.2".parse()?, 24)?;
    far.sh(&format!("ip address add fd00:99::2/64 dev {UPLINK} nodad"))?;
    far.sh("ip route add default via 10.99.0.1")?;
    far.sh("ip -6 route add default via fd00:99::1")?;
    Ok((node, router, far))
}

fn bird(lab: &Lab, far: &Host) -> Result<Daemon> {
    let mut config = String::from("log stderr all;\nrouter id 10.99.0.2;\nprotocol device { }\n");
    config += "protocol direct { ipv4; ipv6; }\n";
    config += "protocol kernel { learn; ipv4 { import all; export none; }; }\n";
    config += "protocol kernel { learn; ipv6 { import all; export none; }; }\n";
    for ((block, local), peer) in BLOCKS.into_iter().zip(FAR).zip(MIDDLE.addresses()) {
        let channel = if block.contains(':') { "ipv6" } else { "ipv4" };
        config += &format!(
            "protocol static {{ {channel}; route {block} blackhole; }}\n\
             protocol bgp to_{channel} {{ local {local} as 65099; neighbor {peer} as {AS}; multihop;\n  \
             connect delay time 1; connect retry time 2; error wait time 1, 2;\n  \
             {channel} {{ import all; export where source = RTS_STATIC; next hop self; }}; }}\n"
        );
    }
    far.write_file("/etc/bird/bird.conf", &config)?;
    far.sh("mkdir -p /run/bird")?;
    let mut command = Command::new("bird");
    command.args(["-f", "-c", "/etc/bird/bird.conf"]);
    Daemon::start(far, "bird", command, &lab.logs().join("far-bird.log"))
}

fn peers(more: [&'static str; 2]) -> Vec<BgpPeer> {
    let ends = FAR.into_iter().zip(more);
    ends.filter_map(|(far, more)| Some(BgpPeer { address: far.parse().ok()?, as_number: 65099, more }))
        .collect()
}

fn write(lab: &Lab, more: [&'static str; 2]) -> Result<()> {
    let document = resources(AS, &POOLS, &[MIDDLE.node(None)], &peers(more));
    let (new, file) = (lab.store().join("cluster.new"), lab.store().join("cluster.yaml"));
    fs::write(&new, document)?;
    Ok(fs::rename(new, file)?)
}

/// As `ip` prints it, of our protocol.
fn routes(node: &Host) -> Result<String> {
    Ok(node.sh("ip -4 route show proto 77")? + &node.sh("ip -6 route show proto 77")?)
}

#[test]
fn a_peer_two_hops_away_is_reached_by_the_router_that_its_resource_names() -> Result<()> {
    let mut lab = Lab::new()?;
    write(&lab, NOWHERE)?;
    let (node, _router, far) = networks(&mut lab)?;
    let _bird = bird(&lab, &far)?;
    let node = Manx::start(node, &[], &lab.logs())?;
    // A router that is no neighbour leads nowhere, and the log and the table say so.
    eventually("the log names the router", SOON, || {
        let log = node.log_text()?;
        ensure!(log.contains("10.99.0.2 is not led to by 192.168.99.1"), "{log}");
        Ok(())
    })?;
    let row = node.host.sh("manxctl routes")?;
    ensure!(row.contains("is on no link of this node"), "{row}");
    ensure!(!routes(&node.host)?.contains("99.0.2"), "{}", routes(&node.host)?);

    write(&lab, BY)?;
    eventually("both sessions, and what they bring", UP, || {
        for (far, block) in FAR.into_iter().zip(BLOCKS) {
            let peer = node.peer(far.parse()?)?;
            ensure!(peer.state == SessionState::Established, "{far} is {} {}", peer.state, peer.info);
            ensure!(node.route(block)?.fib.is_some(), "{block} is not in the kernel");
        }
        Ok(())
    })?;
    let written = routes(&node.host)?;
    for (prefix, router) in ["10.99.0.2", "fd00:99::2", BLOCKS[0], BLOCKS[1]]
        .into_iter()
        .zip(["192.168.80.90", "fd00:80::90"].into_iter().cycle())
    {
        ensure!(
            written.lines().any(|line| line.starts_with(&format!("{prefix} via {router} dev {UPLINK}"))),
            "{prefix} by {router}:\n{written}"
        );
    }
    // It is for the kernel alone: no map has it, and nobody is told of it.
    let row = node.route("10.99.0.2/32")?;
    ensure!(row.map.is_none() && row.bgp.is_none() && row.agree, "{row:?}");
    let told = far.sh("birdc show route protocol to_ipv4")?;
    ensure!(told.contains("172.16.50.0/26") && !told.contains("10.99.0.2/32"), "{told}");
    node.host.sh("manxctl dataplane audit")?;

    write(&lab, ["", ""])?;
    eventually("without reachableBy nothing leads there", SOON, || {
        let written = routes(&node.host)?;
        ensure!(!written.contains("99.0.2") && !written.contains("fd00:99::2"), "{written}");
        ensure!(!written.contains("172.16.99.0"), "{written}");
        Ok(())
    })
}
