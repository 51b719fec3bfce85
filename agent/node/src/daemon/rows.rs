//! The table as it is told, a row for each prefix: what BGP knows, what is wanted, and what each sink has. Made in
//! pieces, see `gather`.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use manx_api as api;
use manx_bgp::{NextHop, PathSource, view};
use manx_dataplane::{
    ebpf::EbpfSink,
    fib::{FibRoute, FibState},
    kernel::{Leg, RouteKind, TABLE_LOCAL},
    resolve::Resolution,
    route::{Action, BlackholeKind, Route},
};
use manx_net::Prefix;

use super::Daemon;
use crate::gather::{Found, Piece, Sources};

/// Places of the speaker's tables that are looked at in one turn of the loop.
const PLACES: u32 = 4096;
/// Prefixes of the desired table that are told in one turn of the loop.
const PREFIXES: usize = 4096;
/// How long rows of an answer are made in one turn of the loop.
const ROWS_FOR: Duration = Duration::from_millis(2);

impl Daemon {
    /// A piece of a table, in a bounded time.
    pub(super) fn answer_piece(&mut self, piece: Piece) {
        // Whoever asked may have gone meanwhile.
        match piece {
            Piece::Audit(step) => self.answer_audit(step),
            Piece::Traffic(request) => self.answer_traffic(request),
            Piece::Bird(look) => self.look(look),
            Piece::Sources(answer) => drop(answer.send(self.sources())),
            Piece::Bgp { from, answer } => {
                let found = self.speaker.as_ref().map(|speaker| speaker.walk(from, PLACES));
                drop(answer.send(found.unwrap_or_default()));
            }
            Piece::Wanted { after, answer } => {
                drop(answer.send(self.dataplane.prefixes_after(after).take(PREFIXES).collect()));
            }
            Piece::Blackholes { all, answer } => drop(answer.send(self.blackhole_prefixes(all))),
            Piece::Rows { of, answer } => {
                let (names, until) = (self.interface_names(), Instant::now() + ROWS_FOR);
                let mut rows = Vec::new();
                for found in of {
                    rows.push(self.row(found, &names));
                    if Instant::now() >= until {
                        break;
                    }
                }
                drop(answer.send(rows));
            }
        }
    }

    pub(super) fn sources(&self) -> Sources {
        let reader = self.fast_path.sink().map(|sink| sink.reader());
        Sources {
            node: self.node.clone(),
            protocol: self.args.places.protocol,
            table: self.args.table,
            maps: match reader {
                Some(Ok(reader)) => Some(reader),
                Some(Err(error)) => {
                    tracing::warn!("{error}");
                    None
                }
                None => None,
            },
        }
    }

    pub(super) fn row(&self, found: Found, names: &BTreeMap<u32, String>) -> api::RouteRow {
        let Found { prefix, fib, map } = found;
        let wanted = self.dataplane.map_route(prefix);
        let refused = self.fast_path.refusal(prefix).is_some();
        let expected = |sink: &EbpfSink| wanted.as_ref().map(|route| sink.expected(route));
        let map_agrees = self.fast_path.sink().is_none_or(|sink| !refused && expected(sink) == map);
        let fib_agrees = match self.dataplane.fib_state(prefix) {
            None => fib.is_none(),
            Some(FibState::Installed) => match (self.dataplane.fib_action(prefix), &fib) {
                (Some(wanted), Some(fib)) => is_as_wanted(wanted, fib),
                _ => false,
            },
            Some(_) => false,
        };
        api::RouteRow {
            prefix,
            wanted: wanted.as_ref().map(|route| action_text(&route.action, names)),
            reason: self.why_not(prefix),
            bgp: self.bgp_of(prefix),
            fib: fib.map(|route| api::FibRoute {
                text: fib_text(&route, names),
                protocol: self.args.places.protocol,
            }),
            blackhole: self.blackhole_cause(prefix, wanted.as_ref()),
            theirs: wanted.and_then(|route| self.theirs(&route, names)),
            map: map.map(|route| api::MapRoute { text: action_text(&route.action, names) }),
            agree: map_agrees && fib_agrees,
        }
    }

