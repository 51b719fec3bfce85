//! What BIRD's control sockets show of this node, under the names that Calico's templates give.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant, SystemTime},
};

use jiff::{Timestamp, Zoned, tz::TimeZone};
use manx_bgp::{
    NextHop, PathSource, PeerKey,
    view::{self, Export, PathView, Standing},
};
use manx_birdctl::{
    Bgp, Exported, Kind, Negotiated, Protocol, Route, Routes, Statistics, Status, Way, name_of_session, since,
};
use manx_dataplane::{
    fib::FibState,
    kernel::{KernelRoute, RouteKind},
    resolve::{Resolution, resolve},
};
use manx_net::{Asn, Prefix};
use manx_resources::{PeerKind, PeerPlan};

use super::{Daemon, answers};
use crate::bird::{Look, VERSION};

/// How long rows of an answer are made in one turn of the loop.
const ROWS_FOR: Duration = Duration::from_millis(2);
/// Prefixes that are told in one turn of the loop.
const PREFIXES: usize = 4096;
/// `RTPROT_KERNEL`: what comes with an address.
const OF_THE_KERNEL: u8 = 2;

impl Daemon {
    pub(super) fn look(&self, look: Look) {
        // Whoever asked may have gone meanwhile.
        match look {
            Look::Status { ipv4, answer } => drop(answer.send(self.bird_status(ipv4))),
            Look::Protocols { ipv4, answer } => drop(answer.send(self.bird_protocols(ipv4))),
            Look::Others { after, answer } => {
                let routes = self.dataplane.kernel().routes();
                drop(answer.send(routes.prefixes_after(after).take(PREFIXES).collect()));
            }
            Look::Longest { of, answer } => drop(answer.send(self.bird_longest(of))),
            Look::Routes { of, query, answer } => {
                let until = Instant::now() + ROWS_FOR;
                let shown = self.shown();
                let mut found = Vec::new();
                for prefix in of {
                    found.push(self.bird_routes(prefix, &query, &shown));
                    if Instant::now() >= until {
                        break;
                    }
                }
                drop(answer.send(found));
            }
        }
    }

