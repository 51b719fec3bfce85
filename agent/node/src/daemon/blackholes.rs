//! Who wants a prefix to be a blackhole, since when and until when: operators' orders, carried out and kept; peers'
//! wishes (RFC 7999), own blocks and closed pools, remembered for those who ask why.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;
use manx_api::{self as api, AskedBy, BlackholeCause, BlackholeReply};
use manx_bgp::PathSource;
use manx_dataplane::{
    NotWritten,
    ebpf::Tally,
    kernel::{RouteKind, TABLE_LOCAL},
    route::{Action, BlackholeKind, Route},
    table::Reply,
};
use manx_net::Prefix;
use manx_resources::NodePlan;

use super::{Daemon, answers};
use crate::{
    api::Answer,
    blackholes::{Order, Orders},
    clock::stamp,
    gather::Found,
};

/// Orders that are kept at most: each is a line that somebody has to read.
const MOST: usize = 4096;
const LONGEST_COMMENT: usize = 200;
/// Ten years.
const LONGEST: u64 = 10 * 366 * 24 * 3600;
/// Longer prefixes inside an order that are looked at, to say how many keep their routes.
const LOOKED_AT: usize = 10_000;
/// Of what is many, so much is named.
const NAMED: usize = 5;

#[derive(Debug)]
pub struct Blackholes {
    orders: Orders,
    next_expiry: Option<Timestamp>,
    of_peers: BTreeMap<Prefix, Wish>,
    /// Own blocks and closed pools, since when this process has them.
    of_plan: BTreeMap<Prefix, SystemTime>,
}

/// Of the peer whose path asks for a blackhole.
#[derive(Clone, Copy, Debug)]
struct Wish {
    peer: IpAddr,
    /// When this process heard of it.
    since: SystemTime,
    /// What the prefix had counted by then, while its packets were forwarded.
    before: Tally,
}

impl Blackholes {
    pub fn open(directory: &Path) -> Blackholes {
        let orders = Orders::open(directory);
        for warning in orders.warnings() {
            tracing::error!("{warning}");
        }
        let next_expiry = orders.next_expiry();
        Blackholes { orders, next_expiry, of_peers: BTreeMap::new(), of_plan: BTreeMap::new() }
    }

    /// What was ordered, expired or not: what expired while nobody was there is taken out of the sinks like the rest.
    pub fn ordered(&self) -> impl Iterator<Item = (Prefix, Reply)> {
        self.orders.iter().map(|order| (order.prefix, reply_of(order.reply)))
    }

    pub fn warnings(&self) -> impl Iterator<Item = &String> {
        self.orders.warnings()
    }

    /// The best path of this peer asks for it, or none does. `counted` tells what the prefix has counted so far.
    pub fn take_wish(
        &mut self,
        prefix: Prefix,
        peer: Option<IpAddr>,
        counted: impl FnOnce() -> Option<Tally>,
    ) {
        match peer {
            Some(peer) => {
                let new = || Wish { peer, since: SystemTime::now(), before: counted().unwrap_or_default() };
                self.of_peers.entry(prefix).or_insert_with(new).peer = peer;
            }
            None => drop(self.of_peers.remove(&prefix)),
        }
    }

    pub fn follow_plan(&mut self, plan: &NodePlan) {
        let closed = plan.pools.iter().filter(|pool| pool.unallocated_blocks.is_some());
        let now: BTreeSet<Prefix> = plan.blocks.iter().copied().chain(closed.map(|pool| pool.cidr)).collect();
        self.of_plan.retain(|prefix, _| now.contains(prefix));
        let since = SystemTime::now();
        for prefix in now {
            self.of_plan.entry(prefix).or_insert(since);
        }
    }

    pub fn next_expiry(&self) -> Option<Instant> {
        let left = self.next_expiry?.duration_since(Timestamp::now());
        // What is over is due at once.
        Some(Instant::now() + Duration::try_from(left).unwrap_or_default())
    }
}

