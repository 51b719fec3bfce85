//! What stands on the peers' sockets changes (keys, minimum TTLs): their connections are made anew, and nobody
//! else's.

use super::{
    network::{Network, asn, ip, peer, prefix, secs},
    script::{Script, config, mandatory, their_open, update},
};
use crate::{
    Config, Dial, Originated, PeerConfig,
    view::{Cause, SessionState},
};

const A: &str = "10.1.0.0/16";

#[test]
fn a_changed_key_ends_the_connection_without_a_word_and_keeps_the_routes_where_restart_is_agreed_on() {
    let mut script = Script::established(config(64512));
    script.give(&update(&[], &mandatory(&[]), &[A]));
    script.take();
    let mut changed = config(64512);
    changed.peers[0].transport = 1;
    let old = script.conn;
    script.speaker.configure(changed, script.now);
    script.drain();
    assert_eq!(script.closed, [old]);
    assert_eq!(script.take_on(old), [], "a NOTIFICATION would take the routes along");
    assert!(script.explain(A).unwrap().paths[0].stale);
    assert_eq!(script.history.last().unwrap().cause, Cause::ConfigurationChanged);
    assert_eq!(script.state(), SessionState::Active);
}

#[test]
fn a_changed_key_ends_the_session_with_cease_6_where_restart_is_not_agreed_on() {
    let mut open = their_open(&config(64512));
    open.capabilities.graceful_restart = None;
    let mut script = Script::established_with(config(64512), &open);
    script.give(&update(&[], &mandatory(&[]), &[A]));
    script.take();
    let mut changed = config(64512);
    changed.peers[0].transport = 1;
    script.speaker.configure(changed, script.now);
    script.drain();
    assert_eq!(script.notification(), (6, 6, vec![]));
    assert!(script.explain(A).is_none());
}

/// Three nodes; of the first the key of one session changes, and of the second the other end's, a while later.
#[test]
fn no_route_is_lost_and_no_other_session_disturbed_while_both_ends_take_a_new_key() {
    let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
    let mut network = Network::new(7);
    let config_of = |node: usize, transport: u64| {
        let mut config = Config::new(asn(64512), addresses[node].parse().unwrap());
        let others = (0..3).filter(|&other| other != node).map(|other| PeerConfig {
            // The network knows no keys: the other end of a half-changed pair must not be reached meanwhile.
            transport: if node + other == 1 { transport } else { 0 },
            dial: if node > other { Dial::First } else { Dial::Later },
            ..peer(addresses[other], 64512)
        });
        config.peers = others.collect();
        let block = format!("172.16.{node}.0/24").parse().unwrap();
        config.originated.push(Originated { prefix: block, communities: Vec::new() });
        config.seed = node as u64;
        config
    };
    for (node, address) in addresses.iter().enumerate() {
        network.add(address);
        network.start(node, config_of(node, 0));
    }
    network.run_until(secs(5), |n| (0..3).all(|node| n.sessions(node) == 2));
    network.run(secs(20));
    network.cut.insert((ip(addresses[0]), ip(addresses[1])));
    network.configure(0, config_of(0, 1));
    network.run(secs(3));
    network.configure(1, config_of(1, 1));
    network.cut.clear();
    let kept = |n: &Network| {
        (0..3).all(|node| {
            let others = (0..3).filter(|&other| other != node);
            others
                .map(|other| format!("172.16.{other}.0/24"))
                .all(|block| n.nodes[node].best.contains_key(&prefix(&block)))
        })
    };
    while network.sessions(0) < 2 || network.sessions(1) < 2 {
        assert!(kept(&network), "{:?}", network.now);
        network.run(std::time::Duration::from_millis(1));
    }
    network.run(secs(10));
    assert!(kept(&network));
    for (node, other) in [(0, 2), (2, 0), (1, 2), (2, 1)] {
        assert_eq!(network.view(node, addresses[other]).established_count, 1);
    }
    assert_eq!(network.view(0, addresses[1]).established_count, 2);
}
