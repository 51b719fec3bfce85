//! What the host says of forwarding beside its routes and netfilter: whether an interface forwards, whether what it takes
//! in has to come by the way back to its source (`rp_filter`), whether it has IPv6, and which packets IPsec's policies are
//! for. Kept current by the kernel's events, on a thread of its own; what follows from it for which pool is for the caller
//! to say. What cannot be read is named, and nothing is concluded from what was read beside it.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr},
    thread,
    time::Duration,
};

use manx_net::Prefix;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use tokio::sync::watch;

use crate::{
    netfilter::netlink::{Attributes, Events, Requests},
    reach::{Addresses, Family, Reach},
};

/// How often it is looked without an event.
const PERIOD: Duration = Duration::from_secs(5);
/// Before what failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Readings that fail, one after the other, until what was read before them counts no more.
const PATIENCE: u32 = 3;

/// Numbers of `<linux/netconf.h>` and `<linux/rtnetlink.h>`.
mod netconf {
    pub const GROUP_IPV4: u32 = 24;
    pub const GROUP_IPV6: u32 = 25;
    pub const GET: u16 = 82;
    /// `struct netconfmsg`, aligned.
    pub const HEADER: usize = 4;
    pub const IFINDEX: u16 = 1;
    pub const FORWARDING: u16 = 2;
    pub const RP_FILTER: u16 = 3;
    /// Since Linux 6.17.
    pub const FORCE_FORWARDING: u16 = 9;
    pub const ALL: i32 = -1;
}

/// Numbers of `<linux/rtnetlink.h>`, `<linux/if_link.h>` and `<linux/ipv6.h>`.
mod link {
    pub const GROUP_IPV6_ADDRESSES: u32 = 9;
    pub const GROUP_IPV6_INTERFACES: u32 = 12;
    pub const GET: u16 = 18;
    /// `struct ifinfomsg`.
    pub const HEADER: usize = 16;
    pub const INDEX: usize = 4;
    pub const OF_PROTOCOL: u16 = 12;
    /// Within that, the switches in `net.ipv6.conf`, each a number of 32 bits at its place.
    pub const CONF: u16 = 2;
    pub const DISABLE_IPV6: usize = 26;
}

/// Numbers and places of `<linux/xfrm.h>`.
mod xfrm {
    pub const NETLINK: isize = 6;
    pub const GROUP_POLICY: u32 = 4;
    pub const GET_POLICY: u16 = 0x15;
    /// Since Linux 5.15.
    pub const GET_DEFAULT: u16 = 0x28;
    /// `struct xfrm_userpolicy_default`, an octet for each direction: in, forwarded, out.
    pub const DEFAULTS: usize = 3;
    pub const BLOCK: u8 = 1;
    /// `struct xfrm_userpolicy_id`.
    pub const ID: usize = 64;
    /// Within `struct xfrm_userpolicy_info`.
    pub const TO: usize = 0;
    pub const FROM: usize = 16;
    pub const FAMILY: usize = 40;
    pub const TO_LENGTH: usize = 42;
    pub const FROM_LENGTH: usize = 43;
    pub const DIRECTION: usize = 160;
    pub const ACTION: usize = 161;
    pub const INFO: usize = 168;
    pub const TEMPLATES: u16 = 5;
    pub const INTERFACE_ID: u16 = 31;
    pub const OUT: u8 = 1;
    pub const FORWARDED: u8 = 2;
    pub const ALLOW: u8 = 0;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Interface {
    forwards: bool,
    is_forced: bool,
    rp_filter: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    ipv4: BTreeMap<i32, Interface>,
    ipv6: BTreeMap<i32, Interface>,
    /// Whether an interface that has IPv6 may use it (`net.ipv6.conf.IF.disable_ipv6`).
    ipv6_is_disabled: BTreeMap<i32, bool>,
    /// IPsec's, for packets that are forwarded.
    pub policies: Vec<Policy>,
    /// What could not be read, each with the reason.
    pub unread: Vec<String>,
}

/// A policy of IPsec: it transforms the packets that it is for, or drops them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub reach: Reach,
    direction: &'static str,
    /// It is for what no other policy is for: `ip xfrm policy setdefault`.
    is_default: bool,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_default {
            return write!(
                f,
                "IPsec's default policy \"{} block\" (ip xfrm policy getdefault)",
                self.direction
            );
        }
        let reach = self.reach.to_string();
        let whom = if reach.is_empty() { "all packets" } else { &reach };
        write!(f, "IPsec policy \"dir {}\" for {whom}", self.direction)
    }
}

