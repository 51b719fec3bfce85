//! What protects the sessions of a plan: each peer's password and minimum TTL, and which peers have no session because
//! they could not be protected as their resource asks.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU8, path::Path};

use manx_bgp::PeerKey;
use manx_net::Prefix;
use manx_resources::{NodePlan, PeerPlan, RangePlan, SecretKey, Snapshot};
use manx_transport::{Guard, Guards, min_ttl_of};

use crate::{netstat::Dropped, secrets::Secrets};

#[derive(Debug)]
pub struct Protection {
    secrets: Secrets,
    guards: Guards,
    /// What [`manx_bgp::PeerConfig::transport`] is to be.
    transports: BTreeMap<PeerKey, u64>,
    dropped: Dropped,
    /// Why no session is opened.
    closed: BTreeMap<PeerKey, String>,
    /// The same for ranges.
    ranges: BTreeMap<Prefix, Result<u64, String>>,
}

impl Protection {
    pub fn new(secrets: &Path) -> Protection {
        Protection {
            secrets: Secrets::new(secrets),
            guards: Guards::default(),
            transports: BTreeMap::new(),
            dropped: Dropped::from_now(),
            closed: BTreeMap::new(),
            ranges: BTreeMap::new(),
        }
    }

    /// Reads the secrets that the plan names. True: something is other than before.
    pub fn read_secrets(&mut self, plan: &NodePlan, snapshot: &Snapshot) -> bool {
        self.secrets.read(snapshot, plan.every_peer().filter_map(|peer| peer.password_from.as_ref()))
    }

    /// Works out who is protected how, from the secrets as they were read last. Returns the peers that have no session
    /// for it, with the reason, as far as that is new.
    pub fn follow<'p>(&mut self, plan: &'p NodePlan) -> Vec<(&'p PeerPlan, String)> {
        self.guards = Guards::default();
        self.transports.clear();
        let said = std::mem::take(&mut self.closed);
        for peer in &plan.peers {
            let key = key_of(peer);
            match self.guard(peer.password_from.as_ref(), peer.ttl_security) {
                Ok((guard, transport)) => {
                    let prefix = Prefix::host(peer.address);
                    self.guards.insert(prefix, guard.clone());
                    // The kernel knows peers by address.
                    if self.guards.of(peer.address) == guard {
                        self.transports.insert(key, transport);
                    } else {
                        let why =
                            "not opened: another peer with its address has another password or ttlSecurity";
                        self.closed.insert(key, why.into());
                    }
                }
                Err(why) => {
                    self.closed.insert(key, why);
                }
            }
        }
        let ranges_said = std::mem::take(&mut self.ranges);
        for range in &plan.ranges {
            let guard = self.guard(range.settings.password_from.as_ref(), range.settings.ttl_security);
            let transport = guard.map(|(guard, transport)| {
                self.guards.insert(range.range, guard);
                transport
            });
            self.ranges.insert(range.range, transport);
        }
        let closed =
            plan.peers.iter().filter_map(|peer| Some((peer.as_ref(), self.why_closed(peer)?.to_owned())));
        let mut news: Vec<(&PeerPlan, String)> =
            closed.filter(|(peer, why)| said.get(&key_of(peer)) != Some(why)).collect();
        for range in &plan.ranges {
            let now = self.ranges.get(&range.range);
            if let Some(Err(why)) = now.filter(|now| ranges_said.get(&range.range) != Some(now)) {
                news.push((&range.settings, why.clone()));
            }
        }
        news
    }

    fn guard(&self, password: Option<&SecretKey>, hops: Option<u8>) -> Result<(Guard, u64), String> {
        let min_ttl = hops.and_then(NonZeroU8::new).map(min_ttl_of);
        let reading = password
            .map(|key| self.secrets.get(key))
            .transpose()
            .map_err(|problem| format!("not opened: its password is missing: {problem}"))?;
        let guard = Guard { password: reading.map(|reading| reading.password.clone()), min_ttl };
        let revision = reading.map_or(0, |reading| reading.revision);
        Ok((guard, revision << 8 | u64::from(min_ttl.map_or(0, NonZeroU8::get))))
    }

    pub fn guards(&self) -> &Guards {
        &self.guards
    }

    /// What stands for the peer's protection in the speaker's configuration; `None`: it has no session.
    pub fn transport_of(&self, peer: &PeerPlan) -> Option<u64> {
        self.transports.get(&key_of(peer)).copied()
    }

    pub fn transport_of_range(&self, range: &RangePlan) -> Option<u64> {
        self.ranges.get(&range.range)?.as_ref().ok().copied()
    }

    pub fn why_range_closed(&self, range: &RangePlan) -> Option<&str> {
        self.ranges.get(&range.range)?.as_ref().err().map(String::as_str)
    }

    pub fn why_closed(&self, peer: &PeerPlan) -> Option<&str> {
        self.closed.get(&key_of(peer)).map(String::as_str)
    }

    /// Why nobody with this address may connect.
    pub fn is_closed_to(&self, address: IpAddr) -> Option<&str> {
        let ports = PeerKey { address, port: 0 }..=PeerKey { address, port: u16::MAX };
        if self.transports.range(ports.clone()).next().is_some() {
            return None;
        }
        if let Some((_, why)) = self.closed.range(ports).next() {
            return Some(why);
        }
        let ranges = self.ranges.iter().filter(|(range, _)| range.contains(address));
        ranges.max_by_key(|(range, _)| range.len())?.1.as_ref().err().map(String::as_str)
    }

    /// Secrets that cannot be read any more.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.secrets.outlived().into_iter()
    }

    /// What the kernel has dropped for somebody's protection, where somebody is protected.
    pub fn dropped(&self) -> Vec<String> {
        let of_ranges = self.ranges.values().filter_map(|transport| transport.as_ref().ok());
        if self.transports.values().chain(of_ranges).all(|transport| *transport == 0) {
            Vec::new()
        } else {
            self.dropped.since()
        }
    }
}

