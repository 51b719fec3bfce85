//! The nftables rules of a network namespace as a whole: tables, chains, rules, and the sets that rules look into.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

use manx_net::Prefix;

use super::{
    expression::{Expression, Verdict},
    netlink::{Attributes, Message, Requests, attribute, text},
};

/// Tries at a consistent reading.
const ATTEMPTS: usize = 3;
/// Elements of one set that are looked at.
const ELEMENTS: usize = 4096;

/// `NFT_MSG_GET*`.
mod get {
    pub const TABLE: u16 = 1;
    pub const CHAIN: u16 = 4;
    pub const RULE: u16 = 7;
    pub const SET: u16 = 10;
    pub const ELEMENTS: u16 = 13;
    pub const GENERATION: u16 = 16;
}

/// `NFPROTO_*`.
pub(super) mod family {
    pub const INET: u8 = 1;
    pub const IPV4: u8 = 2;
    pub const ARP: u8 = 3;
    pub const NETDEV: u8 = 5;
    pub const BRIDGE: u8 = 7;
    pub const IPV6: u8 = 10;
}

/// Family and name: chains and sets of one table have their names for themselves.
pub(super) type TableKey = (u8, String);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    /// Switched off as a whole: its hooks are not registered.
    pub dormant: BTreeSet<TableKey>,
    pub chains: Vec<Chain>,
    /// In the order in which the kernel lists them, which is their order within a chain.
    pub rules: Vec<Rule>,
    pub sets: HashMap<(TableKey, String), Set>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub table: TableKey,
    pub name: String,
    /// Where packets enter it; None: by a jump only.
    pub base: Option<Base>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub hook: u32,
    pub priority: i32,
    /// filter, nat or route.
    pub kind: String,
    pub drops: bool,
    pub devices: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub table: TableKey,
    pub chain: String,
    pub handle: u64,
    pub expressions: Vec<Expression>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Set {
    Prefixes(Vec<Prefix>),
    /// What becomes of the packet, by what was looked up.
    Verdicts(Vec<(Key, Verdict)>),
    /// Not looked into.
    Unread {
        verdicts: bool,
        why: Unread,
    },
}

/// Which values an element of a map is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// This one alone.
    Exact(Vec<u8>),
    /// A range of them, or several that are looked up together.
    Several,
    /// All that no other element is for: `*`.
    Others,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// Its keys are no addresses.
    OfOtherKeys,
    TooLarge,
    /// Rules add to it what packets bring, and no event tells of that.
    Filled,
    /// Its elements go when their time is over, without an event.
    Expires,
    /// Its elements count what is looked up, and are not there for packets beyond a limit.
    Limits,
}

impl Unread {
    /// What of the set differs among the packets of a flow, for one that is called `name`.
    pub fn changes(self, name: &str) -> Option<String> {
        match self {
            Unread::OfOtherKeys | Unread::TooLarge => None,
            Unread::Filled => Some(format!("the set {name}, which packets fill")),
            Unread::Expires => Some(format!("the set {name}, whose elements expire")),
            Unread::Limits => Some(format!("the set {name}, whose elements have limits")),
        }
    }
}

/// A reading takes several questions.
#[derive(Debug)]
pub(super) enum Read {
    /// The rules did not change in between.
    Whole(Ruleset),
    /// They changed each time that they were read: what came in last, if anything. A set that went away is empty there.
    Torn(Option<Ruleset>),
}

