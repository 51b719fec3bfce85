//! Whose routes reach whom, by the rules of BGP among the sessions that all nodes together plan. What lies outside of the
//! cluster, such as a rack's switch, is taken to pass everything on: nothing is known of it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv4Addr},
};

use manx_net::Asn;

use super::{Findings, Rule, list, sessions::Sessions};
use crate::{
    Key, Kind,
    plan::{Cluster, cluster_id},
};

/// So many pairs of groups are told one by one.
const TOLD: usize = 10;

/// A session, from one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Link {
    to: usize,
    internal: bool,
    /// The other end is this end's client.
    client: bool,
    /// This end is the other end's client.
    is_client: bool,
}

#[derive(Debug)]
struct Router {
    as_number: Asn,
    cluster_id: Option<Ipv4Addr>,
    links: Vec<Link>,
}

/// How a router came by a route; of two ways the greater lets it go to more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    NonClient,
    Client,
    /// Its own, or of another AS.
    Outside,
}

/// A route as one router has it.
#[derive(Clone, Debug)]
struct Held {
    from: From,
    clusters: BTreeSet<Ipv4Addr>,
    path: BTreeSet<Asn>,
}

impl Held {
    /// Whoever gets `other` from here gets this too.
    fn covers(&self, other: &Held) -> bool {
        self.from >= other.from
            && self.clusters.is_subset(&other.clusters)
            && self.path.is_subset(&other.path)
    }
}

/// What became of one router's routes.
#[derive(Debug)]
pub(crate) struct Spread {
    pub(crate) reached: BTreeSet<usize>,
    /// Who refused them from whom, as both are of one cluster.
    refused: BTreeSet<(usize, usize)>,
}

/// The nodes by number, and behind them one for everything outside.
pub(crate) struct Network {
    routers: Vec<Router>,
}

impl Network {
    fn new(cluster: &Cluster<'_>, sessions: &Sessions<'_>) -> Network {
        Network::without(cluster, sessions, &BTreeSet::new())
    }

    /// Nobody has these addresses, also outside.
    pub(crate) fn without(
        cluster: &Cluster<'_>,
        sessions: &Sessions<'_>,
        nobody: &BTreeSet<IpAddr>,
    ) -> Network {
        let outside = sessions.nodes.len();
        let mut routers = Vec::with_capacity(outside + 1);
        let mut from_outside = Vec::new();
        for (number, node, peers) in sessions.each() {
            let as_number = cluster.as_number_of(node);
            let mut links = BTreeMap::new();
            let own_as = |peer: &crate::PeerPlan| peer.local_as_number.unwrap_or(as_number);
            for peer in peers {
                let internal = own_as(peer) == peer.as_number;
                let link = match sessions.back(number, peer) {
                    Some((to, Some(back))) => {
                        Link { to, internal, client: peer.rr_client, is_client: back.rr_client }
                    }
                    // The other end refuses it.
                    Some((_, None)) => continue,
                    None if nobody.contains(&peer.address) => continue,
                    None => Link { to: outside, internal, client: peer.rr_client, is_client: false },
                };
                // Of two families, and of several switches, the one that lets more through.
                let held = links.entry(link.to).or_insert(link);
                held.client |= link.client;
                held.is_client |= link.is_client;
                held.internal &= link.internal;
            }
            let ranges = sessions.derived.get(number).is_some_and(|derived| !derived.ranges.is_empty());
            if ranges {
                links.entry(outside).or_insert(Link {
                    to: outside,
                    internal: false,
                    client: false,
                    is_client: false,
                });
            }
            if let Some(link) = links.get(&outside) {
                from_outside.push(Link {
                    to: number,
                    internal: link.internal,
                    client: false,
                    is_client: link.client,
                });
            }
            routers.push(Router {
                as_number,
                cluster_id: cluster_id(node),
                links: links.into_values().collect(),
            });
        }
        routers.push(Router { as_number: Asn::TRANS, cluster_id: None, links: from_outside });
        Network { routers }
    }

    fn outside(&self) -> usize {
        self.routers.len() - 1
    }

