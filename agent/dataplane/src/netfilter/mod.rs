//! What netfilter does in this network namespace, as far as the fast path has to know: whether connections are
//! tracked, and which rules would miss packets that are carried past them. [`survey`] reads, [`Watch`] reads again
//! whenever the rules change; what follows from it for which pool is for the caller to say.
//!
//! The kernel says nowhere whether conntrack's hooks are registered, but they are by the first rule that needs them.

mod analyse;
mod conntrack;
mod expression;
mod found;
mod iptables;
mod ipvs;
mod narrow;
pub(crate) mod netlink;
mod ruleset;
#[cfg(test)]
mod tests;
mod watch;

use std::{collections::BTreeMap, fmt, fs, io};

use self::ruleset::Read;
#[cfg(fuzzing)]
pub(crate) use self::ruleset::hostile::judge;
use crate::reach::{Family, Reach};
pub use conntrack::{Conntrack, liberal_settings, make_liberal};
pub use watch::Watch;

/// What one reading found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    pub ipv4: Tracking,
    pub ipv6: Tracking,
    pub rules: Rules,
    /// None: the kernel has no conntrack.
    pub conntrack: Option<Conntrack>,
}

impl Survey {
    pub fn tracking(&self, family: Family) -> &Tracking {
        match family {
            Family::Ipv4 => &self.ipv4,
            Family::Ipv6 => &self.ipv6,
        }
    }
}

/// Whether connections of a family are tracked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tracking {
    #[default]
    No,
    /// By what.
    Yes(String),
    /// No rule asks for it, but conntrack has entries: of rules that are gone, or of somebody who tracks without one
    /// (`act_ct`, Open vSwitch).
    Entries,
    /// It could not be found out, or says nothing of what is translated, and why.
    Unknown(String),
}

/// Rules that packets of others meet on their way through this host. Each list is ordered, and has one finding for
/// all rules that meet the same packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// They have to see packets of established flows.
    pub every_packet: Vec<Finding>,
    /// They have to see packets that a guard by conntrack leaves to the stack anyway, but nothing else does.
    pub first_packets: Vec<Finding>,
    /// They drop or reject, and where connections are tracked no packet of a flow that was seen in both directions.
    pub filters: Vec<Finding>,
    /// They drop or reject, and may meet packets of flows whose first packets they let pass.
    pub running: Vec<Finding>,
    /// They drop or reject all that their reach says, whatever flow it belongs to. Of a flow they may meet one
    /// direction only.
    pub closed: Vec<Finding>,
    /// Those of `closed` before which their chain let nothing out that they would have met.
    pub shut: Vec<Finding>,
    /// They drop what does not come by the interface that leads back to its source.
    pub ways_back: Vec<Finding>,
    /// They set the mark by which policy rules choose a table.
    pub marks: Vec<Finding>,
    /// They give flows timeouts of their own, by which the guard cannot tell that an entry is fresh.
    pub timeouts: Vec<Finding>,
}

impl Rules {
    /// What is found in either; of rules that meet the same packets those of `others` are named.
    fn extend(&mut self, others: &Rules) {
        let lists = [
            (&mut self.every_packet, &others.every_packet),
            (&mut self.first_packets, &others.first_packets),
            (&mut self.filters, &others.filters),
            (&mut self.running, &others.running),
            (&mut self.closed, &others.closed),
            (&mut self.shut, &others.shut),
            (&mut self.ways_back, &others.ways_back),
            (&mut self.marks, &others.marks),
            (&mut self.timeouts, &others.timeouts),
        ];
        for (own, others) in lists {
            own.retain(|finding| !others.iter().any(|other| other.reach == finding.reach));
            own.extend(others.iter().cloned());
            own.sort_by(|a, b| a.reach.cmp(&b.reach));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Duty {
    EveryPacket,
    Filter,
    Running,
    Closed,
    Shut,
    WayBack,
    Mark,
    Timeout,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub place: Place,
    /// In nftables' words, or those of iptables.
    pub what: String,
    pub reach: Reach,
    /// Rules beside this one that meet the same packets.
    pub more: usize,
}

/// Where a rule stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `NFPROTO_*`.
    pub family: u8,
    pub table: String,
    pub chain: String,
    /// None for what is the chain's.
    pub handle: Option<u64>,
}

impl Place {
    fn of(rule: &ruleset::Rule) -> Place {
        let (family, table) = rule.table.clone();
        Place { family, table, chain: rule.chain.clone(), handle: Some(rule.handle) }
    }
}

/// As `nft -a list ruleset` names it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ruleset::family;
        if self.table.is_empty() {
            return f.write_str("nftables");
        }
        let family = match self.family {
            family::INET => "inet",
            family::IPV4 => "ip",
            family::ARP => "arp",
            family::NETDEV => "netdev",
            family::BRIDGE => "bridge",
            family::IPV6 => "ip6",
            _ => "unknown",
        };
        write!(f, "table {family} {}, chain {}", self.table, self.chain)?;
        self.handle.map_or(Ok(()), |handle| write!(f, ", handle {handle}"))
    }
}