    /// What the kernel has from others for exactly the prefix, where we write nothing, or cannot.
    fn theirs(&self, wanted: &Route, names: &BTreeMap<u32, String>) -> Option<String> {
        if let Action::Local { ifindex, .. } = wanted.action {
            return Some(format!("dev {}", interface(names, ifindex)));
        }
        let held = self.dataplane.kernel().routes().exact(wanted.prefix).iter();
        let held = held.filter(|route| [TABLE_LOCAL, self.dataplane.table()].contains(&route.key.table));
        held.min_by_key(|route| (route.key.table != TABLE_LOCAL, route.key.metric))
            .map(|route| route_text(&route.kind, &route.legs, names))
    }

    /// Why a sink does not have what the table or BGP wants.
    fn why_not(&self, prefix: Prefix) -> Option<String> {
        if let Some(FibState::Failed(error)) = self.dataplane.fib_state(prefix) {
            return Some(error.to_string());
        }
        if let Some(reason) = self.fast_path.refusal(prefix) {
            return Some(reason.to_string());
        }
        if let Some(why) = self.dataplane.withheld(prefix) {
            return Some(why.to_string());
        }
        if let Some(why) = self.unreachable(prefix) {
            return Some(why);
        }
        match self.dataplane.fib_state(prefix)? {
            FibState::Stale => Some("left by an earlier run, not learned again yet".into()),
            FibState::Pending => Some("waiting to be written".into()),
            FibState::Installed | FibState::Failed(_) => None,
        }
    }

    /// Why there is no best path though peers announce some that are good but for their next hops.
    fn unreachable(&self, prefix: Prefix) -> Option<String> {
        let speaker = self.speaker.as_ref().filter(|speaker| speaker.best(prefix).is_none())?;
        let paths = speaker.explain(prefix)?.paths;
        let mut why: Vec<String> = Vec::new();
        for path in paths.iter().filter(|path| path.standing == view::Standing::Unreachable) {
            let Some(next_hop) = path.next_hop else { continue };
            let said = match self.why_unreachable(next_hop) {
                Some(said) => format!("next hop {} cannot be reached: {said}", next_hop.address),
                None => format!("next hop {} could not be reached until now", next_hop.address),
            };
            if !why.contains(&said) {
                why.push(said);
            }
        }
        (!why.is_empty()).then(|| format!("announced, and not used: {}", why.join("; ")))
    }

    /// What the kernel says against a next hop. None: nothing any more.
    pub(super) fn why_unreachable(&self, next_hop: NextHop) -> Option<String> {
        match self.dataplane.resolve(*self.next_hops.get(&next_hop)?) {
            Resolution::Unreachable(why) => Some(why.to_string()),
            Resolution::Reachable { .. } => None,
        }
    }

    fn bgp_of(&self, prefix: Prefix) -> Option<api::BgpRoute> {
        let speaker = self.speaker.as_ref()?;
        let route = speaker.best(prefix)?;
        let explained = speaker.explain(prefix);
        let sent = explained.iter().flat_map(|explained| &explained.sent);
        let sent = sent.filter(|sent| sent.export == view::Export::Sent).map(|sent| sent.peer.address);
        Some(bgp_route(route, sent.collect()))
    }

    pub(super) fn interface_names(&self) -> BTreeMap<u32, String> {
        self.dataplane.links().map(|link| (link.ifindex, link.name.clone())).collect()
    }
}

fn bgp_route(route: view::RouteView, sent_to: Vec<IpAddr>) -> api::BgpRoute {
    let best = route.best;
    let others = route.others.into_iter().filter_map(|path| path.next_hop);
    api::BgpRoute {
        other_next_hops: others.map(|hop| hop.address).collect(),
        originated: best.source == PathSource::Own,
        next_hop: best.next_hop.map(|hop| hop.address),
        peer: match best.source {
            PathSource::Own => None,
            PathSource::Peer(peer) => Some(peer.address),
        },
        as_path: best.attributes.as_path,
        local_pref: best.attributes.local_pref,
        originator_id: best.attributes.originator_id.map(IpAddr::V4),
        cluster_list: best.attributes.cluster_list.into_iter().map(IpAddr::V4).collect(),
        stale: best.stale,
        sent_to,
    }
}

