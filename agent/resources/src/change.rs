//! What a change of the resources means for all nodes together: which sessions stay, come and go, and who no longer hears
//! of whom. A pure function of two snapshots, by the rules that [`lint`](crate::lint()) goes by.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use manx_net::{Asn, Prefix};
use serde::Serialize;

use crate::{
    PeerPlan, Snapshot,
    lint::{Network, Sessions, list},
    plan::{Cluster, Family, Index, NodeObject, address, is_owned},
};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Of the nodes that are there before or afterwards, by name; those of which nothing changes are left out.
    pub sessions: Vec<NodeSessions>,
    pub cut: Vec<Cut>,
}

/// What becomes of one node's sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSessions {
    pub node: String,
    pub kept: usize,
    /// Something changes that OPEN says, or the socket has: the connection is made anew.
    pub anew: usize,
    pub added: usize,
    pub closed: usize,
}

/// Nodes between which routes pass, and would no longer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cut {
    /// Nodes whose routes go the same ways.
    pub of: Vec<String>,
    /// Who would no longer hear of them; the same nodes: of one another.
    pub to: Vec<String>,
    /// The former would not hear of the latter either.
    pub both_ways: bool,
    /// The blocks to which somebody would be without a path.
    pub blocks: Vec<Prefix>,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.of == self.to, self.both_ways) {
            (true, _) => write!(f, "{} would no longer reach one another", list(&self.of))?,
            (false, true) => {
                write!(
                    f,
                    "no routes would pass any longer between {} and {}",
                    list(&self.of),
                    list(&self.to)
                )?;
            }
            (false, false) => write!(f, "{} would no longer reach {}", list(&self.to), list(&self.of))?,
        }
        let blocks: Vec<String> = self.blocks.iter().map(Prefix::to_string).collect();
        if blocks.is_empty() { Ok(()) } else { write!(f, " (without a path: {})", list(&blocks)) }
    }
}

/// What would become of the sessions of all nodes, and of the routes that pass between them.
pub fn change(before: &Snapshot, after: &Snapshot) -> Change {
    let (old_index, new_index) = (Index::new(before, ""), Index::new(after, ""));
    let (old, new) = (Cluster::new(before, &old_index), Cluster::new(after, &new_index));
    let (old_sessions, new_sessions) = (Sessions::of(&old), Sessions::of(&new));
    let (were, are) = (addresses(before), addresses(after));
    let cut = cuts(
        &Reach::new(&Network::without(&old, &old_sessions, &BTreeSet::new()), &old_sessions),
        // Where a node was there is no router outside.
        &Reach::new(&Network::without(&new, &new_sessions, &(&were - &are)), &new_sessions),
        &blocks(before),
    );
    Change { sessions: sessions((&old, &old_sessions), (&new, &new_sessions)), cut }
}

/// Whose routes do not come to this node by any chain of sessions, with the blocks that they own.
pub fn unreached(snapshot: &Snapshot, node: &str) -> BTreeMap<String, Vec<Prefix>> {
    let index = Index::new(snapshot, "");
    let cluster = Cluster::new(snapshot, &index);
    let sessions = Sessions::of(&cluster);
    let reach = Reach::new(&Network::without(&cluster, &sessions, &BTreeSet::new()), &sessions);
    let mut blocks = blocks(snapshot);
    let others = reach.numbers.keys().filter(|other| !reach.reaches(other, node));
    others.map(|other| (other.clone(), blocks.remove(other.as_str()).unwrap_or_default())).collect()
}

fn addresses(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let of = |node| Family::BOTH.into_iter().filter_map(move |family| address(node, family));
    snapshot.nodes().flat_map(of).collect()
}

fn blocks(snapshot: &Snapshot) -> BTreeMap<&str, Vec<Prefix>> {
    let mut blocks: BTreeMap<&str, Vec<Prefix>> = BTreeMap::new();
    for affinity in snapshot.block_affinities().map(|object| &object.spec).filter(|spec| is_owned(spec)) {
        blocks.entry(&affinity.node).or_default().push(affinity.cidr);
    }
    blocks
}

type Planned<'c, 's> = (&'c Cluster<'s>, &'c Sessions<'s>);

fn sessions(old: Planned<'_, '_>, new: Planned<'_, '_>) -> Vec<NodeSessions> {
    let by_name = |(_, sessions): Planned<'_, '_>| -> BTreeMap<String, usize> {
        sessions.nodes.iter().enumerate().map(|(number, node)| (node.name().to_owned(), number)).collect()
    };
    let (was, is) = (by_name(old), by_name(new));
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    let mut found = Vec::new();
    for name in names {
        let (before, after) = (End::of(old, was.get(name)), End::of(new, is.get(name)));
        let mut of = NodeSessions { node: name.clone(), ..NodeSessions::default() };
        let anew = before.node.zip(after.node).is_some_and(|(before, after)| before != after);
        let key = |peer: &PeerPlan| (peer.address, peer.port);
        let (mut closed, mut wanted) = (before.peers.iter().peekable(), after.peers.iter().peekable());
        loop {
            let order = match (closed.peek(), wanted.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(before), Some(after)) => key(before).cmp(&key(after)),
            };
            match order {
                Ordering::Less => {
                    closed.next();
                    of.closed += 1;
                }
                Ordering::Greater => {
                    wanted.next();
                    of.added += 1;
                }
                Ordering::Equal => {
                    let both = closed.next().zip(wanted.next());
                    if !anew && both.is_some_and(|(before, after)| keeps(before, after)) {
                        of.kept += 1;
                    } else {
                        of.anew += 1;
                    }
                }
            }
        }
        if of.added + of.closed + of.anew > 0 {
            found.push(of);
        }
    }
    found
}

