//! Several paths for a prefix, through any history: what a group sends in pieces comes to what each peer alone would
//! be sent, and to what a speaker that never knew anything else would send.

use proptest::prelude::*;

use super::hub::{Hub, Said, State, add_path, clients};
use crate::{
    Config, Multipath,
    config::WellKnown,
    policy::{Action, Change, Community, Match, PeerRules, Rule, RuleName},
};

const PEERS: usize = 5;
const COMMUNITY: u32 = 0xfde8_0001;

#[derive(Clone, Debug)]
enum Step {
    Announce {
        from: usize,
        id: u32,
        prefix: u8,
        said: Said,
    },
    Withdraw {
        from: usize,
        id: u32,
        prefix: u8,
    },
    Take {
        to: usize,
        octets: usize,
    },
    Reset {
        peer: usize,
        graceful: bool,
    },
    /// How many paths it is sent.
    Most {
        peer: usize,
        most: u8,
    },
    Client {
        peer: usize,
        client: bool,
    },
    NextHop {
        last: u8,
        metric: Option<u32>,
    },
    Rules {
        peer: usize,
        import: bool,
        which: u8,
    },
    Transit(bool),
    Shutdown(bool),
    Multipath(u8),
    AskAgain {
        peer: usize,
    },
    Advance,
}

