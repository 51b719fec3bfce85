//! Values of the maps. Written by the loader only; a program that finds a value it does not understand passes the
//! packet to the stack.

/// A value whose bytes mean nothing: written by another program, or by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadValue {
    /// The field that was not understood.
    pub field: &'static str,
    pub found: u32,
}

impl core::fmt::Display for BadValue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} {} is not defined in ABI {}", self.field, self.found, crate::ABI_VERSION)
    }
}

impl core::error::Error for BadValue {}

/// What is done with packets to a prefix. An enum with names, so that bpftool prints them.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The stack's: it knows better, or it owes the sender an ICMP error.
    Pass = 0,
    /// `target` is a next-hop id.
    Via = 1,
    /// `target` is an endpoint id: a pod on this node.
    Local = 2,
    /// A block or pool of this node: dropped only if the kernel's FIB says blackhole too.
    BlackholeOwn = 3,
    /// Dropped by the map alone.
    BlackholeExplicit = 4,
    /// The stack answers with an ICMP unreachable.
    Unreachable = 5,
}

impl TryFrom<u32> for Action {
    type Error = BadValue;

    fn try_from(found: u32) -> Result<Action, BadValue> {
        Ok(match found {
            0 => Action::Pass,
            1 => Action::Via,
            2 => Action::Local,
            3 => Action::BlackholeOwn,
            4 => Action::BlackholeExplicit,
            5 => Action::Unreachable,
            found => return Err(BadValue { field: "action", found }),
        })
    }
}

/// Value of `ROUTES4` and `ROUTES6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    pub action: Action,
    /// A next-hop id, an endpoint id, or 0, as [`Self::action`] says.
    pub target: u32,
    /// 1: the prefix lies in a pool for which the fast path is on.
    pub in_pool: u32,
}

impl Route {
    pub const SIZE: usize = 12;

    pub fn to_bytes(self) -> [u8; Route::SIZE] {
        let mut out = [0; Route::SIZE];
        put(&mut out, 0, self.action as u32);
        put(&mut out, 4, self.target);
        put(&mut out, 8, self.in_pool);
        out
    }

    pub fn from_bytes(bytes: [u8; Route::SIZE]) -> Result<Route, BadValue> {
        Ok(Route { action: take(&bytes, 0).try_into()?, target: take(&bytes, 4), in_pool: take(&bytes, 8) })
    }
}

/// Address family of a next hop's gateway, numbered as the kernel does.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// The slot is not in use.
    None = 0,
    Inet = 2,
    Inet6 = 10,
}

impl TryFrom<u32> for Family {
    type Error = BadValue;

    fn try_from(found: u32) -> Result<Family, BadValue> {
        Ok(match found {
            0 => Family::None,
            2 => Family::Inet,
            10 => Family::Inet6,
            found => return Err(BadValue { field: "family", found }),
        })
    }
}

/// Value of `NEXTHOPS`. The MAC comes from the kernel's neighbour table when a packet is sent.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    pub ifindex: u32,
    pub family: Family,
    /// An IPv4 address stands in the first four octets, the others are 0.
    pub gateway: [u8; 16],
}

impl NextHop {
    pub const SIZE: usize = 24;
    pub const UNUSED: NextHop = NextHop { ifindex: 0, family: Family::None, gateway: [0; 16] };

    pub fn to_bytes(self) -> [u8; NextHop::SIZE] {
        let mut out = [0; NextHop::SIZE];
        put(&mut out, 0, self.ifindex);
        put(&mut out, 4, self.family as u32);
        out[8..].copy_from_slice(&self.gateway);
        out
    }

    pub fn from_bytes(bytes: [u8; NextHop::SIZE]) -> Result<NextHop, BadValue> {
        let mut gateway = [0; 16];
        gateway.copy_from_slice(&bytes[8..]);
        Ok(NextHop { ifindex: take(&bytes, 0), family: take(&bytes, 4).try_into()?, gateway })
    }
}

/// Value of `ENDPOINTS`: the host side of a pod's veth.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Interface index of the host side; 0 is a slot not in use.
    pub ifindex: u32,
    /// Destination of what goes into the pod. All zero where it is not known: such packets are the stack's.
    pub pod_mac: [u8; 6],
    /// The host side's own, source of what goes into the pod.
    pub host_mac: [u8; 6],
}

