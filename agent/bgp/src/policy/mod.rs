//! A peer's rules: which routes come in and which go out, and with what changes. Ordered, the first that matches
//! decides; a route that none matches is left to the built-in rules, which stand elsewhere (loops and next hops at
//! the door, what may leave in the RIB's export). Calico's BGPFilters are such rules, one list after the other.
//! Pure: a rule sees one route and answers; it never sees the table.

mod apply;
mod glob;
mod priority;

use std::{borrow::Cow, fmt, sync::Arc};

use manx_net::{Asn, Prefix};

use crate::{attr::Attributes, config::Family};

pub(crate) use priority::preference;
pub use priority::{NORMAL as NORMAL_PRIORITY, is_elevated, local_pref_of_priority, priority_of_local_pref};

/// The rules of one peer in one direction, by family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PeerRules {
    pub ipv4: Rules,
    pub ipv6: Rules,
}

impl PeerRules {
    pub fn of(&self, family: Family) -> &Rules {
        match family {
            Family::Ipv4Unicast => &self.ipv4,
            Family::Ipv6Unicast => &self.ipv6,
        }
    }

    /// The same rules for both families.
    pub fn both(rules: Rules) -> PeerRules {
        PeerRules { ipv4: rules.clone(), ipv6: rules }
    }
}

/// Rules in order. Cheap to clone; equal if they say the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rules(Arc<[Rule]>);

impl Default for Rules {
    fn default() -> Rules {
        Rules(Arc::from([]))
    }
}

impl FromIterator<Rule> for Rules {
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> Rules {
        Rules(rules.into_iter().collect())
    }
}

impl Rules {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Some rule says whether a route passes.
    pub fn decide(&self) -> bool {
        self.0.iter().any(|rule| !matches!(rule.action, Action::Amend(_)))
    }

    /// Some rule asks by which interface a route leads.
    pub fn ask_interfaces(&self) -> bool {
        self.0.iter().any(|rule| rule.matches.interface.is_some())
    }

    /// The verdict of the first rule that matches.
    pub fn judge(&self, route: &Candidate<'_>) -> Verdict<'_> {
        match self.0.iter().find(|rule| rule.matches.fits(route)) {
            None => Verdict::Fallthrough,
            Some(Rule { action: Action::Reject, name, .. }) => Verdict::Reject(name),
            Some(Rule { action: Action::Accept(changes), name, .. }) => Verdict::Accept(name, changes),
            Some(Rule { action: Action::Amend(changes), .. }) => Verdict::Amend(changes),
        }
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    pub name: RuleName,
    pub matches: Match,
    pub action: Action,
}

/// How a rule is called where a decision is explained, such as `BGPFilter/edge importV4[2]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleName(Arc<str>);

impl RuleName {
    pub fn new(name: impl Into<Arc<str>>) -> RuleName {
        RuleName(name.into())
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for RuleName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Fits a route for which everything holds that is said; says nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Match {
    pub prefix: Option<PrefixMatch>,
    /// Only routes that a peer announced: on import all, on export none of our own.
    pub learned: bool,
    /// A pattern of the name of the interface that the route leads out of, `*` for any text. Nothing fits where
    /// the interface is not known, as on our own routes.
    pub interface: Option<Box<str>>,
    pub peer_type: Option<PeerType>,
    pub community: Option<Community>,
    /// What AS_PATH begins with, the neighbour first.
    pub as_path_prefix: Box<[Asn]>,
    /// Without the attribute a route counts as one with the default of 100.
    pub local_pref: Option<u32>,
}

/// A prefix and how a route's is compared with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefixMatch {
    pub prefix: Prefix,
    pub operator: Operator,
    /// The least and the greatest length of a prefix that fits. For the two operators that say "not" the whole is
    /// turned round: what `In` with the same lengths does not fit, `NotIn` fits.
    pub lengths: Option<(u8, u8)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    Equal,
    NotEqual,
    In,
    NotIn,
}

impl PrefixMatch {
    fn fits(self, prefix: Prefix) -> bool {
        let long_enough = self.lengths.is_none_or(|(min, max)| (min..=max).contains(&prefix.len()));
        let equal = prefix == self.prefix && long_enough;
        let inside = self.prefix.covers(prefix) && long_enough;
        match self.operator {
            Operator::Equal => equal,
            Operator::NotEqual => !equal,
            Operator::In => inside,
            Operator::NotIn => !inside,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerType {
    Ebgp,
    Ibgp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Community {
    /// RFC 1997, as `high << 16 | low`.
    Standard(u32),
    /// RFC 8092.
    Large([u32; 3]),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The route passes, with these changes in this order.
    Accept(Box<[Change]>),
    Reject,
    /// The rule says no more of the route than these changes: whether it passes is left to the built-in rules.
    Amend(Box<[Change]>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Unless the route has it.
    AddCommunity(Community),
    /// The path then begins with these numbers in this order, behind our own where the peer is in another AS.
    Prepend(Box<[Asn]>),
    SetLocalPref(u32),
}

/// A route at the door.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub prefix: Prefix,
    pub attributes: &'a Attributes,
    /// From a peer, not our own.
    pub learned: bool,
    /// Of the peer that it comes from, or would go to.
    pub peer_type: PeerType,
    /// That it leads out of, if that is known.
    pub interface: Option<&'a str>,
}

/// What rules say to a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'r> {
    Accept(&'r RuleName, &'r [Change]),
    Reject(&'r RuleName),
    /// No rule decides; one changes.
    Amend(&'r [Change]),
    /// No rule matches.
    Fallthrough,
}

impl<'r> Verdict<'r> {
    /// None for a route that may not pass.
    pub fn changes(self) -> Option<&'r [Change]> {
        match self {
            Verdict::Accept(_, changes) | Verdict::Amend(changes) => Some(changes),
            Verdict::Reject(_) => None,
            Verdict::Fallthrough => Some(&[]),
        }
    }

    pub fn rule(self) -> Option<&'r RuleName> {
        match self {
            Verdict::Accept(rule, _) | Verdict::Reject(rule) => Some(rule),
            Verdict::Amend(_) | Verdict::Fallthrough => None,
        }
    }
}

impl Match {
    fn fits(&self, route: &Candidate<'_>) -> bool {
        self.prefix.is_none_or(|prefix| prefix.fits(route.prefix))
            && (!self.learned || route.learned)
            && self.peer_type.is_none_or(|peer_type| peer_type == route.peer_type)
            && self.community.is_none_or(|community| community.is_on(route.attributes))
            && self.local_pref.is_none_or(|local_pref| local_pref == route.attributes.local_pref())
            && (self.as_path_prefix.is_empty() || route.attributes.as_path.begins_with(&self.as_path_prefix))
            && match (&self.interface, route.interface) {
                (None, _) => true,
                (Some(pattern), Some(interface)) => glob::fits(pattern, interface),
                (Some(_), None) => false,
            }
    }
}

impl Community {
    fn is_on(self, attributes: &Attributes) -> bool {
        match self {
            Community::Standard(community) => attributes.has_community(community),
            Community::Large(community) => attributes.large.contains(&community),
        }
    }
}

/// The set with these changes; itself where they change nothing.
pub fn changed<'a>(attributes: &'a Attributes, changes: &[Change]) -> Cow<'a, Attributes> {
    apply::apply(attributes, changes)
}

#[cfg(test)]
mod tests;
