//! Why: the paths of a prefix and the fate of each, and what became of sessions. The decisions are the speaker's own,
//! taken when they were taken; nothing is computed here a second time.

use std::net::IpAddr;

use manx_api as api;
use manx_bgp::{
    PathSource,
    policy::priority_of_local_pref,
    view::{Export, LostAt, PathView, PrefixView, RefusedBy, SentPathView, SentView, Standing},
};
use manx_net::Prefix;

use super::{Daemon, answers};
use crate::{api::Answer, gather::Found};

impl Daemon {
    pub(super) fn explain(&self, found: Found) -> Answer {
        let prefix = found.prefix;
        let view = self.speaker.as_ref().and_then(|speaker| speaker.explain(prefix));
        let row = self.row(found, &self.interface_names());
        let is_there = row.bgp.is_some() || row.wanted.is_some() || row.fib.is_some() || row.map.is_some();
        let route = is_there.then_some(row);
        if view.is_none() && route.is_none() {
            return Answer::Unknown(format!(
                "nobody has announced {prefix}, and this node has no route of its own for it"
            ));
        }
        let (paths, sent) = match view {
            Some(PrefixView { paths, sent, .. }) => (
                paths.into_iter().map(|path| self.path_row(path)).collect(),
                sent.iter().map(sent_row).collect(),
            ),
            None => (Vec::new(), Vec::new()),
        };
        answers::json(&api::Explanation { node: self.node.clone(), prefix, paths, sent, route })
    }

    /// The longest prefix that this node knows and that covers the address.
    pub(super) fn longest(&self, address: IpAddr) -> Option<Prefix> {
        let lengths = (0..=Prefix::host(address).len()).rev();
        lengths.filter_map(|len| Prefix::new(address, len)).find(|prefix| {
            self.dataplane.map_route(*prefix).is_some()
                || self.speaker.as_ref().is_some_and(|speaker| speaker.explain(*prefix).is_some())
        })
    }

    pub(super) fn history_of(&mut self, peer: Option<IpAddr>) -> api::History {
        self.history.settle();
        let of_peer = |event: &&api::HistoryEvent| {
            peer.is_none_or(|peer| event.what.peer().is_some_and(|(address, _)| address == peer))
        };
        let events = self.history.events().into_iter().filter(of_peer).cloned().collect();
        api::History { node: self.node.clone(), events, forgotten: self.history.forgotten }
    }

    fn path_row(&self, path: PathView) -> api::PathRow {
        let why = path.next_hop.filter(|_| path.standing == Standing::Unreachable);
        let why = why.and_then(|next_hop| self.why_unreachable(next_hop));
        path_row(path, why)
    }
}

/// `unreachable`: what the kernel says against its next hop.
fn path_row(path: PathView, unreachable: Option<String>) -> api::PathRow {
    let attributes = path.attributes;
    api::PathRow {
        from: address_of(path.source),
        best: path.standing == Standing::Best,
        used: matches!(path.standing, Standing::Best | Standing::Multipath),
        path_id: path.path_id,
        standing: match unreachable {
            Some(why) => format!("{}: {why}", standing(path.standing)),
            None => standing(path.standing),
        },
        rule: path.rule.map(|rule| rule.to_string()),
        stale: path.stale,
        next_hop: path.next_hop.map(|hop| hop.address),
        metric: path.metric,
        origin: attributes.origin.to_owned(),
        as_path: attributes.as_path,
        med: attributes.med,
        local_pref: attributes.local_pref,
        priority: attributes.local_pref.and_then(priority_of_local_pref),
        communities: attributes.communities,
        large_communities: attributes.large_communities,
        extended_communities: attributes.extended_communities,
        originator_id: attributes.originator_id,
        cluster_list: attributes.cluster_list,
        only_to_customers: attributes.only_to_customers,
    }
}

fn standing(standing: Standing) -> String {
    match standing {
        Standing::Best => "best".into(),
        Standing::Multipath => "used beside the best, for it is as good".into(),
        Standing::Lost(step) => format!("lost: {}", lost_at(step)),
        Standing::Refused(by) => format!("refused: {}", refused_by(by)),
        Standing::Unreachable => "not considered: its next hop cannot be reached".into(),
        Standing::Deferred => "waiting: the speaker restarts and has not heard all peers".into(),
    }
}