impl Daemon {
    /// What an earlier run kept is in force again.
    pub(super) fn order_blackholes(&mut self) {
        if !self.writes() {
            return;
        }
        if self.fast_path.has_new_maps() {
            self.blackholes.orders.begin_counts_anew();
        }
        for (prefix, reply) in self.blackholes.ordered() {
            self.dataplane.set_ordered_blackhole(prefix, Some(reply));
        }
    }

    /// Ends what is over; true if anything is, which only the next step takes out of the sinks. Cheap while nothing is.
    pub(super) fn expire_blackholes(&mut self) -> bool {
        let now = Timestamp::now();
        if self.blackholes.next_expiry.is_none_or(|expiry| expiry > now) {
            return false;
        }
        let over = self.blackholes.orders.expire(now);
        for order in &over {
            tracing::info!(prefix = %order.prefix, ordered_by = %order.who, "blackhole has expired");
            self.dataplane.set_ordered_blackhole(order.prefix, None);
        }
        self.blackholes.next_expiry = self.blackholes.orders.next_expiry();
        !over.is_empty()
    }

    /// Puts on disk what could not be written before.
    pub(super) fn keep_blackholes(&mut self) {
        if self.blackholes.orders.save_again() {
            tracing::info!("operators' blackholes are on disk again as they are in force");
        }
    }

    /// All of them, or none.
    pub(super) fn add_blackholes(&mut self, order: &api::AddBlackholes, user_id: Option<u32>) -> Answer {
        if !self.writes() {
            return Answer::Refused("this manxd writes no routes (--dataplane off)".into());
        }
        if let Err(refusal) = self.check_order(order) {
            return Answer::Refused(refusal);
        }
        let since = Timestamp::now();
        let expires = match order.seconds {
            None => None,
            // Within a range that the calendar has: `check_order` has seen to it.
            Some(seconds) => since.checked_add(Duration::from_secs(seconds)).ok(),
        };
        let who = who(order.operator.as_deref(), user_id);
        let prefixes: BTreeSet<Prefix> = order.prefixes.iter().copied().collect();
        let mut replaced = Vec::new();
        let comment = order.comment.clone().filter(|comment| !comment.is_empty());
        let mut notes: Vec<String> = prefixes.iter().filter_map(|prefix| self.over_pod(*prefix)).collect();
        for &prefix in &prefixes {
            let (who, comment, reply) = (who.clone(), comment.clone(), order.reply);
            tracing::info!(
                %prefix, ordered_by = %who, until = expires.map(|at| at.to_string()), comment, "blackhole ordered"
            );
            // Of an order that is renewed, the count goes on.
            let (packets_before, bytes_before) = match self.blackholes.orders.get(prefix) {
                Some(earlier) => (earlier.packets_before, earlier.bytes_before),
                None => self.counted(prefix).unwrap_or_default(),
            };
            let order = Order { prefix, reply, since, expires, comment, who, packets_before, bytes_before };
            if self.blackholes.orders.insert(order) {
                replaced.push(prefix);
            }
            self.dataplane.set_ordered_blackhole(prefix, Some(reply_of(reply)));
        }
        self.save_blackholes();
        notes.extend(prefixes.iter().filter_map(|prefix| self.over_route(*prefix)));
        notes.extend(prefixes.iter().filter_map(|prefix| self.longer_routes(*prefix)));
        notes.extend(self.blackholes.warnings().cloned());
        answers::json(&api::BlackholesOrdered {
            node: self.node.clone(),
            prefixes: prefixes.into_iter().collect(),
            replaced,
            expires_at: expires.map(|at| stamp(at.into())),
            notes,
        })
    }

