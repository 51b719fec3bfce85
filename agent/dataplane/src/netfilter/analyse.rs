//! What the rules mean for packets that do not pass them. Pure: a [`Ruleset`] in, findings out.
//!
//! Every base chain that forwarded packets meet is followed through its jumps, with what the matches on the way leave
//! of the packets. Chains of type nat see first packets only, and chains at the input and output hooks what
//! is the host's own: neither is followed.

use std::collections::{BTreeMap, HashMap};

use super::{
    Duty, Finding, Place, Rules,
    expression::{Expression, Verdict, ct, meta, object},
    narrow::{Narrowing, Packets},
    ruleset::{Base, Rule, Ruleset, Set, TableKey, family},
};
use crate::reach::{Family, InterfaceMatch, Reach};

/// Rules followed, those of a chain once for each way to it. Beyond that all packets are taken to meet something.
const BUDGET: usize = 1_000_000;
/// `NFT_JUMP_STACK_SIZE`.
const DEEPEST: usize = 16;
/// Findings of one kind; beyond that one stands for the others.
const MOST: usize = 256;

/// Expressions, matches and targets that register conntrack's hooks.
const TRACKING: [&str; 7] = ["ct", "connlimit", "flow_offload", "masq", "nat", "redir", "synproxy"];
const TRACKING_EXTENSIONS: [&str; 17] = [
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "DNAT",
    "MASQUERADE",
    "NETMAP",
    "REDIRECT",
    "SNAT",
    "SYNPROXY",
    "cluster",
    "connbytes",
    "connlabel",
    "connlimit",
    "connmark",
    "conntrack",
    "helper",
    "state",
];

/// Expressions that count, or change, or take away packets.
const EVERY_PACKET: [&str; 9] =
    ["limit", "quota", "numgen", "dynset", "tproxy", "socket", "synproxy", "dup", "fwd"];
/// Those that do nothing to a packet that would be missed.
const HARMLESS: [&str; 27] = [
    "bitwise",
    "byteorder",
    "cmp",
    "connlimit",
    "counter",
    "ct",
    "exthdr",
    "fib",
    "flow_offload",
    "hash",
    "immediate",
    "inner",
    "last",
    "log",
    "lookup",
    "masq",
    "meta",
    "nat",
    "notrack",
    "objref",
    "osf",
    "payload",
    "range",
    "redir",
    "rt",
    "tunnel",
    "xfrm",
];
const EVERY_PACKET_MATCHES: [&str; 18] = [
    "bpf",
    "connbytes",
    "cpu",
    "dscp",
    "ecn",
    "hashlimit",
    "hl",
    "length",
    "limit",
    "quota",
    "rateest",
    "recent",
    "socket",
    "statistic",
    "string",
    "time",
    "tos",
    "ttl",
];
const EVERY_PACKET_TARGETS: [&str; 15] = [
    "CLASSIFY",
    "DNPT",
    "DSCP",
    "ECN",
    "HL",
    "NFQUEUE",
    "RATEEST",
    "SET",
    "SNPT",
    "SYNPROXY",
    "TCPOPTSTRIP",
    "TEE",
    "TOS",
    "TPROXY",
    "TTL",
];

/// By family what makes conntrack follow connections.
pub(super) fn tracking(ruleset: &Ruleset) -> BTreeMap<Family, String> {
    let mut found = BTreeMap::new();
    for rule in &ruleset.rules {
        let families: &[Family] = match rule.table.0 {
            family::ARP => continue,
            family::IPV4 => &[Family::Ipv4],
            family::IPV6 => &[Family::Ipv6],
            _ => &[Family::Ipv4, Family::Ipv6],
        };
        if families.iter().all(|family| found.contains_key(family)) {
            continue;
        }
        // Also in a table that is switched off: the hooks are registered with the expression.
        let Some(what) = rule.expressions.iter().find_map(tracks) else { continue };
        for family in families {
            found.entry(*family).or_insert_with(|| format!("{}: {what}", Place::of(rule)));
        }
    }
    found
}

