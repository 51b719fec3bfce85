//! What BFD says of the paths to the peers. A path that is gone means a dead node: its session ends at once, and nobody is
//! sent to it any more, by whomever its address was named as next hop, until it is heard again. Only where the peer's BFD
//! does not outlive its control plane (its C bit is clear) may it be a restart, and graceful restart decides (RFC 5882 §4.3).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, UNIX_EPOCH},
};

use manx_api as api;
use manx_bfd::{
    link::{Key, Told, Wanted},
    packet::State,
};
use manx_bgp::{Event as SpeakerEvent, NextHop, PeerKey};
use manx_resources::{NodePlan, PeerPlan};
use tokio::sync::watch;

use super::Daemon;
use crate::bfd::News;

#[derive(Debug)]
pub struct Bfd {
    wanted: watch::Sender<Vec<Wanted>>,
    told: BTreeMap<Key, Told>,
    /// Nothing is to be sent to these.
    dead: BTreeSet<IpAddr>,
    pid: Option<u32>,
    lost: Option<String>,
}

/// The path was there, and is no more.
fn has_failed(told: &Told) -> bool {
    told.state != State::Up && told.failures > 0 && !told.by_administrator
}

fn key(peer: &PeerPlan) -> Option<Key> {
    Some(Key { address: peer.address, multihop: peer.bfd?.multihop })
}

impl Bfd {
    pub fn new(wanted: watch::Sender<Vec<Wanted>>) -> Bfd {
        Bfd { wanted, told: BTreeMap::new(), dead: BTreeSet::new(), pid: None, lost: None }
    }

    fn follow_plan(&self, plan: &NodePlan) {
        let mut wanted: BTreeMap<Key, Wanted> = BTreeMap::new();
        for peer in &plan.peers {
            let (Some(bfd), Some(key)) = (peer.bfd, key(peer)) else { continue };
            wanted.entry(key).or_insert(Wanted {
                key,
                local: peer.source_address,
                interval: bfd.interval,
                multiplier: bfd.multiplier,
            });
        }
        let wanted: Vec<Wanted> = wanted.into_values().collect();
        self.wanted.send_if_modified(|before| {
            let changed = *before != wanted;
            *before = wanted;
            changed
        });
    }

    pub fn is_dead(&self, hop: NextHop) -> bool {
        self.dead.contains(&hop.address) || hop.link_of.is_some_and(|peer| self.dead.contains(&peer.address))
    }

    pub fn is_dead_at(&self, address: IpAddr) -> bool {
        self.dead.contains(&address)
    }

    /// Whether packets for one of its peers find nobody.
    pub fn has_dead(&self) -> bool {
        !self.dead.is_empty()
    }

    pub fn status_of(&self, peer: &PeerPlan) -> Option<api::BfdStatus> {
        let key = key(peer)?;
        let Some(told) = self.told.get(&key) else {
            let error = self.lost.clone().unwrap_or_else(|| "the BFD process is being started".into());
            return Some(api::BfdStatus { multihop: key.multihop, error: Some(error), ..Default::default() });
        };
        Some(api::BfdStatus {
            multihop: key.multihop,
            state: Some(told.state.name().to_owned()),
            diagnostic: told.diagnostic.to_string(),
            since: Some(crate::clock::stamp(UNIX_EPOCH + Duration::from_millis(told.since))),
            failures: told.failures,
            transmit_interval: told.transmit_interval,
            detection_time: told.detection_time,
            sent: told.sent,
            received: told.received,
            remote: told.remote.map(|remote| api::BfdNeighbour {
                state: remote.state.name().to_owned(),
                diagnostic: remote.diagnostic.to_string(),
                control_plane_independent: remote.independent,
            }),
            error: told.error.clone(),
        })
    }

    pub fn pid(&self) -> Option<u32> {
        self.pid
    }
}

impl Daemon {
    pub(super) fn follow_bfd(&mut self) {
        if let Some(plan) = &self.plan {
            self.bfd.follow_plan(plan);
        }
    }

