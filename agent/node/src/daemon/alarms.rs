//! What an operator should hear of peers though their sessions go on: faults in what they send (RFC 7606), and how near
//! they are to what they may. Each is said in the log when it happens, kept in the history, and stands in the status for
//! as long as it is true; a fault for a day.

use std::{collections::BTreeMap, time::Duration};

use manx_bgp::{
    About, PeerKey, Speaker, Time, Warning,
    view::{PeerCounters, PeerView},
};

use crate::clock::Clock;

/// A fault is of interest for so long.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);
/// Peers whose last fault is remembered.
const REMEMBERED: usize = 1024;

#[derive(Debug, Default)]
pub struct Alarms {
    /// The last fault in what a peer has sent, and when.
    faults: BTreeMap<PeerKey, (Time, String)>,
}

impl Alarms {
    pub fn take(&mut self, warning: &Warning) {
        let About::Malformed { fault, .. } = &warning.about else { return };
        if self.faults.len() >= REMEMBERED && !self.faults.contains_key(&warning.peer) {
            let oldest = self.faults.iter().min_by_key(|(_, (at, _))| *at).map(|(peer, _)| *peer);
            oldest.and_then(|peer| self.faults.remove(&peer));
        }
        self.faults.insert(warning.peer, (warning.at, fault.to_string()));
    }

    /// What is true now, a sentence each.
    pub fn standing(&self, speaker: &Speaker, clock: &Clock, now: Time) -> Vec<String> {
        let peers = speaker.peers();
        let mut said = Vec::new();
        let total: u64 = peers.iter().map(|peer| peer.counters.prefixes_received).sum();
        if total >= speaker.near_max_paths() {
            let most = peers.iter().max_by_key(|peer| peer.counters.prefixes_received);
            let most = most.map(|peer| format!("; {} holds {}", key(peer), peer.counters.prefixes_received));
            said.push(format!(
                "the RIB is nearly full: {total} paths of the {} that it may hold{} (manx.dev/maxPaths)",
                speaker.max_paths(),
                most.unwrap_or_default()
            ));
        }
        for peer in &peers {
            for limit in &peer.near_limit {
                said.push(format!(
                    "{} announces {} {} prefixes of the {} that it may; beyond them its session ends \
                     (manx.dev/maxPrefixes)",
                    key(peer),
                    limit.held,
                    limit.family,
                    limit.limit
                ));
            }
            let fault = self.faults.get(&key(peer));
            if let Some((at, fault)) = fault.filter(|(at, _)| now.since(*at) < FRESH) {
                said.push(format!(
                    "{} sends malformed UPDATEs: {}; the last at {}: {fault}",
                    key(peer),
                    outcomes(&peer.counters),
                    clock.rfc3339(*at)
                ));
            }
        }
        said
    }
}

fn key(peer: &PeerView) -> PeerKey {
    PeerKey { address: peer.address, port: peer.port }
}

fn outcomes(counters: &PeerCounters) -> String {
    let (withdrawn, discarded) = (counters.treated_as_withdraw, counters.attributes_discarded);
    format!("treated as withdrawn {withdrawn}, attributes discarded {discarded} (RFC 7606)")
}
