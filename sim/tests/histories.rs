//! Whatever peers say and in whatever order: what is known in the end depends on what stands in the end, and on nothing
//! else; and what a peer is sent does not depend on who else is sent it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use manx_bgp::{ConnId, Event, Family, view::PrefixView};
use manx_net::{Prefix, Prefix4, Prefix6};
use manx_sim::{
    dice::Dice,
    stage::{OUR_AS, Stage, config, key},
    wire::{self, Attributes, Hello},
};
use proptest::prelude::*;

/// A client, an iBGP peer that is none, another AS, and one that knows only two octets; then readers of one group.
const PEERS: usize = 7;
const SPEAKING: usize = 4;
/// Seconds for which a lost peer's routes are kept; whoever is away for longer loses them.
const RESTART: u16 = 60;
const AFTER_ALL: Duration = Duration::from_secs(61);

fn hello(peer: usize) -> Hello {
    let asn = [OUR_AS, OUR_AS, 4_200_000_000, 65001].get(peer).copied().unwrap_or(OUR_AS);
    let mut hello = Hello::new(asn, Ipv4Addr::new(10, 0, 0, 2 + peer as u8));
    hello.four_octet = peer != 3;
    hello.restart = Some(RESTART);
    hello.hold_time = 0;
    hello
}

fn all(of: impl IntoIterator<Item = usize>) -> Vec<(Hello, bool)> {
    of.into_iter().map(|peer| (hello(peer), peer == 0 || peer >= SPEAKING)).collect()
}

fn prefix(number: u8) -> Prefix {
    let n = u32::from(number / 2);
    match number % 2 {
        0 => Prefix4::from_bits(0x0a40_0000 + n * 64, 26).unwrap().into(),
        _ => Prefix6::from_bits((0xfd40 << 112) + u128::from(n) * 64, 122).unwrap().into(),
    }
}

/// One of a hundred or so sets that differ at every step of the choice.
fn attributes(peer: usize, kind: u8) -> Attributes {
    let hello = hello(peer);
    let mut set = Attributes::new(hello.id);
    set.four_octet = hello.four_octet;
    set.origin = kind % 3;
    if hello.asn == OUR_AS {
        set.local_pref = Some([100, 100, 100, 200][usize::from(kind >> 2 & 3)]);
        set.path = vec![64600; usize::from(kind >> 4 & 1)];
        set.originator = (kind & 0x20 != 0).then(|| Ipv4Addr::new(9, 9, 9, kind & 7));
    } else {
        set.path = vec![hello.asn; 1 + usize::from(kind >> 4 & 1)];
    }
    set.med = (kind & 0x40 != 0).then_some(u32::from(kind & 3));
    set
}

#[derive(Clone, Debug)]
enum Step {
    Announce(usize, u8, u8),
    Withdraw(usize, u8),
    Break(usize),
    /// The connection is lost, and the peer returns having preserved its forwarding state (RFC 4724); it has forgotten
    /// what it said of this prefix.
    Restart(usize, u8),
    /// Everything again, between the marks (RFC 7313), but for what was said of this prefix.
    Refresh(usize, u8),
    Metric(usize, Option<u32>),
    Read(usize, u16),
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let speaking = 0..SPEAKING;
    prop_oneof![
        8 => (speaking.clone(), 0u8..12, any::<u8>()).prop_map(|(peer, n, kind)| Step::Announce(peer, n, kind)),
        3 => (speaking.clone(), 0u8..12).prop_map(|(peer, n)| Step::Withdraw(peer, n)),
        1 => (0..PEERS).prop_map(Step::Break),
        1 => (speaking.clone(), 0u8..12).prop_map(|(peer, n)| Step::Restart(peer, n)),
        1 => (speaking.clone(), 0u8..12).prop_map(|(peer, n)| Step::Refresh(peer, n)),
        1 => (speaking, prop::sample::select(vec![None, Some(0), Some(5)])).prop_map(|(p, m)| Step::Metric(p, m)),
        4 => (0..PEERS, any::<u16>()).prop_map(|(peer, budget)| Step::Read(peer, budget)),
        1 => (0u16..2000).prop_map(Step::Pass),
    ]
}

/// What stands in the end.
#[derive(Clone, Debug, Default)]
struct Standing {
    routes: BTreeMap<(usize, u8), u8>,
    metrics: BTreeMap<usize, Option<u32>>,
}

fn say_again(stage: &mut Stage, conn: ConnId, peer: usize, standing: &Standing) {
    for (&(_, n), &kind) in standing.routes.range((peer, 0)..=(peer, u8::MAX)) {
        stage.give(conn, wire::announce(&attributes(peer, kind), prefix(n)));
    }
}