    pub(super) fn take_bfd(&mut self, news: News) {
        match news {
            News::Found { pid } => {
                self.bfd.pid = Some(pid);
                self.bfd.lost = None;
            }
            News::Lost(why) => {
                self.bfd.pid = None;
                self.bfd.lost = Some(why);
                self.bfd.told.clear();
                // Nobody watches any more, so nobody can say that they are still dead.
                self.revive(|_| true);
            }
            News::Gone(keys) => {
                for key in keys {
                    self.bfd.told.remove(&key);
                    self.revive(|address| address == key.address);
                }
            }
            News::Sessions(all) => {
                for told in all {
                    self.take_told(told);
                }
            }
        }
    }

    fn take_told(&mut self, told: Told) {
        let key = told.key;
        let before = self.bfd.told.insert(key, told.clone());
        let failures = before.as_ref().map_or(0, |before| before.failures);
        let state = before.as_ref().map(|before| before.state);
        if state != Some(told.state) && (told.state == State::Up || state == Some(State::Up)) {
            let why = match told.state {
                State::Up => String::new(),
                _ if told.by_administrator => "the peer's operator has ended it".to_owned(),
                _ => told.diagnostic.to_string(),
            };
            let of_plan =
                self.plan.iter().flat_map(|plan| &plan.peers).find(|peer| peer.address == key.address);
            let peer = PeerKey { address: key.address, port: of_plan.map_or(179, |peer| peer.port) };
            let (from, to) = (state.map(|state| state.name().to_owned()), told.state.name().to_owned());
            self.history.bfd(peer, from, to, why);
        }
        if told.state == State::Up {
            self.revive(|address| address == key.address);
        } else if has_failed(&told) && told.failures != failures {
            self.path_is_down(&told);
        }
    }

    fn path_is_down(&mut self, told: &Told) {
        let address = told.key.address;
        let Some(plan) = &self.plan else { return };
        let peers = plan.peers.iter().filter(|peer| peer.address == address && peer.bfd.is_some());
        let peers: Vec<PeerKey> =
            peers.map(|peer| PeerKey { address: peer.address, port: peer.port }).collect();
        if peers.is_empty() {
            return;
        }
        let independent = told.remote.is_some_and(|remote| remote.independent);
        let why = told.diagnostic.to_string();
        if independent {
            tracing::warn!(peer = %address, "the node is dead, says BFD ({why}): nothing is sent to it until it is heard again");
            self.bfd.dead.insert(address);
            self.tell_next_hops_at(address);
        } else {
            tracing::warn!(
                peer = %address,
                "there is no path to the peer, says BFD ({why}); its BFD does not outlive its own restart, so its routes are \
                 kept if graceful restart was agreed on"
            );
        }
        let Some(speaker) = &mut self.speaker else { return };
        let now = self.clock.now();
        for peer in peers {
            speaker.handle(SpeakerEvent::PathDown { peer, why: why.clone() }, now);
        }
    }

    /// Somebody was heard: by BFD, or by BGP where BFD's packets alone do not pass.
    pub(super) fn revive(&mut self, who: impl Fn(IpAddr) -> bool) {
        let alive: Vec<IpAddr> = self.bfd.dead.iter().copied().filter(|address| who(*address)).collect();
        for address in alive {
            self.bfd.dead.remove(&address);
            self.tell_next_hops_at(address);
        }
    }

    fn tell_next_hops_at(&mut self, address: IpAddr) {
        let at =
            |hop: &NextHop| hop.address == address || hop.link_of.is_some_and(|peer| peer.address == address);
        let gateways: BTreeSet<_> =
            self.next_hops.iter().filter(|(hop, _)| at(hop)).map(|(_, gateway)| *gateway).collect();
        for gateway in gateways {
            let resolution = self.dataplane.watch(gateway);
            self.tell_next_hop(gateway, &resolution);
        }
    }

    /// For the status.
    pub(super) fn bfd_warning(&self) -> Option<String> {
        let lost = self.bfd.lost.as_ref()?;
        Some(format!("{lost}; dead nodes are noticed by the hold timer alone"))
    }
}
