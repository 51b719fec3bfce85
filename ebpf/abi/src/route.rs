//! Values of the maps. Written by the loader only; a program that finds a value it does not understand passes the
//! packet to the stack.

use crate::{Kind, Word};

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

/// What is done with packets to a prefix. An enum with names, so that bpftool prints them; the numbers are those of
/// [`crate::Kind`], so zeroed memory is none of them.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The stack's: it knows better, or it owes the sender an ICMP error.
    Pass = 2,
    /// `target` is a group id.
    Via = 3,
    /// `target` is an endpoint id: a pod on this node.
    Local = 4,
    /// A block or pool of this node: dropped only if the kernel's FIB says blackhole too.
    BlackholeOwn = 5,
    /// Dropped by the map alone.
    BlackholeExplicit = 6,
    /// The stack answers with an ICMP unreachable.
    Unreachable = 7,
}

impl Action {
    pub const fn kind(self) -> Kind {
        match self {
            Action::Pass => Kind::Pass,
            Action::Via => Kind::Via,
            Action::Local => Kind::Local,
            Action::BlackholeOwn => Kind::BlackholeOwn,
            Action::BlackholeExplicit => Kind::BlackholeExplicit,
            Action::Unreachable => Kind::Unreachable,
        }
    }
}

impl TryFrom<u32> for Action {
    type Error = BadValue;

    fn try_from(found: u32) -> Result<Action, BadValue> {
        Ok(match found {
            2 => Action::Pass,
            3 => Action::Via,
            4 => Action::Local,
            5 => Action::BlackholeOwn,
            6 => Action::BlackholeExplicit,
            7 => Action::Unreachable,
            found => return Err(BadValue { field: "action", found }),
        })
    }
}

/// Value of `ROUTES4` and `ROUTES6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    pub action: Action,
    /// A group id, an endpoint id, or 0, as [`Self::action`] says.
    pub target: u32,
    /// The number of the pool in which the prefix lies, plus one; 0 if it lies in none.
    pub pool: u32,
    /// Counter id of the prefix; 0: counted with all that have none.
    pub counter: u32,
}

impl Route {
    pub const SIZE: usize = 16;

    /// What the index says where this route answers.
    pub const fn word(self) -> Word {
        Word::new(self.action.kind(), self.target)
    }

    pub fn to_bytes(self) -> [u8; Route::SIZE] {
        let mut out = [0; Route::SIZE];
        put(&mut out, 0, self.action as u32);
        put(&mut out, 4, self.target);
        put(&mut out, 8, self.pool);
        put(&mut out, 12, self.counter);
        out
    }

    pub fn from_bytes(bytes: [u8; Route::SIZE]) -> Result<Route, BadValue> {
        Ok(Route {
            action: take(&bytes, 0).try_into()?,
            target: take(&bytes, 4),
            pool: take(&bytes, 8),
            counter: take(&bytes, 12),
        })
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
    /// In `family`: the neighbour does not answer, and what goes there is the stack's, which tells the sender.
    pub const SILENT: u32 = 1 << 31;

    /// The value of a slot, with the mark or without.
    pub fn marked(bytes: [u8; NextHop::SIZE], silent: bool) -> [u8; NextHop::SIZE] {
        let mut out = bytes;
        let family = take(&bytes, 4) & !NextHop::SILENT;
        put(&mut out, 4, if silent { family | NextHop::SILENT } else { family });
        out
    }

    pub fn is_marked(bytes: &[u8; NextHop::SIZE]) -> bool {
        take(bytes, 4) & NextHop::SILENT != 0
    }

    pub fn to_bytes(self) -> [u8; NextHop::SIZE] {
        let mut out = [0; NextHop::SIZE];
        put(&mut out, 0, self.ifindex);
        put(&mut out, 4, self.family as u32);
        out[8..].copy_from_slice(&self.gateway);
        out
    }

    /// Whether it is marked or not.
    pub fn from_bytes(bytes: [u8; NextHop::SIZE]) -> Result<NextHop, BadValue> {
        let mut gateway = [0; 16];
        gateway.copy_from_slice(&bytes[8..]);
        let family = take(&bytes, 4) & !NextHop::SILENT;
        Ok(NextHop { ifindex: take(&bytes, 0), family: family.try_into()?, gateway })
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

#[expect(clippy::indexing_slicing, reason = "`at + 4` is within each value's SIZE at every call above")]
fn put(out: &mut [u8], at: usize, word: u32) {
    out[at..at + 4].copy_from_slice(&word.to_ne_bytes());
}

#[expect(clippy::indexing_slicing, reason = "`at + 4` is within each value's SIZE at every call above")]
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
    }

    #[test]
    fn a_route_may_stand_in_a_trie_with_four_byte_keys() {
        assert!(4 % align_of::<Route>() == 0);
    }

    #[test]
    fn values_are_read_back_as_they_were_written() {
        let route = Route { action: Action::BlackholeOwn, target: 0x0102_0304, pool: 17, counter: 5 };
        assert_eq!(Route::from_bytes(route.to_bytes()), Ok(route));
        let hop = NextHop { ifindex: 7, family: Family::Inet6, gateway: *b"0123456789abcdef" };
        assert_eq!(NextHop::from_bytes(hop.to_bytes()), Ok(hop));
        let marked = NextHop::marked(hop.to_bytes(), true);
        assert_eq!(NextHop::from_bytes(marked), Ok(hop));
        assert_eq!([NextHop::is_marked(&marked), NextHop::is_marked(&hop.to_bytes())], [true, false]);
        assert_eq!(NextHop::marked(marked, false), hop.to_bytes());
        let endpoint = Endpoint { ifindex: 9, pod_mac: *b"podmac", host_mac: *b"hstmac" };
        assert_eq!(Endpoint::from_bytes(endpoint.to_bytes()), endpoint);
    }

    #[test]
    fn an_action_has_the_number_of_its_kind() {
        for number in 0..16 {
            match Action::try_from(number) {
                Ok(action) => {
                    assert_eq!((action as u32, action.kind() as u32), (number, number));
                    let route = Route { action, target: 9, pool: 0, counter: 0 };
                    assert_eq!((route.word().kind(), route.word().target()), (number, 9));
                }
                Err(_) => assert!(!(2..8).contains(&number)),
            }
        }
    }

    #[test]
    fn an_unknown_action_is_named_and_not_guessed() {
        let mut bytes = Route { action: Action::Pass, target: 0, pool: 0, counter: 0 }.to_bytes();
        bytes[..4].copy_from_slice(&77u32.to_ne_bytes());
        assert_eq!(Route::from_bytes(bytes), Err(BadValue { field: "action", found: 77 }));
    }
}
