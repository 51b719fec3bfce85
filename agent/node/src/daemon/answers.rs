//! The local API's answers, made from what the speaker, the table and the sinks say of themselves.

use std::{collections::BTreeMap, net::IpAddr};

use manx_api as api;
use manx_bgp::{Family, PeerKey, Speaker, view};
use manx_net::Prefix;
use manx_resources::{PeerKind, PeerPlan};
use serde::Serialize;

use super::Daemon;
use crate::{
    api::{Answer, Question, Subject},
    clock::Clock,
    metrics::Raw,
};

/// Remarks about resources in a status: a store may be full of documents that are not ours.
const REMARKS: usize = 10;

impl Daemon {
    pub(super) fn answer(&mut self, question: Question) {
        let (subject, answer_to) = match question {
            Question::Whole { subject, answer } => (subject, answer),
            Question::Piece(piece) => return self.answer_piece(piece),
            Question::Ready(answer) => return drop(answer.send(self.readiness())),
            Question::Metrics(answer) => return drop(answer.send(Box::new(self.metrics()))),
        };
        let answer = match subject {
            Subject::Status => json(&self.status()),
            Subject::Plan => match &self.plan {
                Some(plan) => json(plan),
                None => Answer::Unavailable(self.no_plan()),
            },
            Subject::Explain(found) => self.explain(*found),
            Subject::Longest(address) => Answer::Longest(self.longest(address)),
            Subject::History(peer) => json(&self.history_of(peer)),
            Subject::Peer(address, order) => self.carry_out(address, order),
            Subject::Drain(order) => self.drain(order),
            Subject::Blackholes(found) => json(&self.blackholes(found)),
            Subject::AddBlackholes(order, user_id) => self.add_blackholes(&order, user_id),
            Subject::DeleteBlackholes(prefixes, user_id) => self.delete_blackholes(&prefixes, user_id),
            Subject::Dataplane => json(&self.dataplane_status()),
            Subject::Counters => match self.counters() {
                Ok(counters) => json(&counters),
                Err(why) => Answer::Unavailable(why),
            },
        };
        // Whoever asked may have gone meanwhile.
        let _ = answer_to.send(answer);
    }

    fn metrics(&self) -> Raw {
        Raw {
            status: self.status(),
            dataplane: self.dataplane_status(),
            counters: self.counters().ok(),
            fib: self.dataplane.fib_status(),
            ready: self.readiness().ready,
            notifications: self.notifications.clone(),
            convergence: self.convergence.histogram.clone(),
        }
    }

    pub(super) fn no_plan(&self) -> String {
        let why = self.problems.first().map_or("resources have not been read yet", String::as_str);
        format!("there is no plan: {why}")
    }

    fn status(&self) -> api::NodeStatus {
        let plan = self.plan.as_ref();
        let views = self.peer_views();
        let peers = plan
            .iter()
            .flat_map(|plan| &plan.peers)
            .filter_map(|peer| {
                if let Some(why) = self.protection.why_closed(peer) {
                    return Some(self.closed(peer, why));
                }
                let key = PeerKey { address: peer.address, port: peer.port };
                Some(self.peer_status(peer, views.get(&key)?))
            })
            .chain(self.peers_of_ranges(&views))
            .collect();
        api::NodeStatus {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            started_at: self.clock.started_at(),
            as_number: plan.map(|plan| plan.as_number),
            router_id: plan.map(|plan| plan.router_id),
            cluster_id: plan.and_then(|plan| plan.cluster_id),
            restarting: self.speaker.is_some() && !self.settled,
            datastore: api::DatastoreStatus {
                location: self.args.datastore.clone(),
                loaded_at: self.loaded_at.clone(),
                kept_at: self.kept_at.as_deref().map(str::to_owned),
                problems: self.problems.clone(),
            },
            fast_path: self.fast_path.state(),
            peers,
            ranges: self.ranges(&views),
            partings: self.partings(),
            leftovers: self.leftovers.status(),
            bfd_pid: self.bfd.pid(),
            warnings: self.warnings(),
        }
    }

    pub(super) fn peer_views(&self) -> BTreeMap<PeerKey, view::PeerView> {
        let peers = self.speaker.iter().flat_map(Speaker::peers);
        peers.map(|peer| (PeerKey { address: peer.address, port: peer.port }, peer)).collect()
    }

