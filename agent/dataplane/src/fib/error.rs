//! Why a route is not in the kernel FIB. Each error belongs to one prefix; the others go on.

use std::net::IpAddr;

use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum FibError {
    /// Written again as soon as that route goes.
    #[error(
        "a route of protocol {} holds this prefix in table {table} with the same metric; delete that route, {}or choose \
         another metric for ours (--metric)",
        name(*protocol),
        // Routing daemons leave theirs behind.
        if matches!(protocol, 11 | 12 | 186) { "take such routes over (--adopt-protocol), " } else { "" }
    )]
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

/// The names that `ip route` prints for protocols without a file of one's own.
fn name(protocol: u8) -> String {
    let known = match protocol {
        1 => "redirect",
        2 => "kernel",
        3 => "boot",
        4 => "static",
        9 => "ra",
        11 => "zebra",
        12 => "bird",
        16 => "dhcp",
        186 => "bgp",
        187 => "isis",
        188 => "ospf",
        _ => return protocol.to_string(),
    };
    format!("{protocol} ({known})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_holder_is_named_as_ip_route_names_it() {
        let error = FibError::Foreign { protocol: 12, table: 254 };
        assert_eq!(
            error.to_string(),
            "a route of protocol 12 (bird) holds this prefix in table 254 with the same metric; delete that route, take such \
             routes over (--adopt-protocol), or choose another metric for ours (--metric)"
        );
    }
}