/// The kernel's route leads where the table's does.
fn is_as_wanted(wanted: &Action, fib: &FibRoute) -> bool {
    match wanted {
        Action::Via(hops) => {
            let mut legs: Vec<_> =
                fib.legs.iter().filter_map(|leg| Some((leg.gateway?, leg.ifindex))).collect();
            legs.sort_unstable();
            fib.kind == RouteKind::Unicast
                && legs.len() == fib.legs.len()
                && hops.iter().map(|hop| (hop.gateway, hop.ifindex)).eq(legs)
        }
        Action::Blackhole(_) => fib.kind == RouteKind::Blackhole,
        Action::Unreachable => fib.kind == RouteKind::Unreachable,
        // The map alone takes these; the kernel's routes to pods are not ours.
        Action::Local { .. } | Action::Pass => false,
    }
}

fn interface(names: &BTreeMap<u32, String>, ifindex: u32) -> String {
    names.get(&ifindex).cloned().unwrap_or_else(|| format!("if{ifindex}"))
}

pub(super) fn action_text(action: &Action, names: &BTreeMap<u32, String>) -> String {
    match action {
        Action::Via(hops) => {
            let hops: Vec<String> = hops
                .iter()
                .map(|hop| format!("via {} dev {}", hop.gateway, interface(names, hop.ifindex)))
                .collect();
            hops.join(" nexthop ")
        }
        Action::Blackhole(BlackholeKind::Own) => "blackhole".into(),
        Action::Blackhole(BlackholeKind::Explicit) => "blackhole (explicit)".into(),
        Action::Unreachable => "unreachable".into(),
        Action::Local { ifindex, mac } => {
            let note = if mac.is_none() { " (MAC not known yet)" } else { "" };
            format!("local {}{note}", interface(names, *ifindex))
        }
        Action::Pass => "pass to the kernel".into(),
    }
}

/// As iproute2 prints it.
pub(super) fn fib_text(route: &FibRoute, names: &BTreeMap<u32, String>) -> String {
    route_text(&route.kind, &route.legs, names)
}

fn route_text(kind: &RouteKind, legs: &[Leg], names: &BTreeMap<u32, String>) -> String {
    let kind = match kind {
        RouteKind::Unicast => "",
        RouteKind::Blackhole => "blackhole",
        RouteKind::Unreachable => "unreachable",
        RouteKind::Prohibit => "prohibit",
        RouteKind::Throw => "throw",
        RouteKind::Local => "local",
        RouteKind::NotUnicast | RouteKind::Other(_) => "of another type",
    };
    let leg = |leg: &Leg| {
        let via = leg.gateway.map(|gateway| format!("via {gateway} ")).unwrap_or_default();
        let onlink = if leg.onlink { " onlink" } else { "" };
        format!("{via}dev {}{onlink}", interface(names, leg.ifindex))
    };
    if !kind.is_empty() {
        return kind.into();
    }
    legs.iter().map(leg).collect::<Vec<_>>().join(" nexthop ")
}

#[cfg(test)]
mod tests {
    use manx_dataplane::route;

    use super::*;

    #[test]
    fn a_kernel_route_to_another_gateway_does_not_agree() {
        let hop = |last: u8| route::NextHop { gateway: [192, 168, 80, last].into(), ifindex: 2 };
        let fib = |last: u8| FibRoute {
            prefix: "172.16.118.64/26".parse().unwrap(),
            table: 254,
            tos: 0,
            metric: 0,
            kind: RouteKind::Unicast,
            legs: vec![Leg { gateway: Some([192, 168, 80, last].into()), ifindex: 2, onlink: false }],
        };
        let wanted = Action::Via(vec![hop(125)]);
        assert!(is_as_wanted(&wanted, &fib(125)));
        assert!(!is_as_wanted(&wanted, &fib(124)));
        assert!(!is_as_wanted(&Action::Blackhole(BlackholeKind::Own), &fib(125)));
    }
}