impl Switches {
    /// Whether the kernel forwards what comes by the interface. IPv4 asks the interface alone (`ip_route_input_slow`), IPv6
    /// all of them together, or one that is forced (`ip6_forward`).
    pub fn forwards(&self, ifindex: u32, family: Family) -> bool {
        let index = i32::try_from(ifindex).unwrap_or(netconf::ALL);
        match family {
            Family::Ipv4 => {
                let own = self.ipv4.get(&index).or_else(|| self.ipv4.get(&netconf::ALL));
                own.is_none_or(|own| own.forwards)
            }
            Family::Ipv6 => {
                self.ipv6.get(&netconf::ALL).is_none_or(|all| all.forwards)
                    || self.ipv6.get(&index).is_some_and(|own| own.is_forced)
            }
        }
    }

    /// Strict `rp_filter`, which IPv4 alone has: the larger of the interface's and of all's is 1 (2 is loose).
    pub fn wants_way_back(&self, ifindex: u32) -> bool {
        let index = i32::try_from(ifindex).unwrap_or(netconf::ALL);
        let of = |index| self.ipv4.get(&index).map_or(0, |found: &Interface| found.rp_filter);
        of(index).max(of(netconf::ALL)) == 1
    }

    /// Whether the interface has no IPv6: what comes by it is dropped (`ip6_rcv_core`). It is switched off there, or the
    /// MTU is less than IPv6 asks for (1280, RFC 8200 §5).
    pub fn is_without_ipv6(&self, ifindex: u32) -> bool {
        let index = i32::try_from(ifindex).unwrap_or(netconf::ALL);
        match self.ipv6_is_disabled.get(&index) {
            Some(is_disabled) => *is_disabled,
            // One that is not known at all is younger than the reading.
            None => self.ipv4.contains_key(&index),
        }
    }

    /// Nothing is known, and why.
    pub fn unknown(why: String) -> Switches {
        Switches { unread: vec![why], ..Switches::default() }
    }

    /// As the network namespace of the calling thread has them. A kernel without IPsec has no policies of it, and one
    /// whose policies cannot be read has its other switches all the same.
    pub fn read() -> Switches {
        let mut unread = Vec::new();
        Switches {
            ipv4: known("net.ipv4.conf", interfaces(libc::AF_INET as u8), &mut unread),
            ipv6: known("net.ipv6.conf", interfaces(libc::AF_INET6 as u8), &mut unread),
            ipv6_is_disabled: known("net.ipv6.conf.*.disable_ipv6", without_ipv6(), &mut unread),
            policies: known("IPsec's policies", policies(), &mut unread),
            unread,
        }
    }
}

fn known<T: Default>(what: &str, read: io::Result<T>, unread: &mut Vec<String>) -> T {
    read.unwrap_or_else(|error| {
        unread.push(format!("{what}: {error}"));
        T::default()
    })
}

fn interfaces(family: u8) -> io::Result<BTreeMap<i32, Interface>> {
    let mut found = BTreeMap::new();
    Requests::open_for(NETLINK_ROUTE)?.dump_for(netconf::GET, &[family, 0, 0, 0], |body| {
        // A kernel without IPv6 answers for the families that it has.
        if body.first() != Some(&family) {
            return;
        }
        let attributes = Attributes(body.get(netconf::HEADER..).unwrap_or_default());
        let number = |kind| {
            let value = attributes.find_kind(kind).and_then(|value| value.first_chunk().copied());
            value.map(i32::from_ne_bytes)
        };
        if let Some(index) = number(netconf::IFINDEX) {
            let interface = Interface {
                forwards: number(netconf::FORWARDING).is_none_or(|value| value != 0),
                is_forced: number(netconf::FORCE_FORWARDING).is_some_and(|value| value != 0),
                rp_filter: number(netconf::RP_FILTER).unwrap_or(0),
            };
            found.insert(index, interface);
        }
    })?;
    Ok(found)
}

/// Of the interfaces that have IPv6.
fn without_ipv6() -> io::Result<BTreeMap<i32, bool>> {
    let mut found = BTreeMap::new();
    let mut asked = [0; link::HEADER];
    asked[0] = libc::AF_INET6 as u8;
    Requests::open_for(NETLINK_ROUTE)?.dump_for(link::GET, &asked, |body| {
        let index =
            body.get(link::INDEX..).and_then(|rest| rest.first_chunk().copied()).map(i32::from_ne_bytes);
        // A kernel without IPv6 answers for the families that it has.
        let (Some(index), Some(&asked)) = (index, body.first()) else { return };
        if i32::from(asked) != libc::AF_INET6 {
            return;
        }
        let of_protocol = Attributes(body.get(link::HEADER..).unwrap_or_default()).nested(link::OF_PROTOCOL);
        let switch = of_protocol.find_kind(link::CONF).and_then(|conf| conf.get(4 * link::DISABLE_IPV6..));
        let switch = switch.and_then(|rest| rest.first_chunk().copied()).map(i32::from_ne_bytes);
        found.insert(index, switch.is_some_and(|switch| switch != 0));
    })?;
    Ok(found)
}

