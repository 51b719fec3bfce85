//! What the rules mean for packets that do not pass them. Pure: a [`Ruleset`] in, findings out.
//!
//! Every base chain that forwarded packets meet is followed through its jumps, with what the matches on the way leave
//! of the packets. Chains of type nat see first packets only, and chains at the input and output hooks what
//! is the host's own: neither is followed.

use std::collections::{BTreeMap, HashMap};

use super::{
    Duty, Place, Rules,
    expression::{Expression, Verdict, ct, meta, object},
    found::Found,
    iptables,
    narrow::{Narrowing, Packets, Sole, WayBack},
    ruleset::{Base, Key, Rule, Ruleset, Set, TableKey, family},
};
use crate::reach::{Family, InterfaceMatch, Interfaces, Reach};

/// Rules followed, those of a chain once for each way to it. Beyond that all packets are taken to meet something.
const BUDGET: usize = 1_000_000;
/// `NFT_JUMP_STACK_SIZE`.
const DEEPEST: usize = 16;
/// Octets of an interface's name.
const IFNAMSIZ: usize = 16;
/// Verdicts by more than the flow that are remembered of a base chain; beyond that all packets may have met one.
const MOST_UNEVEN: usize = 1024;

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
const EVERY_PACKET: [&str; 8] = ["limit", "quota", "numgen", "tproxy", "socket", "synproxy", "dup", "fwd"];
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