    pub(super) fn delete_blackholes(&mut self, prefixes: &[Prefix], user_id: Option<u32>) -> Answer {
        let unknown = prefixes.iter().filter(|prefix| self.blackholes.orders.get(**prefix).is_none());
        let unknown: Vec<String> = unknown.map(|prefix| self.why_not_ordered(*prefix)).collect();
        if !unknown.is_empty() {
            return Answer::Unknown(format!("nothing is deleted: {}", unknown.join("; ")));
        }
        let prefixes: BTreeSet<Prefix> = prefixes.iter().copied().collect();
        let who = who(None, user_id);
        for prefix in &prefixes {
            self.blackholes.orders.remove(*prefix);
            self.dataplane.set_ordered_blackhole(*prefix, None);
            tracing::info!(%prefix, by = %who, "blackhole deleted");
        }
        self.save_blackholes();
        let mut notes = Vec::new();
        for prefix in &prefixes {
            if let Some(Wish { peer, .. }) = self.blackholes.of_peers.get(prefix) {
                notes.push(format!("{prefix} stays a blackhole, for the peer {peer} asks for it, too"));
            } else if self.blackholes.of_plan.contains_key(prefix) {
                notes.push(format!("{prefix} stays one where no pod is, as a block or pool of the plan"));
            }
        }
        notes.extend(self.blackholes.warnings().cloned());
        answers::json(&api::BlackholesOrdered {
            node: self.node.clone(),
            prefixes: prefixes.into_iter().collect(),
            replaced: Vec::new(),
            expires_at: None,
            notes,
        })
    }

    fn save_blackholes(&mut self) {
        self.blackholes.orders.save();
        self.blackholes.next_expiry = self.blackholes.orders.next_expiry();
        for warning in self.blackholes.warnings() {
            tracing::error!("{warning}");
        }
    }

    fn why_not_ordered(&self, prefix: Prefix) -> String {
        if let Some(Wish { peer, .. }) = self.blackholes.of_peers.get(&prefix) {
            return format!(
                "{prefix} is a blackhole because the peer {peer} asks for it, which only the peer can end"
            );
        }
        if self.blackholes.of_plan.contains_key(&prefix) {
            return format!("{prefix} is a block of this node or a closed pool, and no operator's blackhole");
        }
        format!("{prefix} is no blackhole; `manxctl blackhole list` has those that are")
    }

    /// What must not be, in one text that names each prefix.
    fn check_order(&self, order: &api::AddBlackholes) -> Result<(), String> {
        if order.prefixes.is_empty() {
            return Err("no prefix is given".into());
        }
        if order.seconds.is_some_and(|seconds| seconds == 0 || seconds > LONGEST) {
            return Err(format!(
                "a blackhole lasts 1 to {LONGEST} seconds, or without an end until it is deleted"
            ));
        }
        let comment = order.comment.as_deref().unwrap_or_default();
        let operator = order.operator.as_deref().unwrap_or_default();
        for (what, text) in [("comment", comment), ("operator's name", operator)] {
            if text.chars().count() > LONGEST_COMMENT || text.chars().any(char::is_control) {
                return Err(format!("the {what} is one line of at most {LONGEST_COMMENT} characters"));
            }
        }
        let new = order.prefixes.iter().filter(|prefix| self.blackholes.orders.get(**prefix).is_none());
        if self.blackholes.orders.len() + new.count() > MOST {
            return Err(format!(
                "there would be more than {MOST} blackholes of operators; delete some, or join prefixes"
            ));
        }
        let mut wrong: Vec<String> = Vec::new();
        let mut dangerous: Vec<String> = Vec::new();
        let needed = self.needed(order.operator_address);
        for prefix in &order.prefixes {
            if let Some(why) = senseless(*prefix) {
                wrong.push(format!("{prefix}: {why}"));
            } else if let Some(service) = self.service_in_the_way(*prefix) {
                wrong.push(format!(
                    "{prefix}: the service prefix {service} overlaps it, and the programs act before netfilter \
                     translates: they would drop what is on its way to a service. Name the pods' addresses, or stop \
                     the service"
                ));
            } else if !order.even_if_it_cuts_off {
                dangerous.extend(cut_off(*prefix, &needed));
            }
        }
        if !wrong.is_empty() {
            return Err(wrong.join("; "));
        }
        if !dangerous.is_empty() {
            return Err(format!(
                "{}. It may cut this node off; order it with --yes nevertheless",
                dangerous.join("; ")
            ));
        }
        Ok(())
    }

    fn service_in_the_way(&self, prefix: Prefix) -> Option<Prefix> {
        self.plan.as_ref()?.services.iter().copied().find(|service| service.overlaps(prefix))
    }

