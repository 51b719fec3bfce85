//! The kinds of resource that Manx reads, by the names that files and people use for them.

use std::fmt;

use serde::{Serialize, Serializer};

/// A kind of resource. The order is the order in which `manxctl` lists kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    BgpConfiguration,
    BgpPeer,
    BgpFilter,
    Node,
    IpPool,
    BlockAffinity,
    IpamBlock,
    ClusterInformation,
    IpReservation,
    IpamConfiguration,
    FelixConfiguration,
    CalicoNodeStatus,
    Secret,
}

impl Kind {
    pub const ALL: [Kind; 13] = [
        Kind::BgpConfiguration,
        Kind::BgpPeer,
        Kind::BgpFilter,
        Kind::Node,
        Kind::IpPool,
        Kind::BlockAffinity,
        Kind::IpamBlock,
        Kind::ClusterInformation,
        Kind::IpReservation,
        Kind::IpamConfiguration,
        Kind::FelixConfiguration,
        Kind::CalicoNodeStatus,
        Kind::Secret,
    ];

    /// The name in a document's `kind:` field.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::BgpConfiguration => "BGPConfiguration",
            Kind::BgpPeer => "BGPPeer",
            Kind::BgpFilter => "BGPFilter",
            Kind::Node => "Node",
            Kind::IpPool => "IPPool",
            Kind::BlockAffinity => "BlockAffinity",
            Kind::IpamBlock => "IPAMBlock",
            Kind::ClusterInformation => "ClusterInformation",
            Kind::IpReservation => "IPReservation",
            Kind::IpamConfiguration => "IPAMConfiguration",
            Kind::FelixConfiguration => "FelixConfiguration",
            Kind::CalicoNodeStatus => "CalicoNodeStatus",
            Kind::Secret => "Secret",
        }
    }

    /// The names that a command line may use, Calico's aliases first to last; compared without regard to case.
    pub const fn aliases(self) -> &'static [&'static str] {
        match self {
            Kind::BgpConfiguration => &["bgpconfiguration", "bgpconfigurations", "bgpconfig", "bgpconfigs"],
            Kind::BgpPeer => &["bgppeer", "bgppeers", "bgpp", "bgpps", "bp", "bps"],
            Kind::BgpFilter => &["bgpfilter", "bgpfilters", "bgpf", "bgpfs", "bf", "bfs"],
            Kind::Node => &["node", "nodes", "no", "nos"],
            Kind::IpPool => &["ippool", "ippools", "ipp", "ipps", "pool", "pools"],
            Kind::BlockAffinity => &["blockaffinity", "blockaffinities", "affinity", "affinities"],
            Kind::IpamBlock => &["ipamblock", "ipamblocks"],
            Kind::ClusterInformation => {
                &["clusterinformation", "clusterinformations", "clusterinfo", "clusterinfos"]
            }
            Kind::IpReservation => &["ipreservation", "ipreservations", "reservation", "reservations"],
            Kind::IpamConfiguration => {
                &["ipamconfiguration", "ipamconfigurations", "ipamconfig", "ipamconfigs"]
            }
            Kind::FelixConfiguration => {
                &["felixconfiguration", "felixconfigurations", "felixconfig", "felixconfigs"]
            }
            Kind::CalicoNodeStatus => {
                &["caliconodestatus", "caliconodestatuses", "nodestatus", "nodestatuses"]
            }
            Kind::Secret => &["secret", "secrets"],
        }
    }

    /// The kind that a command line names, by any alias and in any case.
    pub fn from_alias(text: &str) -> Option<Kind> {
        let text = text.to_ascii_lowercase();
        Kind::ALL.into_iter().find(|kind| kind.aliases().contains(&text.as_str()))
    }

    /// The kind that a document names: the exact name.
    pub fn from_name(text: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == text)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What identifies a resource: its kind and its name. Prints as `BGPPeer/bgppeer-global`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: Kind,
    pub name: String,
}

impl Key {
    pub fn new(kind: Kind, name: impl Into<String>) -> Key {
        Key { kind, name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_kinds_share_an_alias() {
        for kind in Kind::ALL {
            for alias in kind.aliases() {
                assert_eq!(Kind::from_alias(alias), Some(kind), "{alias}");
            }
            assert_eq!(Kind::from_alias(kind.name()), Some(kind));
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        }
    }
}
