//! What the speaker asks of the daemon, carried out: bytes to sockets, best paths to the table, next hops to whoever
//! resolves them, and back.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Instant};

use manx_bgp::{
    BestPath, Config, Event as SpeakerEvent, NextHop, Output, PathSource, SessionEvent, Speaker,
    policy::priority_of_local_pref,
    view::{Cause, SessionState},
};
use manx_dataplane::{
    Dataplane,
    resolve::{Gateway, Resolution},
};
use manx_net::Prefix;

use super::{Daemon, PATHS_AT_ONCE, changes, wiring};
use crate::metrics::Said;

impl Daemon {
    /// Until there are none, or there are best paths enough for one step of the dataplane.
    pub(super) fn drain_outputs(&mut self) {
        let mut heard = Vec::new();
        while self.take_outputs(&mut heard) {
            self.settle();
        }
        if !heard.is_empty() && self.bfd.has_dead() {
            self.revive(|address| heard.contains(&address));
            self.drain_outputs();
        }
    }

    /// True: the peers have said what they know, and there may be more outputs.
    /// `heard`: whose sessions have come up.
    fn take_outputs(&mut self, heard: &mut Vec<IpAddr>) -> bool {
        let Some(speaker) = &mut self.speaker else { return false };
        let now = self.clock.now();
        while self.paths < PATHS_AT_ONCE
            && let Some(output) = speaker.poll_output()
        {
            match output {
                Output::Dial { conn, from, to, .. } => self.sockets.dial(conn, from, to),
                Output::Transmit { conn } => self.sockets.transmit(conn),
                Output::Close { conn } => self.sockets.close(conn, speaker, now),
                Output::Best { prefix, best, cause } => {
                    self.paths += 1;
                    if !self.convergence.is_under_way() {
                        self.convergence.begin(Instant::now());
                    }
                    self.history.path(prefix, best.as_ref(), cause);
                    let wish = best.as_ref().filter(|best| best.blackhole);
                    self.dataplane.set_blackhole(prefix, wish.is_some());
                    // At a start the blackhole may be an earlier run's, whose count goes on.
                    let sink = self.fast_path.sink().filter(|_| self.settled);
                    let counted = || sink?.prefix_count(prefix).ok()?;
                    self.blackholes.take_wish(prefix, wish.and_then(|best| peer_of(best.source)), counted);
                    let priority = best.as_ref().and_then(|best| moving(speaker.config(), prefix, best));
                    self.dataplane.set_priority(prefix, priority);
                    let gateways = match best {
                        // Own blocks are in the table by the plan, and a blackhole leads nowhere.
                        Some(best) if best.source != PathSource::Own && !best.blackhole => {
                            best.next_hops.iter().filter_map(|hop| self.next_hops.get(hop).copied()).collect()
                        }
                        _ => Vec::new(),
                    };
                    self.leftovers.claimed(prefix);
                    self.dataplane.set_path(prefix, gateways);
                }
                Output::Settled => return true,
                Output::Session(event) => {
                    if event.to == SessionState::Established {
                        heard.push(event.peer.address);
                    }
                    self.sessions_said.say(&event);
                    note_notifications(&mut self.notifications, &event);
                    self.history.session(&event);
                }
                Output::Parting(event) => {
                    let (text, grave) = changes::text(&event, self.changes.node_at(event.peer.address));
                    match grave {
                        true => tracing::warn!(peer = %event.peer, "{text}"),
                        false => tracing::info!(peer = %event.peer, "{text}"),
                    }
                    self.history.parting(event.at, event.peer, text);
                }
                Output::Warning(warning) => {
                    tracing::warn!(peer = %warning.peer, "{}", warning.about);
                    self.alarms.take(&warning);
                    let state = speaker.peer(warning.peer).map(|peer| peer.state);
                    self.history.warned(&warning, state);
                }
                Output::Watch { next_hop } => {
                    let gateway = gateway(speaker, next_hop);
                    self.next_hops.insert(next_hop, gateway);
                    let resolution = self.dataplane.watch(gateway);
                    let metric = metric_of(&resolution).filter(|_| !self.bfd.is_dead(next_hop));
                    let interface = interface_of(&self.dataplane, &resolution);
                    if let Resolution::Unreachable(why) = &resolution {
                        let said = format!("cannot be reached: {why}");
                        tracing::warn!(next_hop = %next_hop.address, "next hop {said}");
                        self.history.next_hop(next_hop.address, false, said);
                    }
                    speaker.handle(SpeakerEvent::Interface { next_hop, interface }, now);
                    speaker.handle(SpeakerEvent::NextHop { next_hop, metric }, now);
                }
                Output::Unwatch { next_hop } => {
                    if let Some(gateway) = self.next_hops.remove(&next_hop)
                        && !self.next_hops.values().any(|other| *other == gateway)
                    {
                        self.dataplane.unwatch(gateway);
                    }
                }
            }
        }
        false
    }