impl Ruleset {
    pub fn read(requests: &mut Requests) -> io::Result<Read> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let before = generation(requests)?;
            let read = Ruleset::read_once(requests);
            let same = generation(requests)? == before;
            match read {
                Ok(ruleset) if same => return Ok(Read::Whole(ruleset)),
                // A chain or a set that is gone when it is asked for is no failure.
                Err(error) if same => return Err(error),
                read if attempt == ATTEMPTS => return Ok(Read::Torn(read.ok())),
                _ => {}
            }
        }
    }

    fn read_once(requests: &mut Requests) -> io::Result<Ruleset> {
        let mut ruleset = Ruleset::default();
        requests.dump(get::TABLE, 0, &[], |message| {
            if message.attributes.number(2).unwrap_or(0) & 1 != 0 {
                ruleset.dormant.insert((message.family, message.attributes.text(1)));
            }
        })?;
        requests.dump(get::CHAIN, 0, &[], |message| ruleset.chains.push(Chain::read(message)))?;
        requests.dump(get::RULE, 0, &[], |message| ruleset.rules.push(Rule::read(message)))?;
        let mut described = Vec::new();
        requests.dump(get::SET, 0, &[], |message| described.push(Description::read(message)))?;
        ruleset.name_objects(&described);
        let named_by = |name: fn(&Expression) -> Option<&str>| -> BTreeSet<(&TableKey, &str)> {
            let names =
                |rule| Rule::expressions(rule).filter_map(move |found| Some((&rule.table, name(found)?)));
            ruleset.rules.iter().flat_map(names).collect()
        };
        let asked = named_by(|expression| match expression {
            Expression::Lookup { set, .. } => Some(set),
            _ => None,
        });
        let filled = named_by(|expression| match expression {
            Expression::Fill { set } => Some(set),
            _ => None,
        });
        described.retain(|set| asked.contains(&(&set.table, set.name.as_str())));
        for set in &mut described {
            set.is_filled |= filled.contains(&(&set.table, set.name.as_str()));
        }
        for set in described {
            let elements = set.elements(requests)?;
            ruleset.sets.insert((set.table, set.name), elements);
        }
        Ok(ruleset)
    }

    /// An object that is looked up in a map is of the kind that the map has.
    fn name_objects(&mut self, described: &[Description]) {
        for rule in &mut self.rules {
            for expression in &mut rule.expressions {
                let Expression::ObjectOf { map } = expression else { continue };
                let found = described.iter().find(|set| set.table == rule.table && set.name == *map);
                if let Some(kind) = found.and_then(|set| set.objects) {
                    *expression = Expression::Object { kind };
                }
            }
        }
    }
}

/// A number that changes with the rules; 0 without nftables.
pub(super) fn generation(requests: &mut Requests) -> io::Result<u32> {
    let mut found = 0;
    requests.get(get::GENERATION, |message| found = message.attributes.number(1).unwrap_or(0))?;
    Ok(found)
}

impl Chain {
    fn read(message: Message<'_>) -> Chain {
        let Message { family, attributes } = message;
        let base = attributes.find_kind(4).map(|hook| {
            let hook = Attributes(hook);
            let mut devices: Vec<String> = hook.find_kind(3).map(text).into_iter().collect();
            devices.extend(hook.nested(4).map(|(_, name)| text(name)));
            devices.sort();
            devices.dedup();
            Base {
                hook: hook.number(1).unwrap_or(u32::MAX),
                priority: hook.number(2).unwrap_or(0).cast_signed(),
                kind: attributes.text(7),
                drops: attributes.number(5) == Some(0),
                devices,
            }
        });
        Chain { table: (family, attributes.text(1)), name: attributes.text(3), base }
    }
}

impl Rule {
    fn expressions(&self) -> std::slice::Iter<'_, Expression> {
        self.expressions.iter()
    }

    fn read(message: Message<'_>) -> Rule {
        let Message { family, attributes } = message;
        let handle = attributes.find_kind(3).and_then(|value| value.first_chunk().copied());
        Rule {
            table: (family, attributes.text(1)),
            chain: attributes.text(2),
            handle: handle.map_or(0, u64::from_be_bytes),
            expressions: attributes
                .nested(4)
                .map(|(_, expression)| Expression::read(Attributes(expression)))
                .collect(),
        }
    }
}

struct Description {
    table: TableKey,
    name: String,
    flags: u32,
    key_length: u32,
    verdicts: bool,
    /// `NFT_OBJECT_*`, of a map to objects.
    objects: Option<u32>,
    /// By packets.
    is_filled: bool,
    has_limits: bool,
}

impl Description {
    const INTERVAL: u32 = 0x4;
    const TIMEOUT: u32 = 0x10;
    const DYNAMIC: u32 = 0x20;
    const CONCATENATED: u32 = 0x80;