    fn bird_status(&self, ipv4: bool) -> Status {
        let local = |at: SystemTime| {
            let at = Timestamp::try_from(at).unwrap_or_default().to_zoned(TimeZone::system());
            at.strftime("%Y-%m-%d %H:%M:%S").to_string()
        };
        let stamp = |text: &str| text.parse::<Timestamp>().map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
        let started = self.clock.started_at();
        let waits = self.speaker.is_some() && self.restarting && !self.settled;
        let down = self.peer_views().into_values();
        let down = down
            .filter(|view| view.address.is_ipv4() == ipv4 && view.state != view::SessionState::Established);
        Status {
            version: VERSION.to_owned(),
            router_id: self.plan.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |plan| plan.router_id),
            now: local(SystemTime::now()),
            started: local(stamp(&started)),
            configured: local(stamp(self.loaded_at.as_deref().unwrap_or(&started))),
            waiting_for: waits.then(|| down.count()),
        }
    }

    fn bird_protocols(&self, ipv4: bool) -> Vec<Protocol> {
        let shown = self.shown();
        let always = |name: &str, kind| Protocol {
            name: name.to_owned(),
            kind,
            state: "up",
            since: shown.started.clone(),
            bgp: None,
        };
        let mut protocols = vec![
            always(STATIC, Kind::Static),
            always(KERNEL, Kind::Kernel),
            always("device1", Kind::Device),
            always(DIRECT, Kind::Direct),
        ];
        let Some(plan) = &self.plan else { return protocols };
        let views = self.peer_views();
        for peer in plan.peers.iter().filter(|peer| peer.address.is_ipv4() == ipv4) {
            let view = views.get(&PeerKey { address: peer.address, port: peer.port });
            protocols.push(self.bird_session(peer, view, &shown));
        }
        for view in views.values().filter(|view| view.address.is_ipv4() == ipv4) {
            let range = plan.ranges.iter().find(|range| Some(range.range) == view.range);
            if let Some(range) = range {
                protocols.push(self.bird_session(&range.settings, Some(view), &shown));
            }
        }
        protocols
    }

    fn bird_session(&self, plan: &PeerPlan, view: Option<&view::PeerView>, shown: &Shown) -> Protocol {
        let state = view.map_or(view::SessionState::Idle, |view| view.state);
        let established = state == view::SessionState::Established;
        let error = match view {
            None => self.protection.why_closed(plan).unwrap_or_default().to_owned(),
            Some(view) => view.last_error.clone().filter(|_| !established).unwrap_or_default(),
        };
        let (address, port) = view.map_or((plan.address, plan.port), |view| (view.address, view.port));
        let counters = view.map(|view| view.counters).unwrap_or_default();
        let negotiated =
            view.filter(|_| established).and_then(|view| Some((view, view.negotiated.as_ref()?)));
        Protocol {
            name: name_of_session(kind_of_name(plan.kind), address, port),
            kind: Kind::Bgp,
            state: if established { "up" } else { "start" },
            since: view.map_or_else(
                || shown.started.clone(),
                |view| shown.since(&self.clock.rfc3339(view.session_since)),
            ),
            bgp: Some(Bgp {
                state: answers::state(state).to_string(),
                error,
                neighbor: address,
                neighbor_as: view.map_or(plan.as_number, |view| view.remote_as),
                statistics: Statistics {
                    imported: counters.prefixes_accepted,
                    filtered: counters.prefixes_received.saturating_sub(counters.prefixes_accepted),
                    exported: counters.prefixes_sent,
                    updates_received: counters.updates_received,
                    updates_sent: counters.updates_sent,
                    invalid: counters.treated_as_withdraw,
                },
                negotiated: negotiated.map(|(view, negotiated)| Negotiated {
                    neighbor_id: view.remote_id,
                    internal: view.remote_as == view.local_as,
                    rr_client: view.rr_client,
                    refresh: negotiated.route_refresh,
                    graceful_restart: negotiated.graceful_restart.is_some(),
                    four_octet_as: negotiated.four_octet_as,
                    source: view.local.map(|local| local.ip()),
                    hold_time: negotiated.hold_time,
                    keepalive_time: negotiated.keepalive_time,
                }),
                description: match self.node_at(address) {
                    Some(node) => format!("{node}, by {}", plan.resource),
                    None => format!("by {}", plan.resource),
                },
            }),
        }
    }

    /// The longest prefix with a route that covers another.
    fn bird_longest(&self, of: Prefix) -> Option<Prefix> {
        let lengths = (0..=of.len()).rev().filter_map(|len| Prefix::new(of.addr(), len));
        let all = Routes::default();
        let shown = self.shown();
        lengths.into_iter().find(|prefix| !self.bird_routes(*prefix, &all, &shown).is_empty())
    }

    fn shown(&self) -> Shown {
        let now = Timestamp::now().to_zoned(TimeZone::system());
        let mut shown = Shown { now, started: String::new(), names: self.interface_names() };
        shown.started = shown.since(&self.clock.started_at());
        shown
    }

    fn bird_routes(&self, prefix: Prefix, query: &Routes, shown: &Shown) -> Vec<Route> {
        let mut routes = Vec::new();
        for route in self.dataplane.kernel().routes().exact(prefix) {
            if route.key.table == self.dataplane.table() && route.key.tos == 0 {
                routes.extend(of_the_kernel(route, shown));
            }
        }
        let view = self.speaker.as_ref().and_then(|speaker| speaker.explain(prefix));
        for path in view.iter().flat_map(|view| &view.paths) {
            routes.extend(self.bird_path(prefix, path, shown));
        }
        // Of what is preferred alike the order is that of the choice.
        routes.sort_by_key(|route| std::cmp::Reverse(route.kind.preference()));
        if let Some(first) = routes.first_mut() {
            first.primary = true;
            first.failed = matches!(self.dataplane.fib_state(prefix), Some(FibState::Failed(_)));
        }
        if let Some((exported, name)) = &query.exported {
            let sent = view.iter().flat_map(|view| &view.sent);
            let mut to = sent.filter(|sent| self.name_of(sent.peer).as_ref() == Some(name));
            let went = to.any(|sent| matches!(sent.export, Export::Sent | Export::Queued));
            if went != (*exported == Exported::Yes) {
                return Vec::new();
            }
            routes.truncate(1);
        }
        if query.primary {
            routes.truncate(1);
        }
        if let Some(name) = &query.protocol {
            routes.retain(|route| route.protocol == *name);
        }
        routes
    }

    fn bird_path(&self, prefix: Prefix, path: &PathView, shown: &Shown) -> Option<Route> {
        let bare = |way, kind, protocol: String, since| Route {
            prefix,
            way,
            kind,
            protocol,
            since,
            from: None,
            primary: false,
            failed: false,
            bgp: None,
            attributes: Vec::new(),
        };
        let peer = match path.source {
            // Of what is announced for pods, the kernel has the routes; blocks and services are static routes.
            PathSource::Own => {
                let plan = self.plan.as_ref()?;
                let is_static = plan.blocks.contains(&prefix) || plan.announced_services.contains(&prefix);
                let route = bare(Way::Blackhole, Kind::Static, STATIC.to_owned(), shown.started.clone());
                return is_static.then_some(route);
            }
            PathSource::Peer(peer) => peer,
        };
        if matches!(path.standing, Standing::Refused(_)) {
            return None;
        }
        let since = self.speaker.as_ref().and_then(|speaker| speaker.peer(peer));
        let since =
            since.map(|view| shown.since(&self.clock.rfc3339(view.session_since))).unwrap_or_default();
        let way = match path.standing {
            Standing::Unreachable => Way::Unreachable,
            _ => path.next_hop.and_then(|hop| self.way_to(hop, shown)).unwrap_or(Way::Unreachable),
        };
        let metric = path.metric.map_or_else(|| "-".to_owned(), |metric| metric.to_string());
        let attributes = &path.attributes;
        let origin_as = attributes.as_path.split(' ').next_back().and_then(|last| last.parse::<Asn>().ok());
        let origin = match attributes.origin {
            "IGP" => 'i',
            "EGP" => 'e',
            _ => '?',
        };
        let mut lines = vec![
            format!("BGP.origin: {}", attributes.origin),
            format!("BGP.as_path: {}", attributes.as_path),
        ];
        lines.extend(path.next_hop.map(|hop| format!("BGP.next_hop: {}", hop.address)));
        lines.extend(attributes.med.map(|med| format!("BGP.med: {med}")));
        lines.extend(attributes.local_pref.map(|pref| format!("BGP.local_pref: {pref}")));
        let tuples = |of: &[String]| {
            let each = of.iter().map(|community| match community.contains(':') {
                true => format!("({})", community.replace(':', ",")),
                false => community.clone(),
            });
            each.collect::<Vec<_>>().join(" ")
        };
        for (name, of) in
            [("community", &attributes.communities), ("large_community", &attributes.large_communities)]
        {
            lines.extend((!of.is_empty()).then(|| format!("BGP.{name}: {}", tuples(of))));
        }
        lines.extend(attributes.originator_id.map(|id| format!("BGP.originator_id: {id}")));
        if !attributes.cluster_list.is_empty() {
            let ids: Vec<String> = attributes.cluster_list.iter().map(ToString::to_string).collect();
            lines.push(format!("BGP.cluster_list: {}", ids.join(" ")));
        }
        Some(Route {
            from: Some(peer.address),
            bgp: Some((metric, origin_as, origin)),
            attributes: lines,
            ..bare(way, Kind::Bgp, self.name_of(peer)?, since)
        })
    }

    /// Where the kernel sends what goes to a next hop.
    fn way_to(&self, hop: NextHop, shown: &Shown) -> Option<Way> {
        match resolve(*self.next_hops.get(&hop)?, self.dataplane.kernel()) {
            Resolution::Reachable { next_hops, .. } => {
                let first = next_hops.first()?;
                Some(Way::Via { gateway: first.gateway, interface: shown.name(first.ifindex) })
            }
            Resolution::Unreachable(_) => None,
        }
    }

    fn name_of(&self, peer: PeerKey) -> Option<String> {
        let plan = self.plan.as_ref()?;
        let found = plan.peers.iter().find(|known| (known.address, known.port) == (peer.address, peer.port));
        let of_range = || {
            let view = self.speaker.as_ref()?.peer(peer)?;
            let range = plan.ranges.iter().find(|range| Some(range.range) == view.range)?;
            Some(range.settings.kind)
        };
        let kind = found.map(|known| known.kind).or_else(of_range)?;
        Some(name_of_session(kind_of_name(kind), peer.address, peer.port))
    }
}

