//! The desired table's vocabulary. A sink receives routes of this form and nothing else, so the FIB and the
//! eBPF maps cannot drift by construction.

use std::net::IpAddr;

use manx_net::Prefix;
use serde::Serialize;

/// An Ethernet address, as the wire has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// A gateway and the interface behind which it stands. The address may be of another family than the route's
/// (RFC 8950).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct NextHop {
    pub gateway: IpAddr,
    pub ifindex: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum BlackholeKind {
    /// A block or pool of ours: dropped in eBPF only if the kernel's FIB says the same, since a pod may have
    /// appeared of which we do not know.
    Own,
    /// Asked for by an operator or by RFC 7999's community: the map alone decides.
    Explicit,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// One or more next hops, sorted and distinct.
    Via(Vec<NextHop>),
    Blackhole(BlackholeKind),
    Unreachable,
    /// A pod on this node: the host side of its veth, and the pod's own MAC where the neighbour table has it.
    /// The kernel has this route already; only the map takes it.
    Local {
        ifindex: u32,
        mac: Option<Mac>,
    },
    /// The kernel knows better; only the map takes it.
    Pass,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    pub prefix: Prefix,
    pub action: Action,
}