    /// What an earlier run left and nobody has claimed goes.
    fn settle(&mut self) {
        self.settled = true;
        if !self.writes() {
            return;
        }
        self.hold_leftovers();
        self.dataplane.finish_startup();
        let desired = self.dataplane.map_routes();
        let links: Vec<_> = self.dataplane.links().cloned().collect();
        self.fast_path.settle(&desired, &links);
    }

    pub(super) fn tell_next_hop(&mut self, gateway: Gateway, resolution: &Resolution) {
        let dead = self.bfd.is_dead_at(gateway.address);
        match resolution {
            Resolution::Reachable { .. } if dead => {
                let said = "its node is dead, says BFD".to_owned();
                tracing::warn!(next_hop = %gateway.address, "next hop: {said}");
                self.history.next_hop(gateway.address, false, said);
            }
            Resolution::Reachable { next_hops, .. } => {
                let name =
                    |ifindex| self.dataplane.links().find(|link| link.ifindex == ifindex).map(|l| &*l.name);
                let ways: Vec<_> = next_hops.iter().map(|hop| name(hop.ifindex).unwrap_or("?")).collect();
                let said = format!("can be reached by {}", ways.join(", "));
                tracing::info!(next_hop = %gateway.address, "next hop {said}");
                self.history.next_hop(gateway.address, true, said);
            }
            Resolution::Unreachable(why) => {
                let said = format!("cannot be reached: {why}");
                tracing::warn!(next_hop = %gateway.address, "next hop {said}");
                self.history.next_hop(gateway.address, false, said);
            }
        }
        let Some(speaker) = &mut self.speaker else { return };
        let now = self.clock.now();
        let metric = metric_of(resolution);
        let interface = interface_of(&self.dataplane, resolution);
        for next_hop in self.next_hops.iter().filter(|(_, known)| **known == gateway).map(|(hop, _)| *hop) {
            let interface = interface.clone();
            speaker.handle(SpeakerEvent::Interface { next_hop, interface }, now);
            let metric = metric.filter(|_| !self.bfd.is_dead(next_hop));
            speaker.handle(SpeakerEvent::NextHop { next_hop, metric }, now);
        }
    }
}

/// Those that ended a connection, by whoever sent them.
fn note_notifications(counted: &mut BTreeMap<Said, (String, u64)>, event: &SessionEvent) {
    let (way, said) = match (&event.cause, &event.sent) {
        (Cause::NotificationReceived(said), _) => ("received", said),
        (Cause::NotificationSent(said), _) | (_, Some(said)) => ("sent", said),
        _ => return,
    };
    let (_, count) = counted.entry((way, said.code, said.subcode)).or_insert_with(|| (said.name.clone(), 0));
    *count += 1;
}

fn peer_of(source: PathSource) -> Option<IpAddr> {
    match source {
        PathSource::Own => None,
        PathSource::Peer(peer) => Some(peer.address),
    }
}

/// The priority of a peer's path that is better than the usual one.
fn moving(config: &Config, prefix: Prefix, best: &BestPath) -> Option<u32> {
    let normal = wiring::normal_priority(config, prefix);
    let of_peer = best.source != PathSource::Own && !best.blackhole;
    priority_of_local_pref(best.local_pref).filter(|priority| of_peer && *priority < normal)
}

fn metric_of(resolution: &Resolution) -> Option<u32> {
    match resolution {
        Resolution::Reachable { metric, .. } => Some(*metric),
        Resolution::Unreachable(_) => None,
    }
}

/// The name of the interface by which a next hop is reached; of several the first one's, as in BIRD.
fn interface_of(dataplane: &Dataplane, resolution: &Resolution) -> Option<Arc<str>> {
    let Resolution::Reachable { next_hops, .. } = resolution else { return None };
    let ifindex = next_hops.first()?.ifindex;
    dataplane.links().find(|link| link.ifindex == ifindex).map(|link| Arc::from(&*link.name))
}

/// A link-local next hop lies on the link of the session that brought it.
fn gateway(speaker: &Speaker, next_hop: NextHop) -> Gateway {
    let ifindex = next_hop
        .link_of
        .and_then(|peer| speaker.peer(peer))
        .and_then(|peer| peer.local)
        .and_then(crate::process::interface_of);
    Gateway { address: next_hop.address, ifindex }
}