fn lost_at(step: LostAt) -> &'static str {
    match step {
        LostAt::Own => "this node owns the prefix",
        LostAt::LongLivedStale => "kept long after its peer was lost (LLGR_STALE), and so the last resort",
        LostAt::LocalPref => "lower LOCAL_PREF",
        LostAt::AsPathLength => "longer AS_PATH",
        LostAt::Origin => "worse ORIGIN",
        LostAt::Med => "higher MED",
        LostAt::EbgpOverIbgp => "internal, and the best is external",
        LostAt::IgpMetric => "its next hop is farther",
        LostAt::RouterId => "higher router id (or ORIGINATOR_ID)",
        LostAt::ClusterListLength => "longer CLUSTER_LIST",
        LostAt::PeerAddress => "higher peer address",
        LostAt::PathId => "higher path id of the same peer",
    }
}

fn refused_by(by: RefusedBy) -> &'static str {
    match by {
        RefusedBy::AsLoop => "our AS is in its AS_PATH",
        RefusedBy::OriginatorIsUs => "we brought it into the AS (ORIGINATOR_ID)",
        RefusedBy::ClusterLoop => "it has passed our cluster already (CLUSTER_LIST)",
        RefusedBy::InvalidNextHop => "its next hop is no address to forward to, or our own",
        RefusedBy::RouteLeak => "a route leak: it was to go to customers only (OTC, RFC 9234)",
        RefusedBy::InvalidPrefix => "no route can lead to this prefix, or it is an address of our own",
        RefusedBy::Filter => "by a filter",
    }
}

fn sent_row(sent: &SentView) -> api::SentRow {
    api::SentRow {
        peer: sent.peer.address,
        port: sent.peer.port,
        sent: sent.export == Export::Sent,
        why: match &sent.rule {
            Some(rule) if sent.export == Export::Filter => format!("refused by {rule}"),
            _ => export(sent.export).into(),
        },
        paths: sent.paths.iter().map(sent_path_row).collect(),
    }
}

fn sent_path_row(path: &SentPathView) -> api::SentPathRow {
    api::SentPathRow {
        path_id: path.path_id,
        from: address_of(path.source),
        received_id: path.received_id,
        sent: path.export == Export::Sent,
        why: match &path.rule {
            Some(rule) if path.export == Export::Filter => format!("refused by {rule}"),
            _ => export(path.export).into(),
        },
    }
}

/// `None` is this node.
fn address_of(source: PathSource) -> Option<IpAddr> {
    match source {
        PathSource::Own => None,
        PathSource::Peer(peer) => Some(peer.address),
    }
}

fn export(export: Export) -> &'static str {
    match export {
        Export::Sent => "sent",
        Export::Queued => "queued: the peer has not taken it yet",
        Export::NoRoute => "there is no best path",
        Export::NotAmongBest => "as many better paths as the peer is to have go there",
        Export::FromThisPeer => "it came from there",
        Export::NotReflected => "internal to internal, and neither side is a reflector client",
        Export::ClientToClient => "both are clients of one cluster, and clientToClient is off",
        Export::InsideOwnBlock => "it lies inside a block of our own",
        Export::PoolNotExported => "its pool has disableBGPExport",
        Export::NoTransit => "it lies in no pool, and nobody becomes transit by accident",
        Export::NoAdvertise => "community NO_ADVERTISE",
        Export::NoExport => "community NO_EXPORT, and the peer is another AS",
        Export::Filter => "by a filter",
        Export::LongLivedStale => "kept long after its peer was lost, and this peer does not speak RFC 9494",
        Export::OnlyToCustomers => "it is to go to customers only (OTC, RFC 9234), and the peer is none",
        Export::NextHopFamily => {
            "its next hop is an IPv6 address, and the peer has not agreed to that for IPv4 (RFC 8950)"
        }
        Export::NoNextHop => "we have no address of this family to announce as next hop",
        Export::TooLong => "its attributes do not fit into one message",
    }
}