    pub(crate) fn spread(&self, origin: usize) -> Spread {
        let mut held: BTreeMap<usize, Vec<Held>> = BTreeMap::new();
        let mut refused = BTreeSet::new();
        let mut queue = VecDeque::new();
        queue.push_back((
            origin,
            Held { from: From::Outside, clusters: BTreeSet::new(), path: BTreeSet::new() },
        ));
        while let Some((at, route)) = queue.pop_front() {
            let Some(router) = self.routers.get(at) else { continue };
            let known = held.entry(at).or_default();
            if known.iter().any(|one| one.covers(&route)) {
                continue;
            }
            known.push(route.clone());
            for link in &router.links {
                let Some(other) = self.routers.get(link.to) else { continue };
                if link.to == origin {
                    continue;
                }
                if at == self.outside() {
                    let from = if link.internal {
                        if link.is_client { From::Client } else { From::NonClient }
                    } else {
                        From::Outside
                    };
                    queue.push_back((
                        link.to,
                        Held { from, clusters: BTreeSet::new(), path: BTreeSet::new() },
                    ));
                    continue;
                }
                let mut sent = route.clone();
                if link.internal {
                    match (route.from, router.cluster_id) {
                        (From::Outside, _) => {}
                        (From::Client, Some(id)) => drop(sent.clusters.insert(id)),
                        (From::NonClient, Some(id)) if link.client => drop(sent.clusters.insert(id)),
                        _ => continue,
                    }
                    if other.cluster_id.is_some_and(|id| sent.clusters.contains(&id)) {
                        refused.insert((link.to, at));
                        continue;
                    }
                    // Seen from the other end.
                    sent.from = if link.is_client { From::Client } else { From::NonClient };
                } else {
                    sent.path.insert(router.as_number);
                    sent.clusters.clear();
                    if sent.path.contains(&other.as_number) {
                        continue;
                    }
                    sent.from = From::Outside;
                }
                queue.push_back((link.to, sent));
            }
        }
        Spread { reached: held.into_keys().collect(), refused }
    }

    /// Nodes whose routes go the same ways, as far as they have sessions at all: those with the same peers, and those
    /// that are one another's peers and have all others in common.
    pub(crate) fn groups(&self) -> Vec<Vec<usize>> {
        let nodes = || {
            self.routers
                .iter()
                .enumerate()
                .take(self.outside())
                .filter(|(_, router)| !router.links.is_empty())
        };
        let mut open: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (number, router) in nodes() {
            open.entry(signature(router, None)).or_default().push(number);
        }
        let (mut groups, alone): (Vec<_>, Vec<_>) = open.into_values().partition(|group| group.len() > 1);
        let mut closed: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for number in alone.into_iter().flatten() {
            let Some(router) = self.routers.get(number) else { continue };
            closed.entry(signature(router, Some(number))).or_default().push(number);
        }
        groups.extend(closed.into_values());
        groups.sort();
        groups
    }
}

/// Of the sessions of a router, with itself as a peer of its own where its number is given.
fn signature(router: &Router, number: Option<usize>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (router.as_number, router.cluster_id).hash(&mut hasher);
    let own = number.map(|to| Link { to, internal: true, client: false, is_client: false });
    let mut own = own.into_iter().peekable();
    for link in &router.links {
        if let Some(own) = own.next_if(|own| own.to < link.to) {
            own.hash(&mut hasher);
        }
        link.hash(&mut hasher);
    }
    own.for_each(|own| own.hash(&mut hasher));
    hasher.finish()
}

/// Nodes that one reflector alone keeps in touch with the others.
pub(super) fn reflectors(cluster: &Cluster<'_>, sessions: &Sessions<'_>, found: &mut Findings) {
    let network = Network::new(cluster, sessions);
    let mut hanging: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (router, node) in network.routers.iter().zip(&sessions.nodes) {
        if let [link] = router.links.as_slice()
            && link.is_client
            && link.to != network.outside()
        {
            hanging.entry(link.to).or_default().push(node.name().to_owned());
        }
    }
    for (reflector, nodes) in hanging {
        let Some(reflector) = sessions.nodes.get(reflector) else { continue };
        found.warn(
            Rule::OneReflector,
            vec![Key::new(Kind::Node, reflector.name())],
            nodes.clone(),
            format!(
                "{} has a session with no other than this reflector: once it has been away for longer than the restart time, \
                 the pods there reach no pod of another node",
                list(&nodes)
            ),
            "make a second node a reflector, with a routeReflectorClusterID of its own, and let all nodes peer with both".to_owned(),
        );
    }
}