    /// Addresses without which this node, or whoever asks, is alone; each with what it is.
    fn needed(&self, operator: Option<IpAddr>) -> BTreeMap<IpAddr, String> {
        let mut needed = BTreeMap::new();
        // The first to name an address says best what it is.
        let mut add = |address: IpAddr, what: &str| {
            needed.entry(address).or_insert_with(|| what.to_owned());
        };
        let routes = || self.dataplane.kernel().routes().iter();
        for route in routes().filter(|route| route.key.table == TABLE_LOCAL && route.kind == RouteKind::Local)
        {
            if route.key.prefix.is_host() {
                add(route.key.prefix.addr(), "an address of this node");
            }
        }
        if let Some(operator) = operator {
            add(operator, "the address from which you are logged in");
        }
        for peer in self.plan.iter().flat_map(|plan| &plan.peers) {
            add(peer.address, "a BGP peer");
        }
        for gateway in routes().flat_map(|route| &route.legs).filter_map(|leg| leg.gateway) {
            add(gateway, "a gateway of the kernel's routes");
        }
        for next_hop in self.next_hops.keys() {
            add(next_hop.address, "a next hop of BGP's routes");
        }
        for node in self.snapshot.nodes() {
            let bgp = node.spec.bgp.as_ref();
            let addresses = [
                bgp.and_then(|bgp| bgp.ipv4).map(|interface| IpAddr::V4(interface.addr)),
                bgp.and_then(|bgp| bgp.ipv6).map(|interface| IpAddr::V6(interface.addr)),
            ];
            for address in addresses.into_iter().flatten() {
                add(address, &format!("the address of Node/{}", node.name()));
            }
        }
        needed
    }

    /// That a living pod is cut off. It may be meant, or an address mistyped.
    fn over_pod(&self, prefix: Prefix) -> Option<String> {
        let local = self.dataplane.map_route(prefix).map(|route| route.action);
        // Under an order that is renewed the map has no pod there.
        let renewed = self.dataplane.withheld(prefix) == Some(NotWritten::PodInPlace);
        (renewed || matches!(local, Some(Action::Local { .. }))).then(|| {
            format!(
                "{prefix} is a pod of this node: the programs drop what is sent to it, and only this host itself still \
                 reaches it, by the kernel's own route"
            )
        })
    }

    /// That the prefix is what a peer announces: all of it is cut off, and not only what nobody has.
    fn over_route(&self, prefix: Prefix) -> Option<String> {
        let best = self.speaker.as_ref()?.best(prefix)?.best;
        let PathSource::Peer(peer) = best.source else { return None };
        let hop = best.next_hop.map(|hop| format!(", by way of {}", hop.address)).unwrap_or_default();
        Some(format!(
            "{prefix} is a route that {} announces{hop}: as long as this stands nothing in it is reached from or through \
             this node",
            peer.address
        ))
    }

    /// That what is inside has routes of its own, which win.
    fn longer_routes(&self, prefix: Prefix) -> Option<String> {
        let inside = self.dataplane.prefixes_after(Some(prefix)).take(LOOKED_AT);
        let inside = inside.take_while(|inside| prefix.covers(*inside));
        let leads = |inside: &Prefix| {
            let action = self.dataplane.map_route(*inside).map(|route| route.action);
            matches!(action, Some(Action::Via(_) | Action::Local { .. } | Action::Pass))
        };
        let inside: Vec<Prefix> = inside.filter(leads).collect();
        if inside.is_empty() {
            return None;
        }
        let mut named: Vec<String> = inside.iter().take(NAMED).map(ToString::to_string).collect();
        if inside.len() > NAMED {
            named.push(format!("{} more", inside.len() - NAMED));
        }
        Some(format!(
            "{prefix}: what has a longer route is reached still ({}); name these prefixes to drop their packets, too",
            named.join(", ")
        ))
    }