fn play(steps: &[Step]) -> (Stage, Vec<ConnId>, Standing) {
    let mut stage = Stage::new(config(&all(0..PEERS)));
    let mut conns: Vec<ConnId> = (0..PEERS).map(|peer| stage.session(hello(peer)).unwrap()).collect();
    let mut standing = Standing::default();
    for step in steps {
        match *step {
            Step::Announce(peer, n, kind) => {
                standing.routes.insert((peer, n), kind);
                stage.give(conns[peer], wire::announce(&attributes(peer, kind), prefix(n)));
            }
            Step::Withdraw(peer, n) => {
                standing.routes.remove(&(peer, n));
                stage.give(conns[peer], wire::withdraw(prefix(n)));
            }
            Step::Break(peer) => {
                standing.routes.retain(|&(from, _), _| from != peer);
                stage.tell(Event::Closed { conn: conns[peer], reason: "reset".into() });
                stage.pass(AFTER_ALL);
                conns[peer] = stage.session(hello(peer)).unwrap();
            }
            Step::Restart(peer, n) => {
                stage.tell(Event::Closed { conn: conns[peer], reason: "reset".into() });
                conns[peer] = stage.session(hello(peer)).unwrap();
                standing.routes.remove(&(peer, n));
                say_again(&mut stage, conns[peer], peer, &standing);
                for family in Family::ALL {
                    stage.give(conns[peer], wire::end_of_rib(family));
                }
            }
            Step::Refresh(peer, n) => {
                let conn = conns[peer];
                // A mark before End-of-RIB means nothing.
                for family in Family::ALL {
                    stage.give(conn, wire::end_of_rib(family));
                    stage.give(conn, wire::refresh(family, 1));
                }
                standing.routes.remove(&(peer, n));
                say_again(&mut stage, conn, peer, &standing);
                for family in Family::ALL {
                    stage.give(conn, wire::refresh(family, 2));
                }
            }
            Step::Metric(peer, metric) => {
                standing.metrics.insert(peer, metric);
                stage.set_metric(hello(peer).id, metric);
            }
            Step::Read(peer, budget) => drop(stage.read(conns[peer], usize::from(budget)).unwrap()),
            Step::Pass(ms) => stage.pass(Duration::from_millis(u64::from(ms))),
        }
    }
    (stage, conns, standing)
}

/// A speaker that only ever hears what stands, in any order, from these peers.
fn afresh(standing: &Standing, peers: &[usize], order: u64) -> (Stage, BTreeMap<usize, ConnId>) {
    let mut dice = Dice::new(order);
    let mut stage = Stage::new(config(&all(peers.iter().copied())));
    for (&peer, &metric) in &standing.metrics {
        stage.set_metric(hello(peer).id, metric);
    }
    let mut coming = peers.to_vec();
    dice.shuffle(&mut coming);
    let conns: BTreeMap<usize, ConnId> =
        coming.into_iter().map(|peer| (peer, stage.session(hello(peer)).unwrap())).collect();
    let mut routes: Vec<_> = standing.routes.iter().collect();
    dice.shuffle(&mut routes);
    for (&(peer, n), &kind) in routes {
        stage.give(conns[&peer], wire::announce(&attributes(peer, kind), prefix(n)));
    }
    (stage, conns)
}

/// All that is known, the paths of a prefix in one order.
fn known(stage: &Stage) -> Vec<PrefixView> {
    let mut views: Vec<PrefixView> = (0..12).filter_map(|n| stage.speaker.explain(prefix(n))).collect();
    for view in &mut views {
        view.paths.sort_by_key(|path| format!("{:?}", path.source));
    }
    views
}

fn read_all(stage: &mut Stage, conns: impl IntoIterator<Item = ConnId>) {
    for conn in conns {
        stage.read_all(conn).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn after_any_history_all_is_as_if_only_its_end_had_been(
        steps in prop::collection::vec(step(), 1..80), order: u64,
    ) {
        let (mut stage, conns, standing) = play(&steps);
        let everybody: Vec<usize> = (0..PEERS).collect();
        let (mut fresh, fresh_conns) = afresh(&standing, &everybody, order);
        read_all(&mut stage, conns.iter().copied());
        read_all(&mut fresh, fresh_conns.values().copied());
        prop_assert_eq!(known(&stage), known(&fresh));
        for peer in everybody {
            let (then, now) = (&stage.followers[&conns[peer]], &fresh.followers[&fresh_conns[&peer]]);
            prop_assert_eq!(&then.table, &now.table, "peer {}", peer);
        }
        let wake = |stage: &mut Stage| {
            while stage.speaker.advance(stage.now) {}
            stage.speaker.advance(stage.now);
            stage.speaker.sizes()
        };
        prop_assert_eq!(wake(&mut stage), wake(&mut fresh), "(routes, attribute sets, next hops)");
    }

    #[test]
    fn a_member_of_a_group_is_sent_what_it_would_be_sent_alone(
        steps in prop::collection::vec(step(), 1..80), order: u64,
    ) {
        let (mut stage, conns, standing) = play(&steps);
        read_all(&mut stage, conns.iter().copied());
        for reader in SPEAKING..PEERS {
            let mut peers: BTreeSet<usize> = standing.routes.keys().map(|&(peer, _)| peer).collect();
            peers.insert(reader);
            let peers: Vec<usize> = peers.into_iter().collect();
            let (mut alone, its) = afresh(&standing, &peers, order);
            alone.read_all(its[&reader]).unwrap();
            prop_assert_eq!(
                &stage.followers[&conns[reader]].table,
                &alone.followers[&its[&reader]].table,
                "{}", key(hello(reader).id)
            );
        }
    }
}