    fn read(message: Message<'_>) -> Description {
        let Message { family, attributes } = message;
        const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
        let flags = attributes.number(3).unwrap_or(0);
        Description {
            table: (family, attributes.text(1)),
            name: attributes.text(2),
            flags,
            key_length: attributes.number(5).unwrap_or(0),
            verdicts: attributes.number(6) == Some(NFT_DATA_VERDICT),
            objects: attributes.number(15),
            is_filled: flags & Description::DYNAMIC != 0,
            has_limits: has_limits(attributes),
        }
    }

    fn elements(&self, requests: &mut Requests) -> io::Result<Set> {
        let unread = |why| Set::Unread { verdicts: self.verdicts, why };
        if self.is_filled {
            return Ok(unread(Unread::Filled));
        }
        if self.flags & Description::TIMEOUT != 0 {
            return Ok(unread(Unread::Expires));
        }
        if self.has_limits {
            return Ok(unread(Unread::Limits));
        }
        let addresses = [4, 16].contains(&self.key_length) && self.flags & Description::CONCATENATED == 0;
        if !self.verdicts && !addresses {
            return Ok(unread(Unread::OfOtherKeys));
        }
        let name = |name: &str| [name.as_bytes(), &[0]].concat();
        let of = [attribute(1, &name(&self.table.1)), attribute(2, &name(&self.name))].concat();
        let mut elements = Vec::new();
        requests.dump(get::ELEMENTS, self.table.0, &of, |message| {
            for (_, element) in message.attributes.nested(3) {
                if elements.len() <= ELEMENTS {
                    elements.push(Element::read(Attributes(element)));
                }
            }
        })?;
        Ok(if elements.len() > ELEMENTS { unread(Unread::TooLarge) } else { self.set_of(elements) })
    }

    fn set_of(&self, elements: Vec<Element>) -> Set {
        if self.verdicts {
            // The end of an interval has no verdict.
            let verdict = |mut element: Element| Some((self.key(&mut element), element.verdict?));
            return Set::Verdicts(elements.into_iter().filter_map(verdict).collect());
        }
        match prefixes(elements, self.flags & Description::INTERVAL != 0) {
            Some(prefixes) => Set::Prefixes(prefixes),
            None => Set::Unread { verdicts: false, why: Unread::OfOtherKeys },
        }
    }

    fn key(&self, element: &mut Element) -> Key {
        let key = std::mem::take(&mut element.key);
        match () {
            () if element.is_for_others => Key::Others,
            () if self.flags & (Description::INTERVAL | Description::CONCATENATED) != 0 => Key::Several,
            () if key.is_empty() || key.len() != self.key_length as usize => Key::Several,
            () => Key::Exact(key),
        }
    }
}

/// Expressions of a set's elements that do more than count; each lookup evaluates them (`nft_set_elem_update_expr`).
fn has_limits(set: Attributes<'_>) -> bool {
    let limits = |expression: Attributes<'_>| !["counter", "last"].contains(&expression.text(1).as_str());
    set.find_kind(17).is_some_and(|one| limits(Attributes(one)))
        || set.nested(18).any(|(_, one)| limits(Attributes(one)))
}

pub(super) struct Element {
    pub key: Vec<u8>,
    /// Of an interval's end its key is the first that is outside.
    pub ends: bool,
    is_for_others: bool,
    verdict: Option<Verdict>,
}

impl Element {
    fn read(attributes: Attributes<'_>) -> Element {
        const INTERVAL_END: u32 = 1;
        const CATCH_ALL: u32 = 2;
        let verdict = attributes.nested(2).find_kind(2);
        let flags = attributes.number(3).unwrap_or(0);
        Element {
            key: attributes.nested(1).find_kind(1).unwrap_or_default().to_vec(),
            ends: flags & INTERVAL_END != 0,
            is_for_others: flags & CATCH_ALL != 0,
            verdict: verdict.map(|verdict| Verdict::read(Attributes(verdict))),
        }
    }
}