fn tracks(expression: &Expression) -> Option<String> {
    match expression {
        Expression::Ct { .. } => Some("ct".to_owned()),
        Expression::Other { name, .. } => TRACKING.contains(&name.as_str()).then(|| name.clone()),
        Expression::Match { name, .. } | Expression::Target { name, .. } => {
            TRACKING_EXTENSIONS.contains(&name.as_str()).then(|| name.clone())
        }
        Expression::Object { kind } if object::TRACKING.contains(kind) => Some("an object of ct".to_owned()),
        Expression::Object { kind: object::SYNPROXY } => Some("synproxy".to_owned()),
        _ => None,
    }
}

pub(super) fn rules(ruleset: &Ruleset) -> Rules {
    let mut chains: HashMap<(&TableKey, &str), Vec<&Rule>> = HashMap::new();
    for rule in &ruleset.rules {
        chains.entry((&rule.table, &rule.chain)).or_default().push(rule);
    }
    let mut walk =
        Walk { ruleset, chains: &chains, found: Found::default(), left: BUDGET, depth: 0, marks: false };
    for chain in &ruleset.chains {
        let Some(base) = &chain.base else { continue };
        let Some(packets) = packets_of(&chain.table, base) else { continue };
        if ruleset.dormant.contains(&chain.table) {
            continue;
        }
        walk.marks = is_before_routing(chain.table.0, base);
        walk.chain(&chain.table, &chain.name, packets.clone());
        if base.drops {
            let place = Place {
                family: chain.table.0,
                table: chain.table.1.clone(),
                chain: chain.name.clone(),
                handle: None,
            };
            walk.found.add(Duty::Filter, place, "policy drop".to_owned(), packets);
        }
    }
    if walk.left == 0 {
        let place = Place { family: 0, table: String::new(), chain: String::new(), handle: None };
        walk.found.add(
            Duty::EveryPacket,
            place,
            "more rules than are followed".to_owned(),
            Packets::default(),
        );
    }
    walk.found.into_rules()
}

/// The packets of others that enter a base chain; None for one that they do not meet, or meet all the same.
fn packets_of(table: &TableKey, base: &Base) -> Option<Packets> {
    const LOCAL_IN: u32 = 1;
    const LOCAL_OUT: u32 = 3;
    const INET_INGRESS: u32 = 5;
    const NETDEV_INGRESS: u32 = 0;
    if base.kind == "nat" {
        return None;
    }
    let mut reach = Reach::default();
    match table.0 {
        family::INET | family::IPV4 | family::IPV6 if [LOCAL_IN, LOCAL_OUT].contains(&base.hook) => {
            return None;
        }
        family::INET | family::IPV4 | family::IPV6 | family::NETDEV => {}
        // What a bridge forwards never comes to our programs, and what it takes in has passed its rules before.
        _ => return None,
    }
    match table.0 {
        family::IPV4 => reach.family = Some(Family::Ipv4),
        family::IPV6 => reach.family = Some(Family::Ipv6),
        _ => {}
    }
    let ingress = table.0 == family::NETDEV && base.hook == NETDEV_INGRESS
        || table.0 == family::INET && base.hook == INET_INGRESS;
    if ingress {
        reach.by = Some(base.devices.iter().cloned().map(InterfaceMatch::Name).collect());
    }
    Some(Packets { reach, guard_leaves_them: false })
}

/// A mark that is set here counts when the route is chosen.
fn is_before_routing(of: u8, base: &Base) -> bool {
    const PREROUTING: u32 = 0;
    const INET_INGRESS: u32 = 5;
    match of {
        family::NETDEV => base.hook == 0,
        _ => [PREROUTING, INET_INGRESS].contains(&base.hook),
    }
}

struct Walk<'r> {
    ruleset: &'r Ruleset,
    chains: &'r HashMap<(&'r TableKey, &'r str), Vec<&'r Rule>>,
    found: Found,
    left: usize,
    depth: usize,
    /// Marks are of interest.
    marks: bool,
}

impl<'r> Walk<'r> {
    /// True: every packet of an established flow that came here was accepted, and goes no further.
    fn chain(&mut self, table: &'r TableKey, name: &'r str, mut packets: Packets) -> bool {
        if self.depth > DEEPEST {
            return false;
        }
        self.depth += 1;
        let mut accepted = false;
        let chains = self.chains;
        for rule in chains.get(&(table, name)).into_iter().flatten() {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            if self.rule(table, rule, &packets) {
                packets.guard_leaves_them = true;
                accepted = true;
            }
        }
        self.depth -= 1;
        accepted
    }