/// One node's end of its sessions.
struct End<'c> {
    /// What it says of itself in each OPEN: its AS, and what its identifier comes from.
    node: Option<(Asn, Option<IpAddr>)>,
    peers: &'c [Arc<PeerPlan>],
}

impl<'c> End<'c> {
    fn of((cluster, sessions): Planned<'c, '_>, number: Option<&usize>) -> End<'c> {
        let found =
            number.and_then(|number| Some((sessions.nodes.get(*number)?, sessions.derived.get(*number)?)));
        let Some((node, derived)) = found else { return End { node: None, peers: &[] } };
        let node: &NodeObject = node;
        End { node: Some((cluster.as_number_of(node), address(node, Family::V4))), peers: &derived.peers }
    }
}

/// The session goes on, whatever else changes of it.
fn keeps(before: &PeerPlan, after: &PeerPlan) -> bool {
    let open = |peer: &PeerPlan| {
        let PeerPlan { as_number, local_as_number, restart_time, extended_next_hop, .. } = *peer;
        let add_path = (peer.add_path.send > 0, peer.add_path.receive);
        (
            as_number,
            local_as_number,
            restart_time,
            extended_next_hop,
            peer.local_role,
            peer.strict_role,
            add_path,
        )
    };
    let socket = |peer: &PeerPlan| (peer.source_address, peer.ttl_security);
    open(before) == open(after)
        && socket(before) == socket(after)
        && before.password_from == after.password_from
}

/// Whose routes come to whom.
struct Reach {
    /// By name, every node.
    numbers: BTreeMap<String, usize>,
    group_of: BTreeMap<usize, usize>,
    /// Of each group the first two, and to whom the routes of the first come.
    groups: Vec<(usize, Option<usize>, BTreeSet<usize>)>,
}

impl Reach {
    fn new(network: &Network, sessions: &Sessions<'_>) -> Reach {
        let numbers = sessions.nodes.iter().enumerate();
        let numbers = numbers.map(|(number, node)| (node.name().to_owned(), number)).collect();
        let (mut group_of, mut groups) = (BTreeMap::new(), Vec::new());
        for group in network.groups() {
            let Some(&first) = group.first() else { continue };
            group_of.extend(group.iter().map(|node| (*node, groups.len())));
            groups.push((first, group.get(1).copied(), network.spread(first).reached));
        }
        Reach { numbers, group_of, groups }
    }

    /// Those of whom this is the same are of one group.
    fn group(&self, node: &str) -> Option<usize> {
        self.group_of.get(self.numbers.get(node)?).copied()
    }

    /// Do the routes of `of` come to `to`?
    fn reaches(&self, of: &str, to: &str) -> bool {
        if of == to {
            return true;
        }
        let Some(&to_number) = self.numbers.get(to) else { return false };
        let Some((first, second, reached)) = self.group(of).and_then(|group| self.groups.get(group)) else {
            return false;
        };
        // The first hears of the second as the second of the first.
        let to_number = if to_number == *first { second.unwrap_or(to_number) } else { to_number };
        reached.contains(&to_number)
    }
}

/// From whom to whom routes pass before and not afterwards: of nodes that are alike in both the first stands for all.
fn cuts(before: &Reach, after: &Reach, blocks: &BTreeMap<&str, Vec<Prefix>>) -> Vec<Cut> {
    let mut alike: BTreeMap<(Option<usize>, Option<usize>), Vec<&str>> = BTreeMap::new();
    for node in before.numbers.keys().filter(|node| after.numbers.contains_key(*node)) {
        alike.entry((before.group(node), after.group(node))).or_default().push(node);
    }
    let mut classes: Vec<Vec<&str>> = alike.into_values().collect();
    classes.sort();
    let is_cut = |of: &str, to: &str| before.reaches(of, to) && !after.reaches(of, to);
    let mut found = Vec::new();
    let owned = |nodes: &[&str]| nodes.iter().map(|node| (*node).to_owned()).collect::<Vec<_>>();
    let blocks_of = |nodes: &[&[&str]]| {
        let all = nodes.iter().copied().flatten().filter_map(|node| blocks.get(node)).flatten();
        all.copied().collect::<BTreeSet<Prefix>>().into_iter().collect::<Vec<_>>()
    };
    for (at, class) in classes.iter().enumerate() {
        let Some(&one) = class.first() else { continue };
        if class.get(1).is_some_and(|other| is_cut(one, other)) {
            let blocks = blocks_of(&[class]);
            found.push(Cut { of: owned(class), to: owned(class), both_ways: true, blocks });
        }
        for other_class in classes.iter().skip(at + 1) {
            let Some(&other) = other_class.first() else { continue };
            let (of, to) = match (is_cut(one, other), is_cut(other, one)) {
                (false, false) => continue,
                (true, _) => (class, other_class),
                (false, true) => (other_class, class),
            };
            let both_ways = is_cut(one, other) && is_cut(other, one);
            let blocks = if both_ways { blocks_of(&[of, to]) } else { blocks_of(&[of]) };
            found.push(Cut { of: owned(of), to: owned(to), both_ways, blocks });
        }
    }
    found.sort();
    found
}