    /// Those of operators and peers, and with `all` own blocks and closed pools.
    pub(super) fn blackhole_prefixes(&self, all: bool) -> Vec<Prefix> {
        let Blackholes { orders, of_peers, of_plan, .. } = &self.blackholes;
        let asked = orders.iter().map(|order| order.prefix).chain(of_peers.keys().copied());
        let mut prefixes: BTreeSet<Prefix> = asked.collect();
        if all {
            prefixes.extend(of_plan.keys());
        }
        prefixes.into_iter().collect()
    }

    pub(super) fn blackholes(&self, found: Vec<Found>) -> api::Blackholes {
        let names = self.interface_names();
        let now = Timestamp::now();
        let rows = found.into_iter().filter_map(|found| {
            let prefix = found.prefix;
            let wanted = self.dataplane.map_route(prefix);
            let cause = self.blackhole_cause(prefix, wanted.as_ref())?;
            let in_kernel = found
                .fib
                .as_ref()
                .is_some_and(|route| matches!(route.kind, RouteKind::Blackhole | RouteKind::Unreachable));
            let in_map = self.fast_path.sink().map(|_| {
                let held = found.map.as_ref().map(|route| &route.action);
                matches!(held, Some(Action::Blackhole(_) | Action::Unreachable))
            });
            let order = self.blackholes.orders.get(prefix);
            // A prefix that was not in the map for a while may have lost its counter, and another one began at zero.
            let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
            let wish = self.blackholes.of_peers.get(&prefix);
            let counted = self.counted(prefix).map(|(packets, bytes)| match (order, wish) {
                (Some(order), _) => (since(packets, order.packets_before), since(bytes, order.bytes_before)),
                (None, Some(wish)) => (since(packets, wish.before.packets), since(bytes, wish.before.bytes)),
                (None, None) => (packets, bytes),
            });
            let left = order.and_then(|order| order.expires).map(|expires| expires.duration_since(now));
            Some(api::BlackholeRow {
                prefix,
                reason: self.row(found, &names).reason,
                cause,
                seconds_left: left.map(|left| u64::try_from(left.as_secs()).unwrap_or(0)),
                in_kernel,
                in_map,
                packets: counted.map(|(packets, _)| packets),
                bytes: counted.map(|(_, bytes)| bytes),
            })
        });
        api::Blackholes {
            node: self.node.clone(),
            blackholes: rows.collect(),
            warnings: self.blackholes.warnings().cloned().collect(),
        }
    }

    /// Packets and octets to the prefix, since it is in the map.
    fn counted(&self, prefix: Prefix) -> Option<(u64, u64)> {
        let tally = self.fast_path.sink()?.prefix_count(prefix).ok()??;
        Some((tally.packets, tally.bytes))
    }

    /// Who wants the prefix to be a blackhole, if anybody. `wanted` is what the table makes of it.
    pub(super) fn blackhole_cause(&self, prefix: Prefix, wanted: Option<&Route>) -> Option<BlackholeCause> {
        if let Some(order) = self.blackholes.orders.get(prefix) {
            return Some(BlackholeCause {
                asked_by: AskedBy::Operator,
                who: order.who.clone(),
                since: stamp(order.since.into()),
                expires_at: order.expires.map(|at| stamp(at.into())),
                comment: order.comment.clone(),
                reply: order.reply,
            });
        }
        let cause = |asked_by, who: String, since: SystemTime, reply| BlackholeCause {
            asked_by,
            who,
            since: stamp(since),
            expires_at: None,
            comment: None,
            reply,
        };
        if let Some(Wish { peer, since, .. }) = self.blackholes.of_peers.get(&prefix) {
            return Some(cause(AskedBy::Peer, peer.to_string(), *since, BlackholeReply::Drop));
        }
        let reply = match wanted?.action {
            Action::Blackhole(BlackholeKind::Own) => BlackholeReply::Drop,
            Action::Unreachable => BlackholeReply::Unreachable,
            _ => return None,
        };
        let since = *self.blackholes.of_plan.get(&prefix)?;
        let plan = self.plan.as_ref()?;
        if plan.blocks.contains(&prefix) {
            return Some(cause(AskedBy::OwnBlock, format!("Node/{}", self.node), since, reply));
        }
        let pool = plan.pools.iter().find(|pool| pool.cidr == prefix)?;
        Some(cause(AskedBy::Pool, format!("IPPool/{}", pool.name), since, reply))
    }
}