    /// Those whom no resource names.
    fn peers_of_ranges(&self, views: &BTreeMap<PeerKey, view::PeerView>) -> Vec<api::PeerStatus> {
        let ranges = self.plan.iter().flat_map(|plan| &plan.ranges);
        let of = |range: Prefix| ranges.clone().find(|known| known.range == range);
        let dynamic = views.values().filter_map(|view| Some((of(view.range?)?, view)));
        dynamic.map(|(range, view)| self.peer_status(&range.settings, view)).collect()
    }

    fn ranges(&self, views: &BTreeMap<PeerKey, view::PeerView>) -> Vec<api::RangeStatus> {
        let ranges = self.plan.iter().flat_map(|plan| &plan.ranges);
        ranges
            .map(|range| api::RangeStatus {
                range: range.range,
                resource: range.settings.resource.to_string(),
                peers: views.values().filter(|view| view.range == Some(range.range)).count() as u64,
                limit: range.limit,
                info: self.protection.why_range_closed(range).unwrap_or_default().to_owned(),
            })
            .collect()
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        warnings.extend(self.listen_error.clone());
        warnings.extend(self.sockets.refused());
        warnings.extend(self.protection.warnings());
        warnings.extend(self.protection.dropped());
        if self.plan.is_none() && self.restarting {
            warnings.push("there is no plan; the routes of the earlier run stay as they are".into());
        }
        warnings.extend(self.blackholes.warnings().cloned());
        warnings.extend(self.sink_alarms());
        if let Some(speaker) = &self.speaker {
            warnings.extend(self.alarms.standing(speaker, &self.clock, self.clock.now()));
        }
        if self.plan.as_ref().is_some_and(|plan| plan.speaker.graceful_shutdown) {
            warnings.push(
                "this node asks everybody to go another way (manx.dev/gracefulShutdown on its Node)".into(),
            );
        }
        warnings.extend(self.drain_warning());
        warnings.extend(self.bfd_warning());
        warnings.extend(self.beside.iter().cloned());
        warnings.extend(self.workloads_said.iter().cloned());
        warnings.extend(self.adopted_again.clone());
        warnings.extend(self.host.iter().cloned());
        warnings.extend(self.plan.iter().flat_map(|plan| &plan.warnings).map(ToString::to_string));
        warnings.extend(self.remarks.iter().take(REMARKS).cloned());
        if self.remarks.len() > REMARKS {
            let more = self.remarks.len() - REMARKS;
            warnings.push(format!("and {more} more remarks about resources; the log has them all"));
        }
        warnings
    }

    /// A peer of the plan with whom no session is opened.
    fn closed(&self, plan: &PeerPlan, why: &str) -> api::PeerStatus {
        api::PeerStatus {
            address: plan.address,
            port: plan.port,
            as_number: plan.as_number,
            kind: kind(plan.kind),
            resource: plan.resource.to_string(),
            node: self.node_at(plan.address),
            range: None,
            rr_client: plan.rr_client,
            state: api::SessionState::Idle,
            since: self.clock.started_at(),
            info: why.into(),
            why_down: Some(self.why_down(plan, None)),
            bfd: self.bfd.status_of(plan),
            times_established: 0,
            connection: None,
            add_path: Vec::new(),
            stale: false,
            prefixes_received: 0,
            prefixes_accepted: 0,
            prefixes_sent: 0,
            messages_received: 0,
            messages_sent: 0,
            updates_received: 0,
            updates_sent: 0,
            treated_as_withdraw: 0,
            attributes_discarded: 0,
            last_notification_sent: None,
            last_notification_received: None,
        }
    }