impl Finding {
    /// Without the rule's handle, which is another one when the same rule is written again.
    pub fn key(&self) -> String {
        let place = Place { handle: None, ..self.place.clone() };
        format!("{place}: {} ({})", self.what, self.reach)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        let reach = self.reach.to_string();
        if !reach.is_empty() {
            write!(f, " ({reach})")?;
        }
        match self.more {
            0 => Ok(()),
            1 => f.write_str(", and 1 more rule"),
            more => write!(f, ", and {more} more rules"),
        }
    }
}

/// Tables of iptables before nftables, whose rules only iptables itself can read.
const LEGACY: [(Family, &str); 2] = [
    (Family::Ipv4, "/proc/thread-self/net/ip_tables_names"),
    (Family::Ipv6, "/proc/thread-self/net/ip6_tables_names"),
];

/// Reads the rules in the network namespace of the calling thread. Takes about as long as `nft list ruleset`.
pub fn survey() -> Survey {
    Reading::take().survey()
}

/// What is worth keeping until the rules change.
#[derive(Clone, Debug)]
struct Reading {
    /// By family the rule that makes conntrack follow connections, or why the rules could not be read.
    tracking: Result<BTreeMap<Family, String>, String>,
    rules: Rules,
    /// The rules stayed as they were while they were read.
    whole: bool,
}

impl Reading {
    fn take() -> Reading {
        let read = netlink::Requests::open().and_then(|mut requests| ruleset::Ruleset::read(&mut requests));
        let (ruleset, whole) = match read {
            Ok(Read::Whole(ruleset)) => (ruleset, true),
            Ok(Read::Torn(ruleset)) => (ruleset.unwrap_or_default(), false),
            Err(error) => {
                let why = format!("cannot read the nftables rules: {error}");
                return Reading { tracking: Err(why), rules: Rules::default(), whole: false };
            }
        };
        Reading { tracking: Ok(analyse::tracking(&ruleset)), rules: analyse::rules(&ruleset), whole }
    }

    /// What a torn reading did not find may be there still.
    fn with(mut self, before: &Reading) -> Reading {
        if let (Ok(tracking), Ok(earlier)) = (&mut self.tracking, &before.tracking)
            && !self.whole
        {
            for (family, rule) in earlier {
                tracking.insert(*family, rule.clone());
            }
            self.rules.extend(&before.rules);
        }
        self
    }

    /// With what no event tells.
    fn survey(&self) -> Survey {
        let (conntrack, unread) = match conntrack::read() {
            Ok(conntrack) => (conntrack, None),
            Err(error) => (None, Some(format!("cannot read the settings of conntrack: {error}"))),
        };
        let tracking = |family, legacy: &str| {
            let unread = unread.clone().or_else(|| legacy_tables(legacy)).or_else(|| ipvs::obstacle(family));
            let by_rule = match (&self.tracking, unread) {
                (Err(why), _) => return Tracking::Unknown(why.clone()),
                (Ok(_), Some(why)) => return Tracking::Unknown(why),
                (Ok(by_rule), None) => by_rule.get(&family),
            };
            match (by_rule, &conntrack) {
                (Some(rule), Some(_)) => Tracking::Yes(rule.clone()),
                (None, Some(conntrack)) if conntrack.has_entries => Tracking::Entries,
                // A kernel without conntrack cannot do what a rule says.
                _ => Tracking::No,
            }
        };
        let [ipv4, ipv6] = LEGACY.map(|(family, path)| tracking(family, path));
        Survey { ipv4, ipv6, rules: self.rules.clone(), conntrack }
    }
}

fn legacy_tables(path: &str) -> Option<String> {
    let tables = match fs::read_to_string(path) {
        Ok(tables) => tables,
        // Such a kernel has none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(format!("{path}: {error}")),
    };
    let tables: Vec<&str> = tables.lines().collect();
    let named = tables.join(", ");
    (!tables.is_empty())
        .then(|| format!("legacy iptables has the tables {named}, which only iptables-legacy can read"))
}
