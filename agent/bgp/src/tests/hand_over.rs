//! The best path moves from one peer to another, and what leaves of it is the same (behaviour 48).

use super::{
    hub::{Hub, Said, add_path, clients},
    network::peer,
};
use crate::{Config, NextHopMode};

const P: &str = "10.1.0.0/16";

/// Two clients and two peers in two other ASes, to which our own address is the next hop.
fn two_and_two() -> Config {
    let mut config = clients(&[add_path(0, false); 2]);
    for n in 0..2 {
        let mut peer = peer(&format!("10.0.0.{}", n + 4), 64600 + n);
        peer.dial = crate::Dial::Never;
        config.peers.push(peer);
    }
    config
}

/// What each of the last two is told from here on.
fn news(hub: &mut Hub) -> [(usize, usize); 2] {
    [2, 3].map(|n| hub.news(n))
}

#[test]
fn another_as_is_not_told_which_of_ours_a_route_comes_from() {
    let mut hub = Hub::new(two_and_two());
    hub.announce(0, 0, P, Said::by(1));
    hub.take_all();
    assert_eq!(news(&mut hub), [(1, 0); 2]);
    let known = hub.states.clone();
    // The second's is preferred, then the first's again; the second's goes as what lost, and comes, and is all there is.
    hub.announce(1, 0, P, Said { local_pref: 200, ..Said::by(2) });
    assert_eq!(news(&mut hub), [(0, 0); 2]);
    hub.withdraw(1, 0, P);
    assert_eq!(news(&mut hub), [(0, 0); 2]);
    hub.announce(1, 0, P, Said::by(2));
    hub.withdraw(0, 0, P);
    assert_eq!(news(&mut hub), [(0, 0); 2]);
    hub.take_all();
    assert_eq!(hub.states[2..], known[2..]);
    // Those within the AS are told all, and each of them not of its own.
    assert_eq!((hub.states[0].len(), hub.states[1].len()), (1, 0));
    // And when it goes, it goes for all.
    hub.withdraw(1, 0, P);
    assert_eq!(news(&mut hub), [(0, 1); 2]);
    hub.take_all();
    assert!(hub.states.iter().all(|state| state.is_empty()));
}

#[test]
fn a_route_that_leaves_otherwise_from_the_other_source_is_told() {
    let mut hub = Hub::new(two_and_two());
    hub.announce(0, 0, P, Said::by(1));
    hub.take_all();
    news(&mut hub);
    hub.announce(1, 0, P, Said { local_pref: 200, community: Some(9 << 16 | 1), ..Said::by(2) });
    assert_eq!(news(&mut hub), [(1, 0); 2]);
}

/// Two neighbours of one AS in one group with each other: who announces it now is told that ours is gone, and the
/// other is told of ours.
#[test]
fn peers_that_are_told_of_each_others_routes_are_told_of_the_change() {
    let mut config = clients(&[]);
    for n in 0..3 {
        let mut peer = peer(&format!("10.0.0.{}", n + 2), 64600);
        (peer.dial, peer.next_hop) = (crate::Dial::Never, NextHopMode::Self_);
        config.peers.push(peer);
    }
    let mut hub = Hub::new(config);
    hub.announce(1, 0, P, Said::by(1));
    hub.take_all();
    for n in 0..3 {
        hub.news(n);
    }
    hub.announce(0, 0, P, Said::by(1));
    hub.take_all();
    let told = |hub: &mut Hub| [0, 1, 2].map(|n| hub.news(n));
    assert_eq!(told(&mut hub)[0], (0, 1), "its own is the best now");
    assert_eq!((hub.states[0].len(), hub.states[1].len(), hub.states[2].len()), (0, 1, 1));
}