    fn peer_status(&self, plan: &PeerPlan, peer: &view::PeerView) -> api::PeerStatus {
        let established = peer.state == view::SessionState::Established;
        api::PeerStatus {
            address: peer.address,
            port: peer.port,
            as_number: peer.remote_as,
            kind: kind(plan.kind),
            resource: plan.resource.to_string(),
            node: self.node_at(peer.address),
            range: peer.range,
            rr_client: peer.rr_client,
            state: state(peer.state),
            since: self.clock.rfc3339(peer.session_since),
            info: match &peer.last_error {
                _ if established => String::new(),
                Some(error) if peer.stale_until.is_some() => format!("{error}; its routes are kept"),
                Some(error) => error.clone(),
                None => String::new(),
            },
            why_down: (!established).then(|| self.why_down(plan, Some(peer))),
            bfd: self.bfd.status_of(plan),
            times_established: peer.established_count,
            connection: match (peer.local, peer.remote, peer.dialled_by) {
                (Some(local), Some(remote), Some(direction)) => {
                    Some(api::Connection { local, remote, dialled_by: dialler(direction) })
                }
                _ => None,
            },
            add_path: peer.negotiated.as_ref().map(add_path).unwrap_or_default(),
            stale: peer.stale_until.is_some(),
            prefixes_received: peer.counters.prefixes_received,
            prefixes_accepted: peer.counters.prefixes_accepted,
            prefixes_sent: peer.counters.prefixes_sent,
            messages_received: peer.counters.messages_received,
            messages_sent: peer.counters.messages_sent,
            updates_received: peer.counters.updates_received,
            updates_sent: peer.counters.updates_sent,
            treated_as_withdraw: peer.counters.treated_as_withdraw,
            attributes_discarded: peer.counters.attributes_discarded,
            last_notification_sent: peer.notification_sent.as_ref().map(|n| notification(n, &self.clock)),
            last_notification_received: peer
                .notification_received
                .as_ref()
                .map(|n| notification(n, &self.clock)),
        }
    }

    /// The name of the Node resource with this address.
    pub(super) fn node_at(&self, address: IpAddr) -> Option<String> {
        self.snapshot
            .nodes()
            .find(|node| {
                node.spec.bgp.as_ref().is_some_and(|bgp| {
                    bgp.ipv4.is_some_and(|own| IpAddr::V4(own.addr) == address)
                        || bgp.ipv6.is_some_and(|own| IpAddr::V6(own.addr) == address)
                })
            })
            .map(|node| node.name().to_owned())
    }
}

pub(super) fn state(state: view::SessionState) -> api::SessionState {
    match state {
        view::SessionState::Idle => api::SessionState::Idle,
        view::SessionState::Connect => api::SessionState::Connect,
        view::SessionState::Active => api::SessionState::Active,
        view::SessionState::OpenSent => api::SessionState::OpenSent,
        view::SessionState::OpenConfirm => api::SessionState::OpenConfirm,
        view::SessionState::Established => api::SessionState::Established,
    }
}

pub(super) fn notification(n: &view::NotificationView, clock: &Clock) -> api::NotificationStatus {
    api::NotificationStatus {
        at: clock.rfc3339(n.at),
        code: n.code,
        subcode: n.subcode,
        name: n.name.clone(),
        text: n.text.clone(),
        why: n.why.clone(),
    }
}

pub(super) fn dialler(direction: view::Direction) -> api::Dialler {
    match direction {
        view::Direction::Us => api::Dialler::Local,
        view::Direction::Peer => api::Dialler::Remote,
    }
}

pub(super) fn kind(kind: PeerKind) -> api::PeerKind {
    match kind {
        PeerKind::Mesh => api::PeerKind::Mesh,
        PeerKind::Global => api::PeerKind::Global,
        PeerKind::Node => api::PeerKind::Node,
        PeerKind::LocalWorkload => api::PeerKind::LocalWorkload,
    }
}

pub(super) fn json(body: &impl Serialize) -> Answer {
    match serde_json::to_vec(body) {
        Ok(body) => Answer::Json(body),
        Err(error) => Answer::Unavailable(format!("the answer cannot be written as JSON: {error}")),
    }
}

/// A peer may offer it for one of the session's families only.
fn add_path(negotiated: &view::NegotiatedView) -> Vec<api::AddPath> {
    let each = negotiated.add_path.iter().map(|agreed| api::AddPath {
        family: match agreed.family {
            Family::Ipv4Unicast => api::Family::Ipv4Unicast,
            Family::Ipv6Unicast => api::Family::Ipv6Unicast,
        },
        send: agreed.send,
        receive: agreed.receive,
    });
    each.collect()
}
