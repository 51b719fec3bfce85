//! A new configuration in place of the old one: what it means for peers that come, go or change, for own prefixes
//! and for the export rule. What need not reset a session does not.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::{
    Speaker,
    established::{cluster_of, kind_of},
    rules,
};
use crate::{
    Config, ConnId, PeerConfig, PeerKey, Time,
    config::{Dial, ExportRule, Originated, PerFamily},
    message::notification::{Notification, cease},
    rib::{export::Policy, table::PeerSlot},
    session::{
        negotiation::Ours,
        peer::{GRACE, OfRange, Peer},
        timers::Timer,
    },
    view::{Cause, SessionState},
};

/// So many peers of the past are remembered: more than a fleet has.
const MOST_REMEMBERED: usize = 50_000;

impl Speaker {
    /// Takes a new configuration in place of the old one. A peer that stays as it was keeps its session; of a changed
    /// one, only what is in OPEN resets it ([`crate::PeerConfig`]). Removed: Cease/3. Own prefixes and the export
    /// rule: only differences are sent.
    pub fn configure(&mut self, config: Config, now: Time) {
        if config == self.config && !self.by_key.is_empty() {
            return;
        }
        let same_peering = !self.by_key.is_empty() && peering_of(&config) == peering_of(&self.config);
        let mut wanted: BTreeMap<PeerKey, PeerConfig> = BTreeMap::new();
        for peer in &config.peers {
            wanted.entry(peer.key()).or_insert_with(|| peer.clone());
        }
        self.config = config;
        let clusters = rules::clusters_of(&self.config);
        if clusters.iter().any(|id| !self.clusters.contains(id)) && !self.by_key.is_empty() {
            self.begin_change(now);
        }
        self.clusters = clusters;
        self.keep_dynamic_peers(&mut wanted);
        if self.config.parting.hold.is_zero() {
            self.hold_nothing(now);
        }

        // The rules before the routes, so that nothing goes out that must not.
        let own = self.config.originated.iter().map(|own| own.prefix);
        self.rib.set_policy(Policy::new(self.config.export.clone(), self.config.normal_priority, own));
        self.rib.set_ask_interfaces(rules::ask_interfaces(&self.config));
        self.rib.set_held_within(&self.config.parting.within);
        self.rib.set_multipath(self.config.multipath);
        self.rib.set_normal_priority(self.config.normal_priority);
        if self.config.peers.iter().any(|peer| peer.add_path.send > 0) {
            self.rib.rank_paths();
        }
        let services = self.config.services.iter();
        let services = services.map(|prefix| Originated { prefix: *prefix, communities: Vec::new() });
        let originated: Vec<Originated> = self.config.originated.iter().cloned().chain(services).collect();
        self.rib.originate(&originated, &self.config.hosts);

        // New blocks come and go all the time; they are no reason to dial the dead anew.
        if same_peering {
            return self.after(now);
        }
        self.grace_until = now + GRACE;
        let gone: Vec<PeerKey> =
            self.by_key.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
        for key in gone {
            self.part(key, now);
        }
        for (key, peer) in wanted {
            match self.by_key.get(&key) {
                Some(&slot) => self.change_peer(slot, peer, now),
                None => self.add_peer(peer, None, now),
            }
        }
        self.rib.end_moves();
        self.check_deferral();
        self.after(now);
    }

    pub(super) fn add_peer(&mut self, config: PeerConfig, of_range: Option<OfRange>, now: Time) {
        let ours = Ours::new(&self.config, &config);
        let key = config.key();
        let mut peer = Peer::new(0, config, ours, now);
        let slot = self.rib.add_peer(key, kind_of(&peer));
        peer.slot = slot;
        peer.of_range = of_range;
        self.rib.set_cluster(slot, cluster_of(&self.config, &peer));
        let at = usize::from(slot);
        if self.peers.len() <= at {
            self.peers.resize_with(at + 1, || None);
        }
        #[expect(clippy::indexing_slicing, reason = "just made to reach it")]
        let place = &mut self.peers[at];
        *place = Some(peer);
        self.by_key.insert(key, slot);
        self.judge_imports(slot);
        self.start(slot, now);
    }

    pub(super) fn remove_peer(&mut self, key: PeerKey, cause: Cause, now: Time) {
        let Some(slot) = self.by_key.remove(&key) else { return };
        self.cease(slot, cease::DECONFIGURED, now);
        self.report_removed(slot, cause, now);
        for timer in [Timer::Dial(slot), Timer::HoldBack(slot), Timer::Part(slot), Timer::Demote(slot)] {
            self.timers.clear(timer);
        }
        for family in crate::Family::ALL {
            self.timers.clear(Timer::Stale(slot, family));
            self.rib.flush(slot, family);
        }
        self.rib.set_parting(slot, false);
        self.rib.set_held(slot, false);
        self.count_anew(slot);
        if let Some(peer) = self.peers.get_mut(usize::from(slot)) {
            *peer = None;
        }
        if !self.rib.forget_peer(slot) {
            self.leaving.push(slot);
        }
    }

    /// The peer's sessions so far are another's, but for what it may keep of ours.
    fn count_anew(&mut self, slot: PeerSlot) {
        let Some(peer) = self.peer_at_mut(slot) else { return };
        let (key, count) = (peer.config.key(), std::mem::take(&mut peer.established_count));
        if count > 0 && peer.of_range.is_none() && self.spoken_to.len() < MOST_REMEMBERED {
            self.spoken_to.insert(key);
        }
    }