/// Prefixes that cover the elements, and little else: an interval becomes the shortest list of prefixes. None if a
/// key is no address, as the "all others" of a set is.
pub(super) fn prefixes(mut elements: Vec<Element>, intervals: bool) -> Option<Vec<Prefix>> {
    let bits = |key: &[u8]| match *key {
        [a, b, c, d] => Some((u128::from(u32::from_be_bytes([a, b, c, d])), 32)),
        _ => Some((u128::from_be_bytes(*key.first_chunk::<16>()?), 128)),
    };
    if !intervals {
        return elements
            .iter()
            .map(|element| bits(&element.key).and_then(|(at, width)| prefix(at, 0, width)))
            .collect();
    }
    // An end may have the key of the next interval's start.
    elements.sort_by(|a, b| (&a.key, !a.ends).cmp(&(&b.key, !b.ends)));
    let mut found = Vec::new();
    let mut open: Option<(u128, u32)> = None;
    for element in &elements {
        let (at, width) = bits(&element.key)?;
        if let Some((start, _)) = open.take()
            && at > start
        {
            cover(start, at - 1, width, &mut found)?;
        }
        if !element.ends {
            open = Some((at, width));
        }
    }
    // Up to the last address: there is no first one outside.
    if let Some((start, width)) = open {
        cover(start, if width == 32 { u128::from(u32::MAX) } else { u128::MAX }, width, &mut found)?;
    }
    Some(found)
}

fn cover(mut start: u128, last: u128, width: u32, found: &mut Vec<Prefix>) -> Option<()> {
    loop {
        // The largest block that begins here and ends in time.
        let rest = |free: u32| if free >= 128 { u128::MAX } else { (1 << free) - 1 };
        let mut free = start.trailing_zeros().min(width);
        while free > 0 && last - start < rest(free) {
            free -= 1;
        }
        found.push(prefix(start, free, width)?);
        match start.checked_add(rest(free)).and_then(|end| end.checked_add(1)) {
            Some(next) if next <= last => start = next,
            _ => return Some(()),
        }
    }
}

fn prefix(at: u128, free: u32, width: u32) -> Option<Prefix> {
    let length = u8::try_from(width - free).ok()?;
    match width {
        32 => Prefix::new(Ipv4Addr::from_bits(u32::try_from(at).ok()?).into(), length),
        _ => Prefix::new(Ipv6Addr::from_bits(at).into(), length),
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod hostile;

#[cfg(test)]
mod tests {
    use super::*;

    fn element(address: [u8; 4], ends: bool) -> Element {
        Element { key: address.to_vec(), ends, is_for_others: false, verdict: None }
    }

    fn list(found: Option<Vec<Prefix>>) -> Vec<String> {
        found.unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_set_of_prefixes_is_read_back_from_its_intervals() {
        let elements = vec![
            element([192, 168, 0, 0], false),
            element([192, 169, 0, 0], true),
            element([0, 0, 0, 0], true),
            element([10, 0, 0, 0], false),
            element([11, 0, 0, 0], true),
        ];
        assert_eq!(list(prefixes(elements, true)), ["10.0.0.0/8", "192.168.0.0/16"]);
    }

    #[test]
    fn a_range_becomes_prefixes() {
        let elements = vec![element([10, 0, 0, 1], false), element([10, 0, 0, 5], true)];
        assert_eq!(list(prefixes(elements, true)), ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/32"]);
        let to_the_end = vec![element([255, 255, 255, 254], false)];
        assert_eq!(list(prefixes(to_the_end, true)), ["255.255.255.254/31"]);
        let all = vec![element([0, 0, 0, 0], false)];
        assert_eq!(list(prefixes(all, true)), ["0.0.0.0/0"]);
    }

    #[test]
    fn intervals_that_touch_are_both_there() {
        let elements = vec![
            element([10, 0, 0, 0], false),
            element([10, 0, 1, 0], true),
            element([10, 0, 1, 0], false),
            element([10, 0, 2, 0], true),
        ];
        assert_eq!(list(prefixes(elements, true)), ["10.0.0.0/24", "10.0.1.0/24"]);
    }
}