    /// As for a chain.
    fn rule(&mut self, table: &'r TableKey, rule: &'r Rule, packets: &Packets) -> bool {
        let mut narrowing = Narrowing::new(self.ruleset, table, packets);
        let mut accepted = false;
        let decides = rule.expressions.iter().any(decides);
        for expression in &rule.expressions {
            let mut by_state = false;
            if let Expression::Lookup { register, .. } = expression {
                by_state = narrowing.is_state(*register) && !narrowing.some_established_left;
            }
            narrowing.take(expression);
            match expression {
                Expression::Verdict(verdict) => {
                    if self.content_matters(&narrowing, verdict) {
                        let what = narrowing.content.unwrap_or_default();
                        self.note(
                            Duty::EveryPacket,
                            rule,
                            &format!("a verdict by {what}"),
                            &narrowing.packets,
                        );
                    }
                    accepted |=
                        self.verdict(table, rule, verdict, &narrowing) && !narrowing.some_established_left;
                }
                Expression::Lookup { set, .. } => {
                    accepted |= self.verdict_map(table, rule, set, by_state, &narrowing);
                }
                // How often it is logged or counted is no packet's fate.
                expression if counts_only(expression) && !decides => {}
                _ => self.effect(rule, expression, &narrowing.packets),
            }
        }
        accepted
    }

    fn content_matters(&self, narrowing: &Narrowing<'_>, verdict: &Verdict) -> bool {
        narrowing.content.is_some() && *verdict != Verdict::GoesOn
    }

    fn verdict(
        &mut self,
        table: &'r TableKey,
        rule: &'r Rule,
        verdict: &'r Verdict,
        narrowing: &Narrowing<'_>,
    ) -> bool {
        match verdict {
            Verdict::Accept => return !narrowing.packets.guard_leaves_them,
            Verdict::Drop => self.note(Duty::Filter, rule, "drop", &narrowing.packets),
            Verdict::Queue => self.note(Duty::EveryPacket, rule, "queue", &narrowing.packets),
            Verdict::Jump(to) => return self.chain(table, to, narrowing.packets.clone()),
            Verdict::GoesOn => {}
        }
        false
    }

    /// A map from something to verdicts: any of them may come. `by_state`: from the state of the connection, of all
    /// packets that there are.
    fn verdict_map(
        &mut self,
        table: &'r TableKey,
        rule: &'r Rule,
        set: &str,
        by_state: bool,
        narrowing: &Narrowing<'_>,
    ) -> bool {
        let ruleset = self.ruleset;
        match ruleset.sets.get(&(table.clone(), set.to_owned())) {
            Some(Set::Verdicts(elements)) => {
                if narrowing.content.is_some() {
                    self.note(
                        Duty::EveryPacket,
                        rule,
                        "verdicts by what differs among packets",
                        &narrowing.packets,
                    );
                }
                let mut accepted = false;
                for (key, verdict) in elements {
                    let established = by_state && *key == ct::ESTABLISHED.to_ne_bytes();
                    let mut of = Narrowing::new(ruleset, table, &narrowing.packets);
                    of.packets.guard_leaves_them |= by_state && !established;
                    accepted |= self.verdict(table, rule, verdict, &of) && established;
                }
                accepted
            }
            Some(Set::Unread { verdicts: true }) => {
                self.note(Duty::EveryPacket, rule, "a map of verdicts that is too large", &narrowing.packets);
                false
            }
            _ => false,
        }
    }