fn key_of(peer: &PeerPlan) -> PeerKey {
    PeerKey { address: peer.address, port: peer.port }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Node `a` at 10.0.0.1, with these BGPPeers: each its name, annotations and spec.
    fn plan_of(peers: &[(&str, &str, &str)]) -> NodePlan {
        let mut text = String::from(
            "kind: Node\napiVersion: projectcalico.org/v3\nmetadata: {name: a}\n\
             spec: {bgp: {ipv4Address: 10.0.0.1/24}}\n",
        );
        for (name, annotations, spec) in peers {
            text.push_str(&format!(
                "---\nkind: BGPPeer\napiVersion: projectcalico.org/v3\n\
                 metadata: {{name: {name}, annotations: {{{annotations}}}}}\nspec: {{asNumber: 64512, {spec}}}\n"
            ));
        }
        let collected = manx_resources::collect([("f", text.as_str())]);
        assert!(collected.problems.is_empty(), "{:?}", collected.problems);
        manx_resources::plan(&collected.snapshot, "a").unwrap()
    }

    const SIGNED: &str = "password: {secretKeyRef: {name: s, key: k}}";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_closed_range_does_not_fall_to_a_wider_one_and_an_open_peer_inside_it_is_let_in() {
        let plan = plan_of(&[
            ("wide", "manx.dev/peerRange: 10.0.0.0/16", ""),
            ("narrow", "manx.dev/peerRange: 10.0.7.0/24", SIGNED),
            ("open", "", "peerIP: 10.0.7.7"),
            ("closed", "", &format!("peerIP: 10.0.8.8, {SIGNED}")),
        ]);
        let directory = tempfile::tempdir().unwrap();
        let mut protection = Protection::new(directory.path());
        protection.read_secrets(&plan, &Snapshot::default());
        let news = protection.follow(&plan);
        let named: Vec<String> = news.iter().map(|(peer, _)| peer.resource.to_string()).collect();
        assert_eq!(named, ["BGPPeer/closed", "BGPPeer/narrow"]);
        assert!(protection.follow(&plan).is_empty(), "the same is no news");
        for (address, closed) in [
            ("10.0.1.1", false),
            ("10.0.7.1", true),
            ("10.0.7.7", false),
            ("10.0.8.8", true),
            ("10.9.9.9", false),
        ] {
            assert_eq!(protection.is_closed_to(ip(address)).is_some(), closed, "{address}");
        }
        fs::create_dir(directory.path().join("s")).unwrap();
        fs::write(directory.path().join("s/k"), "password").unwrap();
        assert!(protection.read_secrets(&plan, &Snapshot::default()));
        assert!(protection.follow(&plan).is_empty());
        assert!(protection.is_closed_to(ip("10.0.7.1")).is_none());
        let guards = protection.guards();
        assert!(guards.of(ip("10.0.7.1")).password.is_some());
        assert!(guards.of(ip("10.0.7.7")).password.is_none());
        assert!(guards.of(ip("10.0.1.1")).password.is_none());
    }

    #[test]
    fn a_peers_number_changes_with_what_protects_it_and_with_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("s")).unwrap();
        fs::write(directory.path().join("s/k"), "password").unwrap();
        let mut protection = Protection::new(directory.path());
        let mut number = |peers: &[(&str, &str, &str)]| {
            let plan = plan_of(peers);
            protection.read_secrets(&plan, &Snapshot::default());
            protection.follow(&plan);
            let peer = plan.peers.iter().find(|peer| peer.address == ip("10.0.0.2")).unwrap();
            protection.transport_of(peer).unwrap()
        };
        let plain = number(&[("p", "", "peerIP: 10.0.0.2")]);
        let near = number(&[("p", "", "peerIP: 10.0.0.2, ttlSecurity: 1")]);
        let signed = number(&[("p", "", &format!("peerIP: 10.0.0.2, {SIGNED}"))]);
        let both = number(&[("p", "", &format!("peerIP: 10.0.0.2, ttlSecurity: 1, {SIGNED}"))]);
        let other = format!("peerIP: 10.0.0.3, {SIGNED}");
        assert_eq!(number(&[("p", "", &format!("peerIP: 10.0.0.2, {SIGNED}")), ("q", "", &other)]), signed);
        let all = [plain, near, signed, both];
        assert_eq!(plain, 0);
        assert!((0..4).all(|a| (0..a).all(|b| all[a] != all[b])), "{all:?}");
    }

    #[test]
    fn two_peers_of_one_address_that_want_different_protection_are_not_both_opened() {
        let plan = plan_of(&[
            ("p", "", "peerIP: '10.0.0.2:179'"),
            ("q", "", "peerIP: '10.0.0.2:1790', ttlSecurity: 1"),
        ]);
        let mut protection = Protection::new(Path::new("/nonexistent"));
        let news = protection.follow(&plan);
        assert_eq!(news.len(), 1);
        assert!(protection.why_closed(&plan.peers[1]).unwrap().contains("another peer with its address"));
        assert!(protection.is_closed_to(ip("10.0.0.2")).is_none());
    }
}