fn said() -> impl Strategy<Value = Said> {
    let community = prop_oneof![
        4 => Just(None),
        1 => Just(Some(COMMUNITY)),
        1 => Just(Some(WellKnown::NO_ADVERTISE)),
        1 => Just(Some(WellKnown::GRACEFUL_SHUTDOWN)),
    ];
    let ballast = prop_oneof![12 => Just(0usize), 1 => Just(4020usize)];
    (0u8..4, 0u8..3, 1u8..4, community, ballast).prop_map(
        |(local_pref, med, next_hop, community, ballast)| Said {
            local_pref,
            med,
            next_hop,
            community,
            ballast,
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let peer = 0..PEERS;
    let step = prop_oneof![
        9 => (peer.clone(), 0u32..3, 0u8..3, said())
            .prop_map(|(from, id, prefix, said)| Step::Announce { from, id, prefix, said }),
        5 => (peer.clone(), 0u32..3, 0u8..3).prop_map(|(from, id, prefix)| Step::Withdraw { from, id, prefix }),
        6 => (peer.clone(), 1usize..400).prop_map(|(to, octets)| Step::Take { to, octets }),
        1 => (peer.clone(), any::<bool>()).prop_map(|(peer, graceful)| Step::Reset { peer, graceful }),
        1 => (peer.clone(), 1u8..5).prop_map(|(peer, most)| Step::Most { peer, most }),
        1 => (peer.clone(), any::<bool>()).prop_map(|(peer, client)| Step::Client { peer, client }),
        2 => (1u8..4, prop_oneof![Just(None), (0u32..3).prop_map(Some)])
            .prop_map(|(last, metric)| Step::NextHop { last, metric }),
        2 => (peer.clone(), any::<bool>(), 0u8..4)
            .prop_map(|(peer, import, which)| Step::Rules { peer, import, which }),
        1 => any::<bool>().prop_map(Step::Transit),
        1 => any::<bool>().prop_map(Step::Shutdown),
        1 => (0u8..4).prop_map(Step::Multipath),
        1 => peer.prop_map(|peer| Step::AskAgain { peer }),
        1 => Just(Step::Advance),
    ];
    prop::collection::vec(step, 1..90)
}

/// A source of several, two that are sources and take several, one in another AS that takes several and gives one, one
/// of neither; all within the AS may become non-clients.
fn config() -> Config {
    let mut config = clients(&[
        add_path(0, true),
        add_path(2, true),
        add_path(2, true),
        add_path(3, false),
        add_path(0, false),
    ]);
    config.graceful_restart.restart_time = 120;
    config.peers[3].remote_as = super::network::asn(64603);
    config
}

fn rules(which: u8) -> PeerRules {
    let matches = Match { community: Some(Community::Standard(COMMUNITY)), ..Match::default() };
    let action = match which {
        0 => return PeerRules::default(),
        1 => Action::Reject,
        2 => Action::Accept(Box::new([Change::SetLocalPref(2)])),
        _ => Action::Accept(Box::new([Change::AddCommunity(Community::Standard(7))])),
    };
    let rule = Rule { name: RuleName::new(format!("rule {which}")), matches, action };
    PeerRules::both([rule].into_iter().collect())
}

fn text(prefix: u8) -> String {
    format!("10.{prefix}.0.0/16")
}

/// What a peer holds, whatever the names.
fn nameless(state: &State) -> Vec<String> {
    let mut all: Vec<String> = state.iter().map(|((prefix, _), text)| format!("{prefix} {text}")).collect();
    all.sort_unstable();
    all
}

/// What the peers have announced last, by source, name and prefix.
type Announced = std::collections::BTreeMap<(usize, u32, u8), Said>;

fn play(hub: &mut Hub, announced: &mut Announced, step: Step) {
    match step {
        Step::Announce { from, id, prefix, said } => {
            hub.announce(from, id, &text(prefix), said);
            announced.insert((from, if from < 3 { id } else { 0 }, prefix), said);
        }
        Step::Withdraw { from, id, prefix } => {
            hub.withdraw(from, id, &text(prefix));
            announced.remove(&(from, if from < 3 { id } else { 0 }, prefix));
        }
        Step::Take { to, octets } => hub.take(to, octets),
        Step::Reset { peer, graceful } => {
            hub.lose(peer, !graceful);
            hub.join(peer);
            if graceful {
                hub.give(peer, crate::message::update::end_of_rib(crate::Family::Ipv4Unicast));
            }
            announced.retain(|&(from, ..), _| from != peer);
        }
        Step::Most { peer, most } => hub.configure(|config| {
            let send = &mut config.peers[peer].add_path.send;
            *send = if *send > 0 { most } else { 0 };
        }),
        Step::Client { peer, client } => hub.configure(|config| config.peers[peer].rr_client = client),
        Step::NextHop { last, metric } => hub.metric(&format!("10.9.0.{last}"), metric),
        Step::Rules { peer, import, which } => hub.configure(|config| {
            let peer = &mut config.peers[peer];
            *(if import { &mut peer.import } else { &mut peer.export }) = rules(which);
        }),
        Step::Transit(transit) => hub.configure(|config| config.export.transit = transit),
        Step::Shutdown(shutdown) => hub.configure(|config| config.graceful_shutdown = shutdown),
        Step::Multipath(ibgp) => hub.configure(|config| config.multipath = Multipath { ebgp: ibgp, ibgp }),
        Step::AskAgain { peer } => hub.ask_again(peer),
        Step::Advance => drop(hub.speaker.advance(hub.now)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_history_of_several_paths_ends_where_a_fresh_start_begins(history in steps()) {
        let mut hub = Hub::new(config());
        let mut announced = Announced::new();
        for step in history {
            play(&mut hub, &mut announced, step);
        }
        hub.take_all();

        // Each peer has what it would get, were it to begin now.
        let held = hub.states.clone();
        for (n, held) in held.iter().enumerate() {
            let counted = hub.speaker.peers()[n].counters.prefixes_sent;
            prop_assert_eq!(counted, held.len() as u64, "peer {}", n);
            hub.states[n].clear();
            hub.ask_again(n);
            hub.take(n, usize::MAX);
            prop_assert_eq!(&hub.states[n], held, "peer {}", n);
        }

        // And what a speaker would send that has only ever heard the last words.
        let mut fresh = Hub::new(hub.speaker.config().clone());
        fresh.metrics = hub.metrics.clone();
        for (&(from, id, prefix), &said) in &announced {
            fresh.announce(from, id, &text(prefix), said);
        }
        fresh.take_all();
        for n in 0..PEERS {
            prop_assert_eq!(nameless(&hub.states[n]), nameless(&fresh.states[n]), "peer {}", n);
        }
        prop_assert_eq!(&hub.best, &fresh.best);

        // When all is withdrawn nothing is left.
        for (from, id, prefix) in announced.into_keys() {
            hub.withdraw(from, id, &text(prefix));
        }
        hub.take_all();
        prop_assert!(hub.states.iter().all(State::is_empty));
        hub.tidy();
        prop_assert_eq!(hub.speaker.sizes(), (0, 0, 0));
    }
}