/// Nodes whose routes do not reach others by any chain of sessions.
pub(super) fn unreached(cluster: &Cluster<'_>, sessions: &Sessions<'_>, found: &mut Findings) {
    let network = Network::new(cluster, sessions);
    let groups = network.groups();
    let group_of: BTreeMap<usize, usize> = groups
        .iter()
        .enumerate()
        .flat_map(|(group, nodes)| nodes.iter().map(move |node| (*node, group)))
        .collect();
    let name = |node: usize| sessions.nodes.get(node).map(|node| node.name().to_owned()).unwrap_or_default();
    // Of groups, whose routes do not reach whom, and who refused them.
    let mut cut: BTreeMap<(usize, usize), BTreeSet<(usize, usize)>> = BTreeMap::new();
    for (group, nodes) in groups.iter().enumerate() {
        let Some(origin) = nodes.first() else { continue };
        let spread = network.spread(*origin);
        let missed: BTreeSet<usize> = group_of
            .iter()
            .filter(|(node, _)| *node != origin && !spread.reached.contains(node))
            .map(|(_, group)| *group)
            .collect();
        for other in missed {
            cut.entry((group, other)).or_default().extend(&spread.refused);
        }
    }
    let pairs: BTreeSet<(usize, usize)> = cut.keys().map(|(a, b)| (*a.min(b), *a.max(b))).collect();
    let nodes_of = |group: usize| {
        let mut names: Vec<String> =
            groups.get(group).into_iter().flatten().map(|node| name(*node)).collect();
        names.sort();
        names
    };
    // What has one cause is told together.
    let mut by_refusal: BTreeMap<(String, String), (Vec<String>, BTreeSet<String>)> = BTreeMap::new();
    for (a, b) in pairs.iter().take(TOLD) {
        let (there, back) = (cut.get(&(*a, *b)), cut.get(&(*b, *a)));
        let (of_a, of_b) = (nodes_of(*a), nodes_of(*b));
        let message = match (there, back) {
            _ if a == b => format!("the routes of {} do not reach one another", list(&of_a)),
            (Some(_), Some(_)) => format!("no routes pass between {} and {}", list(&of_a), list(&of_b)),
            (Some(_), None) => format!("the routes of {} do not reach {}", list(&of_a), list(&of_b)),
            _ => format!("the routes of {} do not reach {}", list(&of_b), list(&of_a)),
        };
        let nodes: BTreeSet<String> = of_a.into_iter().chain(of_b).collect();
        let refused: BTreeSet<(usize, usize)> = there.into_iter().chain(back).flatten().copied().collect();
        match refused.first() {
            Some((who, whose)) => {
                let (first, second) = (name(*who.min(whose)), name(*who.max(whose)));
                let (messages, all) = by_refusal.entry((first, second)).or_default();
                messages.push(message);
                all.extend(nodes);
            }
            None => found.error(
                Rule::Unreached,
                Vec::new(),
                nodes.into_iter().collect(),
                format!("{message} by any chain of sessions: pods there cannot reach one another"),
                "make sessions between them, or of both with one reflector; manxctl plan --node NAME shows whom a node peers \
                 with"
                    .to_owned(),
            ),
        }
    }
    for ((first, second), (messages, nodes)) in by_refusal {
        found.error(
            Rule::Unreached,
            vec![Key::new(Kind::Node, &*first), Key::new(Kind::Node, &*second)],
            nodes.into_iter().collect(),
            format!(
                "Node/{first} and Node/{second} have the same routeReflectorClusterID, so each refuses what the other \
                 reflects: {}; pods there cannot reach one another",
                messages.join("; ")
            ),
            "give each reflector a routeReflectorClusterID of its own, or let every node peer with each of them".to_owned(),
        );
    }
    if pairs.len() > TOLD {
        found.error(
            Rule::Unreached,
            Vec::new(),
            Vec::new(),
            format!("and {} more pairs of groups of nodes between which no routes pass", pairs.len() - TOLD),
            "see to those above first".to_owned(),
        );
    }
}
