//! Why a route is not in the kernel FIB. Each error belongs to one prefix; the others go on.

use std::net::IpAddr;

use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum FibError {
    /// Written again as soon as that route goes.
    #[error("a route of protocol {protocol} holds this prefix in table {table} with the same metric")]
    Foreign { protocol: u8, table: u32 },
    #[error("the kernel does not take {gateway} for a neighbour: {text}")]
    Gateway { gateway: IpAddr, text: String },
    #[error("the interface is gone or down")]
    Interface,
    #[error("an IPv6 route cannot have an IPv4 next hop")]
    Family,
    #[error("not permitted; writing routes needs CAP_NET_ADMIN")]
    Permission,
    #[error("the kernel is out of memory or of room for routes")]
    Memory,
    #[error("the kernel refused it: {text}")]
    Refused { errno: i32, text: String },
}