fn policies() -> io::Result<Vec<Policy>> {
    let mut requests = match Requests::open_for(xfrm::NETLINK) {
        Ok(requests) => requests,
        // Such a kernel has none.
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    requests.dump_for(xfrm::GET_POLICY, &[0; xfrm::ID], |body| found.extend(policy(body)))?;
    requests.get_for(xfrm::GET_DEFAULT, &[0; xfrm::DEFAULTS], |body| {
        for (direction, octet) in [("fwd", body.get(1)), ("out", body.get(2))] {
            if octet == Some(&xfrm::BLOCK) {
                found.push(Policy { reach: Reach::default(), direction, is_default: true });
            }
        }
    })?;
    Ok(found)
}

/// None for one that forwarded packets do not meet, or that lets them be as they are.
fn policy(body: &[u8]) -> Option<Policy> {
    let octet = |at: usize| body.get(at).copied();
    let direction = match octet(xfrm::DIRECTION)? {
        xfrm::OUT => "out",
        xfrm::FORWARDED => "fwd",
        _ => return None,
    };
    let attributes = Attributes(body.get(xfrm::INFO..)?);
    let is_plain = octet(xfrm::ACTION)? == xfrm::ALLOW
        && attributes.find_kind(xfrm::TEMPLATES).is_none_or(<[u8]>::is_empty);
    // One of an xfrm interface is for what is sent by that.
    let has_interface =
        attributes.find_kind(xfrm::INTERFACE_ID).is_some_and(|id| id.iter().any(|octet| *octet != 0));
    if is_plain || has_interface {
        return None;
    }
    let family = match i32::from(octet(xfrm::FAMILY)?) {
        libc::AF_INET => Some(Family::Ipv4),
        libc::AF_INET6 => Some(Family::Ipv6),
        _ => None,
    };
    let addresses = |at: usize, length: usize| {
        let length = octet(length)?;
        let prefix = match family? {
            Family::Ipv4 => Prefix::new(Ipv4Addr::from(*body.get(at..)?.first_chunk::<4>()?).into(), length),
            Family::Ipv6 => Prefix::new(Ipv6Addr::from(*body.get(at..)?.first_chunk::<16>()?).into(), length),
        };
        let any_of = Some(vec![prefix.filter(|prefix| prefix.len() > 0)?]);
        Some(Addresses { any_of, none_of: Vec::new() })
    };
    let from = addresses(xfrm::FROM, xfrm::FROM_LENGTH).unwrap_or_default();
    let to = addresses(xfrm::TO, xfrm::TO_LENGTH).unwrap_or_default();
    Some(Policy { reach: Reach { family, from, to, ..Reach::default() }, direction, is_default: false })
}

/// The switches now, in the network namespace of the thread that started it.
#[derive(Debug)]
pub struct Watch {
    switches: watch::Receiver<Switches>,
}

impl Watch {
    /// They have been read when this returns.
    pub fn start() -> io::Result<Watch> {
        // Events first: what happens in between is read twice.
        // That IPv6 is switched off is told by the addresses that go.
        let groups = [
            netconf::GROUP_IPV4,
            netconf::GROUP_IPV6,
            link::GROUP_IPV6_ADDRESSES,
            link::GROUP_IPV6_INTERFACES,
        ];
        let mut events = vec![Events::open_for(NETLINK_ROUTE, &groups)?];
        // A kernel without IPsec has none to tell of.
        events.extend(Events::open_for(xfrm::NETLINK, &[xfrm::GROUP_POLICY]).ok());
        let (sender, switches) = watch::channel(Switches::read());
        thread::Builder::new().name("switches".to_owned()).spawn(move || follow(events, &sender))?;
        Ok(Watch { switches })
    }

    /// The newest.
    pub fn switches(&self) -> Switches {
        self.switches.borrow().clone()
    }

    /// Waits for others. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.switches.changed().await.is_err() {
            // The thread ends with the receiver only.
            std::future::pending::<()>().await;
        }
    }
}

fn follow(mut events: Vec<Events>, sender: &watch::Sender<Switches>) {
    let mut failures = u32::from(!sender.borrow().unread.is_empty());
    while !sender.is_closed() {
        // Whatever woke us, and be it the end of the period: reading is a few short dumps.
        if let Err(error) = Events::wait_for_any(&mut events, if failures == 0 { PERIOD } else { PAUSE }) {
            tracing::warn!("no events of the switches of forwarding: {error}; looking every {PERIOD:?}");
            thread::sleep(PERIOD);
        }
        let now = Switches::read();
        failures = if now.unread.is_empty() { 0 } else { failures + 1 };
        if failures == 1 {
            tracing::warn!("switches of forwarding cannot be read ({}); trying again", now.unread.join("; "));
        }
        sender.send_if_modified(|last| {
            // A moment's failure moves no flow, unless nothing was known before.
            let counts = failures == 0 || failures >= PATIENCE || !last.unread.is_empty();
            let differs = counts && *last != now;
            if differs {
                *last = now;
            }
            differs
        });
        if failures > 0 {
            thread::sleep(PAUSE);
        }
    }
}