fn reply_of(reply: BlackholeReply) -> Reply {
    match reply {
        BlackholeReply::Drop => Reply::Drop,
        BlackholeReply::Unreachable => Reply::Unreachable,
    }
}

/// The name is what whoever asks says; the user id is the kernel's word.
fn who(operator: Option<&str>, user_id: Option<u32>) -> String {
    match (operator.filter(|name| !name.is_empty()), user_id) {
        (Some(name), Some(id)) => format!("{name} (uid {id})"),
        (None, Some(id)) => format!("uid {id}"),
        (Some(name), None) => name.to_owned(),
        (None, None) => "unknown".into(),
    }
}

/// Prefixes that no blackhole of ours could mean.
fn senseless(prefix: Prefix) -> Option<&'static str> {
    let inside = |ranges: &[&str]| {
        ranges.iter().any(|range| range.parse::<Prefix>().is_ok_and(|range| range.overlaps(prefix)))
    };
    if prefix.len() == 0 {
        return Some("the default route is no blackhole: it would end everything that has no longer route");
    }
    if inside(&["127.0.0.0/8", "::1/128", "169.254.0.0/16", "fe80::/10"]) {
        return Some("loopback and link-local addresses are not routed, and nothing is dropped there");
    }
    if inside(&["::ffff:0:0/96"]) {
        return Some("IPv4 addresses in IPv6's notation are not routed; write the address as IPv4's");
    }
    inside(&["224.0.0.0/3", "ff00::/8"]).then_some(
        "multicast, broadcast and reserved addresses are the kernel's own, and nothing is dropped there",
    )
}

/// What the node needs inside the prefix.
fn cut_off(prefix: Prefix, needed: &BTreeMap<IpAddr, String>) -> Option<String> {
    let inside: Vec<String> = needed
        .iter()
        .filter(|(address, _)| prefix.contains(**address))
        .map(|(address, what)| format!("{address}, {what}"))
        .collect();
    if inside.is_empty() {
        return None;
    }
    let mut named: Vec<String> = inside.iter().take(NAMED).cloned().collect();
    if inside.len() > NAMED {
        named.push(format!("{} more", inside.len() - NAMED));
    }
    Some(format!("{prefix}: in it lie {}", named.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_what_can_is_not() {
        for text in
            ["0.0.0.0/0", "::/0", "127.0.0.0/8", "126.0.0.0/7", "fe80::1/128", "224.0.0.5/32", "ff02::/16"]
        {
            assert!(senseless(p(text)).is_some(), "{text}");
        }
        for text in ["172.16.36.193/32", "10.0.0.0/8", "2001:db8::/32", "fd00::/8", "0.0.0.0/2"] {
            assert!(senseless(p(text)).is_none(), "{text}");
        }
    }

    #[test]
    fn what_the_node_needs_is_named_and_of_many_the_first() {
        let mut needed =
            BTreeMap::from([("192.168.80.124".parse().unwrap(), String::from("an address of this node"))]);
        assert_eq!(cut_off(p("192.168.81.0/24"), &needed), None);
        assert_eq!(
            cut_off(p("192.168.80.0/24"), &needed).unwrap(),
            "192.168.80.0/24: in it lie 192.168.80.124, an address of this node"
        );
        for last in 1..=9 {
            needed.insert(IpAddr::from([192, 168, 80, last]), String::from("a BGP peer"));
        }
        let text = cut_off(p("192.168.80.0/24"), &needed).unwrap();
        assert!(text.contains("192.168.80.1, a BGP peer") && text.ends_with("; 5 more"), "{text}");
    }

    #[test]
    fn an_order_is_signed_by_the_kernels_word_and_the_operators_name() {
        assert_eq!(who(Some("alice"), Some(0)), "alice (uid 0)");
        assert_eq!(who(None, Some(1000)), "uid 1000");
        assert_eq!(who(Some(""), None), "unknown");
    }
}