impl Endpoint {
    pub const SIZE: usize = 16;
    pub const UNUSED: Endpoint = Endpoint { ifindex: 0, pod_mac: [0; 6], host_mac: [0; 6] };

    pub fn to_bytes(self) -> [u8; Endpoint::SIZE] {
        let mut out = [0; Endpoint::SIZE];
        put(&mut out, 0, self.ifindex);
        out[4..10].copy_from_slice(&self.pod_mac);
        out[10..].copy_from_slice(&self.host_mac);
        out
    }

    pub fn from_bytes(bytes: [u8; Endpoint::SIZE]) -> Endpoint {
        let (mut pod_mac, mut host_mac) = ([0; 6], [0; 6]);
        pod_mac.copy_from_slice(&bytes[4..10]);
        host_mac.copy_from_slice(&bytes[10..]);
        Endpoint { ifindex: take(&bytes, 0), pod_mac, host_mac }
    }
}

/// Value of `UPLINKS`. XDP sees every frame on the wire and no packet type, so it compares addresses itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Uplink {
    pub mac: [u8; 6],
}

/// The one value of `SETTINGS`: switches that take effect with the next packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// 0: nothing is redirected. Blackholes and the source check stay: they drop what the stack would drop.
    pub fast_path: u32,
    /// 0: a pod's source addresses are not checked; what it forges is then the stack's to judge, never redirected.
    pub source_check: u32,
}

impl Settings {
    pub const SIZE: usize = 8;

    pub fn to_bytes(self) -> [u8; Settings::SIZE] {
        let mut out = [0; Settings::SIZE];
        put(&mut out, 0, self.fast_path);
        put(&mut out, 4, self.source_check);
        out
    }

    pub fn from_bytes(bytes: [u8; Settings::SIZE]) -> Settings {
        Settings { fast_path: take(&bytes, 0), source_check: take(&bytes, 4) }
    }
}

/// `at + 4` is within each value's SIZE at every call above.
fn put(out: &mut [u8], at: usize, word: u32) {
    out[at..at + 4].copy_from_slice(&word.to_ne_bytes());
}

fn take(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, size_of};

    use super::*;

    #[test]
    fn a_value_in_the_map_has_the_size_that_the_loader_writes() {
        assert_eq!(size_of::<Route>(), Route::SIZE);
        assert_eq!(size_of::<NextHop>(), NextHop::SIZE);
        assert_eq!(size_of::<Endpoint>(), Endpoint::SIZE);
        assert_eq!(size_of::<Settings>(), Settings::SIZE);
        assert_eq!(size_of::<Uplink>(), 6);
    }

    #[test]
    fn a_route_may_stand_in_a_trie_with_four_byte_keys() {
        assert!(4 % align_of::<Route>() == 0);
    }

    #[test]
    fn values_are_read_back_as_they_were_written() {
        let route = Route { action: Action::BlackholeOwn, target: 0x0102_0304, in_pool: 1 };
        assert_eq!(Route::from_bytes(route.to_bytes()), Ok(route));
        let hop = NextHop { ifindex: 7, family: Family::Inet6, gateway: *b"0123456789abcdef" };
        assert_eq!(NextHop::from_bytes(hop.to_bytes()), Ok(hop));
        let endpoint = Endpoint { ifindex: 9, pod_mac: *b"podmac", host_mac: *b"hstmac" };
        assert_eq!(Endpoint::from_bytes(endpoint.to_bytes()), endpoint);
        let settings = Settings { fast_path: 1, source_check: 0 };
        assert_eq!(Settings::from_bytes(settings.to_bytes()), settings);
    }

    #[test]
    fn an_unknown_action_is_named_and_not_guessed() {
        let mut bytes = Route { action: Action::Pass, target: 0, in_pool: 0 }.to_bytes();
        bytes[..4].copy_from_slice(&77u32.to_ne_bytes());
        assert_eq!(Route::from_bytes(bytes), Err(BadValue { field: "action", found: 77 }));
    }
}