const STATIC: &str = "static1";
const KERNEL: &str = "kernel1";
const DIRECT: &str = "direct1";

/// How a name begins.
fn kind_of_name(kind: PeerKind) -> &'static str {
    match kind {
        PeerKind::Mesh => "Mesh",
        PeerKind::Global => "Global",
        PeerKind::Node => "Node",
        PeerKind::LocalWorkload => "Local_Workload",
    }
}

/// What one answer needs again and again.
struct Shown {
    now: Zoned,
    /// When the daemon started.
    started: String,
    names: BTreeMap<u32, String>,
}

impl Shown {
    fn since(&self, stamp: &str) -> String {
        stamp.parse::<Timestamp>().map_or_else(|_| stamp.to_owned(), |at| since(at, &self.now))
    }

    fn name(&self, ifindex: u32) -> String {
        self.names.get(&ifindex).cloned().unwrap_or_else(|| format!("if{ifindex}"))
    }
}

fn of_the_kernel(route: &KernelRoute, shown: &Shown) -> Option<Route> {
    let leg = route.legs.first();
    let way = match (route.kind, leg) {
        (RouteKind::Unicast, Some(leg)) => match leg.gateway {
            Some(gateway) => Way::Via { gateway, interface: shown.name(leg.ifindex) },
            None => Way::Device(shown.name(leg.ifindex)),
        },
        (RouteKind::Blackhole, _) => Way::Blackhole,
        (RouteKind::Unreachable, _) => Way::Unreachable,
        (RouteKind::Prohibit, _) => Way::Prohibited,
        _ => return None,
    };
    let (kind, protocol) =
        if route.protocol == OF_THE_KERNEL { (Kind::Direct, DIRECT) } else { (Kind::Kernel, KERNEL) };
    let gateway: Option<IpAddr> = leg.and_then(|leg| leg.gateway);
    Some(Route {
        prefix: route.key.prefix,
        way,
        kind,
        protocol: protocol.to_owned(),
        since: shown.started.clone(),
        from: gateway,
        primary: false,
        failed: false,
        bgp: None,
        attributes: Vec::new(),
    })
}