    fn report_removed(&mut self, slot: PeerSlot, cause: Cause, now: Time) {
        if let Some(peer) = self.peer_at_mut(slot) {
            // Gone is a state that has no name: it is Idle for good.
            peer.disabled = true;
        }
        self.note_state(slot, cause, None, now);
    }

    fn change_peer(&mut self, slot: PeerSlot, mut config: PeerConfig, now: Time) {
        let again = self.unpart(slot);
        let ours = Ours::new(&self.config, &config);
        let Some(peer) = self.peer_at(slot) else { return };
        let (was_client, was_of) = (peer.config.rr_client, peer.config.cluster_id);
        if config.rr_client || peer.ours != ours {
            self.timers.clear(Timer::Demote(slot));
        } else if was_client && self.remains_client(slot, config.address, now) {
            (config.rr_client, config.cluster_id) = (true, was_of);
        }
        let parting = &self.config.parting;
        let holds = !parting.hold.is_zero() && !parting.at_once.contains(&config.address);
        let Some(peer) = self.peer_at_mut(slot) else { return };
        let reopen = peer.ours != ours || peer.config.local_address != config.local_address;
        let rewired = peer.config.transport != config.transport;
        let other_side_dials = peer.config.dial != config.dial;
        let retimed = peer.config.keepalive_time != config.keepalive_time;
        // What went wrong before may be mended; but not by what was changed for others.
        let changed = reopen || peer.config != config;
        peer.config = config;
        peer.ours = ours;
        peer.failures = 0;
        let released = changed && std::mem::take(&mut peer.held_back);
        let kind = kind_of(peer);
        if changed {
            peer.errors = 0;
            self.timers.clear(Timer::HoldBack(slot));
        }
        if other_side_dials {
            self.timers.clear(Timer::Dial(slot));
        }
        if reopen && again {
            self.count_anew(slot);
        }
        if reopen && holds {
            self.begin_change(now);
            self.close_to_hold(slot, cease::CONFIGURATION_CHANGE, now);
            self.timers.clear(Timer::Dial(slot));
        } else if reopen {
            // What was learned was learned under the old terms. The peer's routes go with the session.
            self.cease(slot, cease::CONFIGURATION_CHANGE, now);
            for family in crate::Family::ALL {
                self.rib.flush(slot, family);
                self.timers.clear(Timer::Stale(slot, family));
            }
            if let Some(peer) = self.peer_at_mut(slot) {
                peer.stale = PerFamily::default();
                peer.long_lived_until = PerFamily::default();
            }
            self.timers.clear(Timer::Dial(slot));
        } else if rewired {
            self.reconnect(slot, now);
        }
        if retimed && let Some(conn) = self.peer_at(slot).and_then(|peer| peer.established) {
            self.set_keepalive(conn, now);
        }
        self.judge_imports(slot);
        self.rib.set_kind(slot, kind);
        if let Some(cluster_id) = self.peer_at(slot).map(|peer| cluster_of(&self.config, peer)) {
            self.rib.set_cluster(slot, cluster_id);
        }
        self.join_groups(slot);
        self.check_max_prefixes(slot, now);
        self.may_be_forgotten(slot);
        let Some(peer) = self.peer_at(slot) else { return };
        if peer.connections().next().is_none() && peer.may_connect() {
            if peer.config.dial == Dial::Never {
                self.timers.clear(Timer::Dial(slot));
            } else {
                self.dial_soon(slot, now);
            }
            let cause = if reopen || rewired { Cause::ConfigurationChanged } else { Cause::BackOffOver };
            if reopen
                || rewired
                || released
                || self.peer_at(slot).is_some_and(|peer| peer.state != SessionState::Active)
            {
                self.note_state(slot, cause, None, now);
            }
        }
    }

    pub(super) fn take_client(&mut self, slot: PeerSlot, rr_client: bool, cluster_id: Option<Ipv4Addr>) {
        let Some(peer) = self.peer_at_mut(slot) else { return };
        (peer.config.rr_client, peer.config.cluster_id) = (rr_client, cluster_id);
        let kind = kind_of(peer);
        self.rib.set_kind(slot, kind);
        if let Some(cluster_id) = self.peer_at(slot).map(|peer| cluster_of(&self.config, peer)) {
            self.rib.set_cluster(slot, cluster_id);
        }
    }

    /// Ends the peer's connections, for another is to take their place. Nothing that was learned is wrong: where graceful
    /// restart was agreed on, a connection that ends without a NOTIFICATION leaves the routes in place on both sides (RFC
    /// 4724 §4.2).
    fn reconnect(&mut self, slot: PeerSlot, now: Time) {
        let connections: Vec<ConnId> =
            self.peer_at(slot).into_iter().flat_map(|peer| peer.connections()).collect();
        for conn in connections {
            let negotiated = self.connections.get(&conn).and_then(|c| c.negotiated.as_ref());
            if negotiated.is_some_and(|negotiated| negotiated.restart.is_some()) {
                self.close_keeping(conn, None, true, now);
            } else {
                self.close(conn, Some(&Notification::cease(cease::CONFIGURATION_CHANGE)), now);
            }
        }
        self.timers.clear(Timer::Dial(slot));
    }
}

/// All but what is originated and what may be passed on.
fn peering_of(config: &Config) -> Config {
    Config {
        originated: Vec::new(),
        hosts: Vec::new(),
        services: Vec::new(),
        export: ExportRule::default(),
        ..config.clone()
    }
}
