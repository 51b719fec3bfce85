//! Peers that nobody has configured one by one: whoever dials from inside a range is one for as long as there is
//! something to remember of it. It costs nothing before TCP's handshake is done, and a range has a limit.

use std::{collections::BTreeMap, net::IpAddr};

use manx_net::{Asn, Prefix};

use super::{Speaker, established::kind_of};
use crate::{
    Config, DynamicPeers, PeerConfig, PeerKey, Refusal, RemoteAs, Time,
    config::Dial,
    message::{notification::Notification, open::Open},
    rib::table::PeerSlot,
    session::{negotiation::Ours, peer::OfRange},
    view::Cause,
};

/// A peer's number has two octets, and configured peers want some, too.
const MOST_PEERS: usize = 60_000;

/// Its connections come from any port and we dial none.
const PORT: u16 = 179;

impl DynamicPeers {
    fn peer(&self, address: IpAddr, remote_as: Asn) -> PeerConfig {
        PeerConfig { address, port: PORT, remote_as, dial: Dial::Never, ..self.template.clone() }
    }

    fn allows(&self, remote_as: Asn, config: &Config) -> bool {
        match &self.remote_as {
            RemoteAs::OneOf(numbers) => numbers.contains(&remote_as),
            RemoteAs::External => remote_as != self.template.local_as.unwrap_or(config.local_as),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.remote_as == RemoteAs::OneOf(Vec::new())
    }

    /// The AS of a peer that has not told it; and whether no other is possible.
    fn presumed_as(&self) -> Option<(Asn, bool)> {
        match &self.remote_as {
            RemoteAs::OneOf(numbers) => Some((*numbers.first()?, numbers.len() == 1)),
            // RFC 6793: what stands for an AS that cannot be said.
            RemoteAs::External => Some((Asn::TRANS, false)),
        }
    }
}

/// The longest range that the address lies in.
fn range_of(config: &Config, address: IpAddr) -> Option<&DynamicPeers> {
    let ranges = config.dynamic_peers.iter().filter(|peers| peers.range.contains(address));
    // Of two with one range the first counts.
    ranges.rev().max_by_key(|peers| peers.range.len())
}

impl Speaker {
    /// Somebody dials who is no peer yet: makes it one if a range holds it.
    pub(super) fn admit_from_range(&mut self, address: IpAddr, now: Time) -> Result<PeerSlot, Refusal> {
        let range = range_of(&self.config, address).ok_or(Refusal::UnknownPeer)?;
        let (remote_as, as_known) = range.presumed_as().ok_or(Refusal::UnknownPeer)?;
        let of_range = OfRange { range: range.range, as_known };
        let all = self.by_key.len() + self.leaving.len();
        if all >= MOST_PEERS || self.peers_of_range(range.range) >= range.limit as usize {
            return Err(Refusal::RangeFull);
        }
        let config = range.peer(address, remote_as);
        let key = config.key();
        self.add_peer(config, Some(of_range), now);
        self.by_key.get(&key).copied().ok_or(Refusal::UnknownPeer)
    }

    fn peers_of_range(&self, range: Prefix) -> usize {
        self.peers.iter().flatten().filter_map(|peer| peer.of_range).filter(|of| of.range == range).count()
    }

    /// The peer's OPEN says which AS it is in; of a range it may be one of several. Only while nothing that was learned
    /// from the peer depends on it.
    pub(super) fn take_as(&mut self, slot: PeerSlot, open: &Open) -> Result<(), Notification> {
        let Some(peer) = self.peer_at(slot) else { return Ok(()) };
        let Some(of_range) = peer.of_range.filter(|of_range| !of_range.as_known) else { return Ok(()) };
        let bad_peer_as = || Notification::new(2, 2, &[]);
        let remote_as = open.as_number().and_then(Asn::new).ok_or_else(bad_peer_as)?;
        let range = range_of(&self.config, peer.config.address).ok_or_else(bad_peer_as)?;
        if !range.allows(remote_as, &self.config) {
            return Err(bad_peer_as());
        }
        let known = PeerConfig { remote_as, ..peer.config.clone() };
        let ours = Ours::new(&self.config, &known);
        let Some(peer) = self.peer_at_mut(slot) else { return Ok(()) };
        peer.of_range = Some(OfRange { as_known: true, ..of_range });
        (peer.config, peer.ours) = (known, ours);
        let kind = kind_of(peer);
        self.rib.set_kind(slot, kind);
        self.judge_imports(slot);
        Ok(())
    }

    /// A peer of a range may have lost its last connection, its last stale route or its back-off.
    pub(super) fn may_be_forgotten(&mut self, slot: PeerSlot) {
        if self.peer_at(slot).is_some_and(|peer| peer.of_range.is_some()) {
            self.forgettable.push(slot);
        }
    }

    pub(super) fn forget_dynamic_peers(&mut self, now: Time) {
        // Our own end takes nothing from the dataplane, which goes on without us.
        if self.shutting_down {
            return;
        }
        for slot in std::mem::take(&mut self.forgettable) {
            let Some(peer) = self.peer_at(slot).filter(|peer| peer.of_range.is_some()) else { continue };
            let waits = peer.held_back || peer.disabled || peer.stale.iter().any(|&stale| stale);
            if !waits && peer.connections().next().is_none() {
                let key = peer.config.key();
                self.remove_peer(key, Cause::Forgotten, now);
            }
        }
    }

    /// Adds to a new configuration's peers those of ranges that are there and that it still has a place for.
    pub(super) fn keep_dynamic_peers(&mut self, wanted: &mut BTreeMap<PeerKey, PeerConfig>) {
        let mut kept = Vec::new();
        for peer in self.peers.iter().flatten() {
            let Some(of_range) = peer.of_range else { continue };
            let address = peer.config.address;
            let configured = PeerKey { address, port: 0 }..=PeerKey { address, port: u16::MAX };
            if wanted.range(configured).next().is_some() {
                kept.push((peer.slot, None));
                continue;
            }
            let Some(range) = range_of(&self.config, address) else { continue };
            let known = Some((peer.config.remote_as, true)).filter(|_| of_range.as_known);
            let known = known.filter(|(remote_as, _)| range.allows(*remote_as, &self.config));
            let presumed = range.presumed_as().filter(|_| !of_range.as_known);
            if let Some((remote_as, as_known)) = known.or(presumed) {
                let of_range = OfRange { range: range.range, as_known };
                kept.push((peer.slot, Some((of_range, range.peer(address, remote_as)))));
            }
        }
        for (slot, of_range) in kept {
            let Some(peer) = self.peer_at_mut(slot) else { continue };
            peer.of_range = of_range.as_ref().map(|(of_range, _)| *of_range);
            if let Some((_, config)) = of_range {
                wanted.insert(config.key(), config);
            }
        }
    }
}