    /// What is neither a match nor a verdict.
    fn effect(&mut self, rule: &Rule, expression: &Expression, packets: &Packets) {
        let every = |what: &str| Some((Duty::EveryPacket, what.to_owned()));
        let filter = |what: &str| Some((Duty::Filter, what.to_owned()));
        let mark = |what: &str| self.marks.then(|| (Duty::Mark, what.to_owned()));
        let found = match expression {
            Expression::PayloadWrite => every("a write to the packet"),
            Expression::MetaWrite { key: meta::PRIORITY } => every("meta priority set"),
            Expression::MetaWrite { key: meta::MARK } => mark("meta mark set"),
            Expression::Object { kind: object::QUOTA } => every("quota"),
            Expression::Object { kind: object::LIMIT } => every("limit"),
            Expression::Object { kind: object::SYNPROXY } => every("synproxy"),
            Expression::Match { name, .. } if EVERY_PACKET_MATCHES.contains(&name.as_str()) => every(name),
            Expression::Target { name, .. } => match name.as_str() {
                "REJECT" | "DROP" => filter(name),
                // Restoring the mark of a connection is like setting it.
                "MARK" | "HMARK" | "CONNMARK" => mark(name),
                name if EVERY_PACKET_TARGETS.contains(&name) => every(name),
                _ => None,
            },
            Expression::Other { name, .. } if name == "reject" => filter(name),
            Expression::Other { name, .. } if EVERY_PACKET.contains(&name.as_str()) => every(name),
            Expression::Other { name, .. } if !HARMLESS.contains(&name.as_str()) => {
                every(&format!("{name}, which is not known"))
            }
            _ => None,
        };
        if let Some((duty, what)) = found {
            self.note(duty, rule, &what, packets);
        }
    }

    fn note(&mut self, duty: Duty, rule: &Rule, what: &str, packets: &Packets) {
        self.found.add(duty, Place::of(rule), what.to_owned(), packets.clone());
    }
}

/// A match by how many packets came, which by itself changes nothing.
fn counts_only(expression: &Expression) -> bool {
    match expression {
        Expression::Match { name, .. } => {
            ["connbytes", "hashlimit", "limit", "quota", "rateest", "statistic"].contains(&name.as_str())
        }
        Expression::Object { kind } => [object::LIMIT, object::QUOTA].contains(kind),
        Expression::Other { name, .. } => ["limit", "quota", "numgen"].contains(&name.as_str()),
        _ => false,
    }
}

/// Whether something becomes of a packet by it.
fn decides(expression: &Expression) -> bool {
    match expression {
        Expression::Verdict(verdict) => *verdict != Verdict::GoesOn,
        Expression::Target { name, .. } => !["LOG", "NFLOG"].contains(&name.as_str()),
        Expression::Lookup { .. } | Expression::PayloadWrite | Expression::MetaWrite { .. } => true,
        Expression::Other { name, .. } => !HARMLESS.contains(&name.as_str()) && !counts_only(expression),
        _ => false,
    }
}

/// What was found, once for each kind of packets.
#[derive(Default)]
struct Found {
    by_reach: BTreeMap<(Duty, bool, Reach), Finding>,
    counts: HashMap<(Duty, bool), usize>,
}

impl Found {
    fn add(&mut self, duty: Duty, place: Place, what: String, packets: Packets) {
        let Packets { mut reach, guard_leaves_them } = packets;
        // Nobody's.
        if [&reach.from, &reach.to].iter().any(|side| side.any_of.as_ref().is_some_and(Vec::is_empty)) {
            return;
        }
        let count = self.counts.entry((duty, guard_leaves_them)).or_default();
        if *count >= MOST {
            reach = Reach::default();
        }
        let finding = Finding { place, what, reach: reach.clone(), more: 0 };
        let place = &finding.place;
        match self.by_reach.get_mut(&(duty, guard_leaves_them, reach.clone())) {
            // One rule may be reached by several ways.
            Some(had) if had.place == *place => {}
            Some(had) => had.more += 1,
            None => {
                *count += 1;
                self.by_reach.insert((duty, guard_leaves_them, reach), finding);
            }
        }
    }

    fn into_rules(self) -> Rules {
        let mut rules = Rules::default();
        for ((duty, guard_leaves_them, _), finding) in self.by_reach {
            match (duty, guard_leaves_them) {
                (Duty::EveryPacket, false) => rules.every_packet.push(finding),
                (Duty::EveryPacket, true) => rules.first_packets.push(finding),
                (Duty::Filter, _) => rules.filters.push(finding),
                (Duty::Mark, _) => rules.marks.push(finding),
            }
        }
        rules
    }
}
