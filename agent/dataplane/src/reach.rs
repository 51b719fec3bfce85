//! Which packets a rule of the host (netfilter's, or a policy rule) can meet, as far as its matches say so. What is not
//! understood narrows nothing: in doubt a rule meets more than it does.

use std::fmt;

use manx_net::Prefix;

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reach {
    pub family: Option<Family>,
    pub from: Addresses,
    pub to: Addresses,
    pub by: Interfaces,
    /// By which they leave.
    pub out: Interfaces,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// All of `any_of` (None: all there are) less those of `none_of`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addresses {
    pub any_of: Option<Vec<Prefix>>,
    pub none_of: Vec<Prefix>,
}

/// As for addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interfaces {
    pub any_of: Option<Vec<InterfaceMatch>>,
    pub none_of: Vec<InterfaceMatch>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InterfaceMatch {
    Name(String),
    /// What the name begins with.
    Prefix(String),
    Index(u32),
}

impl Family {
    pub fn of(prefix: Prefix) -> Family {
        if prefix.is_v4() { Family::Ipv4 } else { Family::Ipv6 }
    }
}

impl Addresses {
    /// Some address of the prefix may be among them.
    pub fn meets(&self, prefix: Prefix) -> bool {
        self.any_of.as_ref().is_none_or(|any| any.iter().any(|one| one.overlaps(prefix)))
            && !self.none_of.iter().any(|none| none.covers(prefix))
    }

    fn is_all(&self) -> bool {
        self.any_of.is_none() && self.none_of.is_empty()
    }

    pub(crate) fn narrow(&mut self, to: Vec<Prefix>) {
        self.any_of = Some(match self.any_of.take() {
            None => to,
            Some(had) => {
                let both = |a: &Prefix, b: &Prefix| match (a.covers(*b), b.covers(*a)) {
                    (true, _) => Some(*b),
                    (_, true) => Some(*a),
                    _ => None,
                };
                had.iter().flat_map(|a| to.iter().filter_map(move |b| both(a, b))).collect()
            }
        });
    }
}

impl InterfaceMatch {
    pub fn fits(&self, ifindex: u32, name: &str) -> bool {
        match self {
            InterfaceMatch::Name(own) => own == name,
            InterfaceMatch::Prefix(prefix) => name.starts_with(prefix),
            InterfaceMatch::Index(index) => *index == ifindex,
        }
    }

    /// Whatever fits the other one fits this one.
    pub(crate) fn covers(&self, other: &InterfaceMatch) -> bool {
        match (self, other) {
            (InterfaceMatch::Prefix(prefix), InterfaceMatch::Name(name) | InterfaceMatch::Prefix(name)) => {
                name.starts_with(prefix.as_str())
            }
            _ => self == other,
        }
    }
}

impl From<InterfaceMatch> for Interfaces {
    fn from(one: InterfaceMatch) -> Interfaces {
        Interfaces { any_of: Some(vec![one]), none_of: Vec::new() }
    }
}

impl Interfaces {
    /// The interface may be among them.
    pub fn fit(&self, ifindex: u32, name: &str) -> bool {
        self.any_of.as_ref().is_none_or(|any| any.iter().any(|one| one.fits(ifindex, name)))
            && !self.none_of.iter().any(|none| none.fits(ifindex, name))
    }

    pub fn are_all(&self) -> bool {
        self.any_of.is_none() && self.none_of.is_empty()
    }

    /// Some are named, and none of those is left.
    pub(crate) fn are_none(&self) -> bool {
        let gone = |one: &InterfaceMatch| self.none_of.iter().any(|none| none.covers(one));
        self.any_of.as_ref().is_some_and(|any| any.iter().all(gone))
    }
}

impl Reach {
    /// Packets from an address of the one prefix to one of the other can be among them, by whichever interface.
    pub fn meets(&self, source: Prefix, destination: Prefix) -> bool {
        let family = Family::of(source);
        family == Family::of(destination)
            && self.family.is_none_or(|own| own == family)
            && self.from.meets(source)
            && self.to.meets(destination)
    }

    pub fn comes_by(&self, ifindex: u32, name: &str) -> bool {
        self.by.fit(ifindex, name)
    }

    pub fn leaves_by(&self, ifindex: u32, name: &str) -> bool {
        self.out.fit(ifindex, name)
    }

    /// No packet can be among them that is among the others.
    pub(crate) fn is_apart_from(&self, other: &Reach) -> bool {
        let apart = |a: &Interfaces, b: &Interfaces| {
            let excluded = |one: &InterfaceMatch| b.none_of.iter().any(|none| none.covers(one));
            a.any_of.as_ref().is_some_and(|any| any.iter().all(excluded))
        };
        apart(&self.by, &other.by)
            || apart(&other.by, &self.by)
            || apart(&self.out, &other.out)
            || apart(&other.out, &self.out)
    }

    /// Neither end is narrowed down: whatever comes by the interfaces is meant.
    pub fn is_any_address(&self) -> bool {
        self.from.is_all() && self.to.is_all()
    }
}

/// "from 10.0.0.0/8 to any", and nothing for everything.
impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        match self.family {
            Some(Family::Ipv4) => words.push("IPv4".to_owned()),
            Some(Family::Ipv6) => words.push("IPv6".to_owned()),
            None => {}
        }
        for (word, addresses) in [("from", &self.from), ("to", &self.to)] {
            words.extend(addresses.any_of.as_ref().map(|any| format!("{word} {}", list(any))));
            if !addresses.none_of.is_empty() {
                words.push(format!("not {word} {}", list(&addresses.none_of)));
            }
        }
        for (word, interfaces) in [("by", &self.by), ("out by", &self.out)] {
            words.extend(interfaces.any_of.as_ref().map(|any| format!("{word} {}", list(any))));
            if !interfaces.none_of.is_empty() {
                words.push(format!("not {word} {}", list(&interfaces.none_of)));
            }
        }
        f.write_str(&words.join(" "))
    }
}

impl fmt::Display for InterfaceMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InterfaceMatch::Name(name) => f.write_str(name),
            InterfaceMatch::Prefix(prefix) => write!(f, "{prefix}*"),
            InterfaceMatch::Index(index) => write!(f, "interface {index}"),
        }
    }
}

fn list<T: fmt::Display>(all: &[T]) -> String {
    const SHOWN: usize = 3;
    let mut text = all.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match all.len() {
        0 => text.push_str("nobody"),
        many if many > SHOWN => text.push_str(&format!(" and {} more", many - SHOWN)),
        _ => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_rule_for_all_but_the_pool_does_not_meet_it() {
        let reach = Reach {
            from: Addresses { any_of: Some(vec![p("172.16.0.0/16")]), none_of: vec![] },
            to: Addresses { any_of: None, none_of: vec![p("172.16.0.0/12")] },
            ..Reach::default()
        };
        assert!(!reach.meets(p("172.16.0.0/16"), p("172.16.0.0/16")));
        assert!(reach.meets(p("172.16.0.0/16"), p("10.0.0.0/8")));
        assert!(!reach.meets(p("172.17.0.0/16"), p("10.0.0.0/8")));
        assert!(!reach.meets(p("fd00::/64"), p("fd00::/64")));
    }

    #[test]
    fn two_matches_of_one_address_leave_what_both_let_through() {
        let mut addresses = Addresses::default();
        addresses.narrow(vec![p("10.0.0.0/8"), p("172.16.0.0/16")]);
        addresses.narrow(vec![p("172.16.36.0/24"), p("192.168.0.0/16")]);
        assert_eq!(addresses.any_of, Some(vec![p("172.16.36.0/24")]));
    }
}