/// Those that look at packets, or change what the guard leaves to the stack.
const HARMLESS_TARGETS: [&str; 17] = [
    "AUDIT",
    "CHECKSUM",
    "CONNSECMARK",
    "CT",
    "DNAT",
    "IDLETIMER",
    "LED",
    "LOG",
    "MASQUERADE",
    "NETMAP",
    "NFLOG",
    "NOTRACK",
    "REDIRECT",
    "SECMARK",
    "SNAT",
    "TCPMSS",
    "TRACE",
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
        Expression::Ct { .. } | Expression::CtWrite { .. } => Some("ct".to_owned()),
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
    let mut walk = Walk {
        ruleset,
        chains: &chains,
        found: Found::default(),
        left: BUDGET,
        depth: 0,
        marks: false,
        uneven: Vec::new(),
        let_out: Vec::new(),
    };
    for chain in &ruleset.chains {
        let Some(base) = &chain.base else { continue };
        let Some(packets) = packets_of(&chain.table, base) else { continue };
        if ruleset.dormant.contains(&chain.table) {
            continue;
        }
        walk.marks = is_before_routing(chain.table.0, base);
        walk.uneven.clear();
        walk.let_out.clear();
        let left = walk.chain(&chain.table, &chain.name, packets);
        if base.drops {
            let place = Place {
                family: chain.table.0,
                table: chain.table.1.clone(),
                chain: chain.name.clone(),
                handle: None,
            };
            walk.filter(place, "policy drop", &left.packets);
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
    let devices = || Interfaces {
        any_of: Some(base.devices.iter().cloned().map(InterfaceMatch::Name).collect()),
        none_of: Vec::new(),
    };
    if ingress {
        reach.by = devices();
    } else if table.0 == family::NETDEV {
        reach.out = devices();
    }
    Some(Packets { reach, ..Packets::default() })
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
    /// What a verdict took out of the base chain by more than the flow: of one flow some packets and others not.
    uneven: Vec<Reach>,
    /// What a verdict took out of it, be it whole flows.
    let_out: Vec<Reach>,
}

/// Of a chain, when it has been followed to its end.
struct Left {
    /// No packet of an established flow goes on behind the rule that called it.
    taken: bool,
    /// What meets the policy, if it is a base chain.
    packets: Packets,
}

/// What became of the packets that a rule is met by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// They go on in this chain, some of them at least.
    GoOn,
    /// They go on behind the rule that called this chain.
    Return,
    /// Accepted, or refused, which has been noted.
    Taken,
}

/// What a rule leaves of them.
#[derive(Default)]
struct Effect {
    /// Of packets of established flows: all that came are taken; all or some are sent back; none goes on.
    taken: bool,
    returned: bool,
    gone: bool,
    /// And of all packets these.
    without: Vec<Sole>,
    /// What a chain left over that all packets were sent to.
    left: Option<Reach>,
}

impl<'r> Walk<'r> {
    fn chain(&mut self, table: &'r TableKey, name: &'r str, packets: Packets) -> Left {
        if self.depth > DEEPEST {
            return Left { taken: false, packets };
        }
        self.depth += 1;
        let mut left = packets.clone();
        let (mut taken, mut returned) = (false, false);
        let chains = self.chains;
        for rule in chains.get(&(table, name)).into_iter().flatten() {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            let effect = self.rule(table, rule, &left);
            taken |= effect.taken;
            returned |= effect.returned;
            left.guard_leaves_them |= effect.gone;
            left.reach = effect.left.unwrap_or(left.reach);
            effect.without.into_iter().for_each(|sole| sole.exclude(&mut left.reach));
        }
        self.depth -= 1;
        // Who returned meets the policy too.
        Left { taken: taken && !returned, packets: if returned { packets } else { left } }
    }

    /// `packets` come to the rule.
    fn rule(&mut self, table: &'r TableKey, rule: &'r Rule, packets: &Packets) -> Effect {
        let mut narrowing = Narrowing::new(self.ruleset, table, packets);
        let mut effect = Effect::default();
        let decides = rule.expressions.iter().any(decides);
        for expression in &rule.expressions {
            let (mut by_state, mut by_interface) = (false, None);
            if let Expression::Lookup { register, .. } = expression {
                by_state = narrowing.is_state(*register) && !narrowing.some_established_left;
                by_interface = narrowing.interface_at(*register);
            }
            narrowing.take(expression);
            match expression {
                Expression::Verdict(verdict) => {
                    let content = narrowing.content.as_deref();
                    if let Some(what) = content.filter(|_| *verdict != Verdict::GoesOn) {
                        self.note(
                            Duty::EveryPacket,
                            rule,
                            &format!("a verdict by {what}"),
                            &narrowing.packets,
                        );
                    }
                    let (fate, left) = self.verdict(table, rule, verdict, &narrowing.packets);
                    effect.take(fate, &narrowing);
                    effect.left = left.filter(|_| narrowing.takes_all());
                }
                Expression::Lookup { set, .. } => {
                    self.verdict_map(table, rule, set, (by_state, by_interface), &narrowing, &mut effect);
                }
                // How often it is logged or counted is no packet's fate.
                expression if counts_only(expression) && !decides => {}
                _ => self.effect(rule, expression, &narrowing.packets),
            }
        }
        effect
    }

    /// And what a chain that was called left over.
    fn verdict(
        &mut self,
        table: &'r TableKey,
        rule: &'r Rule,
        verdict: &'r Verdict,
        packets: &Packets,
    ) -> (Fate, Option<Reach>) {
        let fate = match verdict {
            Verdict::Accept => {
                self.lets_out(packets);
                Fate::Taken
            }
            Verdict::Drop => {
                self.filter(Place::of(rule), "drop", packets);
                Fate::Taken
            }
            Verdict::Queue => {
                self.note(Duty::EveryPacket, rule, "queue", packets);
                Fate::Taken
            }
            Verdict::Return => {
                self.lets_out(packets);
                Fate::Return
            }
            Verdict::Jump(to) => {
                let left = self.chain(table, to, packets.clone());
                return (if left.taken { Fate::Taken } else { Fate::GoOn }, Some(left.packets.reach));
            }
            Verdict::Goto(to) => {
                let taken = self.chain(table, to, packets.clone()).taken;
                self.lets_out(packets);
                if taken { Fate::Taken } else { Fate::Return }
            }
            Verdict::GoesOn => Fate::GoOn,
        };
        (fate, None)
    }

    /// These do not meet the rules that follow.
    fn lets_out(&mut self, packets: &Packets) {
        let note = |list: &mut Vec<Reach>| {
            let full = list.len() >= MOST_UNEVEN;
            list.push(if full { Reach::default() } else { packets.reach.clone() });
            list.truncate(MOST_UNEVEN + 1);
        };
        note(&mut self.let_out);
        if !packets.by_flow {
            note(&mut self.uneven);
        }
    }

    /// A map from something to verdicts: any of them may come. By the state of the connection, or by the name of an
    /// interface, of all packets that there are.
    fn verdict_map(
        &mut self,
        table: &'r TableKey,
        rule: &'r Rule,
        set: &str,
        (by_state, by_interface): (bool, Option<bool>),
        narrowing: &Narrowing<'r>,
        effect: &mut Effect,
    ) {
        let ruleset = self.ruleset;
        match ruleset.sets.get(&(table.clone(), set.to_owned())) {
            Some(Set::Verdicts(elements)) => {
                if narrowing.content.is_some() {
                    let what = "verdicts by what differs among packets";
                    self.note(Duty::EveryPacket, rule, what, &narrowing.packets);
                }
                let all_of = |octets: usize| {
                    elements.iter().all(|(key, _)| match key {
                        Key::Exact(value) => value.len() == octets,
                        Key::Several => false,
                        Key::Others => true,
                    })
                };
                let by_state = by_state && all_of(4);
                let by_interface = by_interface.filter(|_| all_of(IFNAMSIZ));
                let established = Key::Exact(ct::ESTABLISHED.to_ne_bytes().to_vec());
                let is_named = elements.iter().any(|(key, _)| *key == established);
                for (key, verdict) in elements {
                    let for_established =
                        by_state && (*key == established || *key == Key::Others && !is_named);
                    let mut of = narrowing.clone();
                    of.packets.guard_leaves_them |= by_state && !for_established;
                    of.some_established_left = !for_established;
                    match (by_interface, key) {
                        (Some(out), Key::Exact(name)) => of.by_interface(out, name),
                        (Some(out), Key::Others) => of.by_none_of(out, elements),
                        _ => {}
                    }
                    let (fate, _) = self.verdict(table, rule, verdict, &of.packets);
                    effect.take(fate, &of);
                }
            }
            Some(Set::Unread { verdicts: true, why }) => {
                let what = match why.changes(set) {
                    Some(what) => format!("verdicts by {what}"),
                    None => "a map of verdicts that is too large".to_owned(),
                };
                self.note(Duty::EveryPacket, rule, &what, &narrowing.packets);
                // To anywhere.
                effect.returned = true;
                self.lets_out(&Packets { by_flow: false, ..narrowing.packets.clone() });
            }
            _ => {}
        }
    }

    /// What is neither a match nor a verdict.
    fn effect(&mut self, rule: &Rule, expression: &Expression, packets: &Packets) {
        let every = |what: &str| Some((Duty::EveryPacket, what.to_owned()));
        let mark = |what: &str| self.marks.then(|| (Duty::Mark, what.to_owned()));
        let timeout = |what: &str| Some((Duty::Timeout, what.to_owned()));
        let found = match expression {
            Expression::PayloadWrite => every("a write to the packet"),
            // The guard asks the default zone, where such a flow has no entry, or one of before.
            Expression::CtWrite { key: ct::ZONE } => every("ct zone set"),
            Expression::Object { kind: object::TIMEOUT } => timeout("ct timeout set"),
            Expression::MetaWrite { key: meta::PRIORITY } => every("meta priority set"),
            Expression::MetaWrite { key: meta::MARK } => mark("meta mark set"),
            Expression::Object { kind: object::QUOTA } => every("quota"),
            Expression::Object { kind: object::LIMIT } => every("limit"),
            Expression::Object { kind: object::SYNPROXY } => every("synproxy"),
            Expression::ObjectOf { map } => every(&format!("objects of the map {map}, which is not known")),
            Expression::Fill { set } => every(&format!("the set {set} filled")),
            Expression::Match { name, .. } if EVERY_PACKET_MATCHES.contains(&name.as_str()) => every(name),
            Expression::Target { name, parameters } => match name.as_str() {
                "CT" if iptables::has_zone(parameters) => every("CT --zone"),
                "CT" if iptables::has_timeout(parameters) => timeout("CT --timeout"),
                "REJECT" | "DROP" => return self.filter(Place::of(rule), name, packets),
                // Restoring the mark of a connection is like setting it.
                "MARK" | "HMARK" | "CONNMARK" => mark(name),
                name if EVERY_PACKET_TARGETS.contains(&name) => every(name),
                name if HARMLESS_TARGETS.contains(&name) => None,
                name => every(&format!("{name}, which is not known")),
            },
            Expression::Other { name, .. } if name == "reject" => {
                return self.filter(Place::of(rule), name, packets);
            }
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

    /// Where these packets are refused. That the first packets of a flow were refused says nothing of the others: the rule may
    /// be younger than the flow. And who sends on, though conntrack forgot the flow, has an entry again of which both
    /// directions were seen, since conntrack notes in PREROUTING what is refused later.
    fn filter(&mut self, place: Place, what: &str, packets: &Packets) {
        match packets.no_way_back {
            // The programs carry from sources only to which there is a way.
            Some(WayBack::Loose) => return,
            Some(WayBack::Strict) => {
                return self.found.add(Duty::WayBack, place, what.to_owned(), packets.clone());
            }
            None => {}
        }
        let none_of = |list: &[Reach]| list.iter().all(|reach| reach.is_apart_from(&packets.reach));
        let even = packets.by_flow && none_of(&self.uneven);
        let duty = match () {
            () if packets.guard_leaves_them => Duty::Filter,
            () if even && packets.exact => {
                if none_of(&self.let_out) {
                    self.found.add(Duty::Shut, place.clone(), what.to_owned(), packets.clone());
                }
                Duty::Closed
            }
            () => Duty::Running,
        };
        self.found.add(duty, place, what.to_owned(), packets.clone());
    }

    fn note(&mut self, duty: Duty, rule: &Rule, what: &str, packets: &Packets) {
        self.found.add(duty, Place::of(rule), what.to_owned(), packets.clone());
    }
}

impl Effect {
    fn take(&mut self, fate: Fate, narrowing: &Narrowing<'_>) {
        let of_established = !narrowing.packets.guard_leaves_them;
        let all = of_established && !narrowing.some_established_left;
        self.returned |= of_established && fate == Fate::Return;
        self.taken |= all && fate == Fate::Taken;
        self.gone |= all && fate != Fate::GoOn;
        if fate != Fate::GoOn {
            self.without.extend(narrowing.sole());
        }
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
        Expression::Lookup { .. }
        | Expression::PayloadWrite
        | Expression::MetaWrite { .. }
        | Expression::CtWrite { key: ct::ZONE }
        | Expression::Fill { .. } => true,
        Expression::Other { name, .. } => !HARMLESS.contains(&name.as_str()) && !counts_only(expression),
        _ => false,
    }
}
