//! What protects BGP's TCP connections: MD5 signatures (RFC 2385) and a minimum TTL (RFC 5082), set on a socket
//! before its first SYN goes out or comes in. A listener is shared by peers that want different things; so it has a
//! key for each prefix and a packet filter that knows each prefix's minimum, and a connection inherits both in the
//! moment in which the kernel makes it. Nothing here knows BGP. Why so: decision 010.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)]

mod classes;
mod filter;
mod listener;
mod options;
mod password;

use std::{collections::BTreeMap, io, net::IpAddr, num::NonZeroU8, os::fd::AsFd};

use manx_net::Prefix;
use socket2::SockRef;

pub use crate::{
    listener::{ListenerError, ListenerGuards},
    password::{MAX_PASSWORD, Password, PasswordError},
};

/// What goes out carries the most, so that a peer may ask for as much as it likes (RFC 5082 §3).
const TTL: u32 = 255;

/// What a peer's packets must have. The default asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    pub password: Option<Password>,
    /// The kernel drops packets with less in their TTL or hop limit.
    pub min_ttl: Option<NonZeroU8>,
}

/// The least TTL of a packet that was sent with 255 by a neighbour at most `hops` links away: 255 for 1. As BIRD has
/// it for `ttl security on; multihop N`, and FRR for `ttl-security hops N`.
pub const fn min_ttl_of(hops: NonZeroU8) -> NonZeroU8 {
    // From 255 down to 1.
    match NonZeroU8::new(u8::MAX - hops.get() + 1) {
        Some(least) => least,
        None => NonZeroU8::MIN,
    }
}

/// The guards of all peers, by address or range. The longest prefix counts; who is in none is guarded by nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    by_prefix: BTreeMap<Prefix, Guard>,
}

impl Guards {
    /// Of two guards for one prefix the first counts.
    pub fn insert(&mut self, prefix: Prefix, guard: Guard) {
        self.by_prefix.entry(prefix).or_insert(guard);
    }

    pub fn of(&self, address: IpAddr) -> Guard {
        let lengths = (0..=Prefix::host(address).len()).rev();
        let mut covering = lengths.filter_map(|len| Prefix::new(address, len));
        covering.find_map(|prefix| self.by_prefix.get(&prefix)).cloned().unwrap_or_default()
    }
}

/// For a socket that is going to connect to `remote`, before it does.
pub fn protect_dial(socket: &impl AsFd, remote: IpAddr, guard: &Guard) -> io::Result<()> {
    send_far(socket, remote.is_ipv4())?;
    if let Some(least) = guard.min_ttl {
        options::set_min_ttl(socket, remote.is_ipv4(), least.get())?;
    }
    if let Some(password) = &guard.password {
        options::set_md5_key(socket, Prefix::host(remote), Some(password)).map_err(explained)?;
    }
    Ok(())
}

/// For an accepted connection, before it is read from. It has the listener's key for it and the listener's filter,
/// both as they were when the kernel made it; the guard may be another since. Its own minimum takes the place of the
/// filter, which tells peers apart.
pub fn protect_accepted(socket: &impl AsFd, remote: IpAddr, guard: &Guard) -> io::Result<()> {
    match &guard.password {
        Some(password) => {
            options::set_md5_key(socket, Prefix::host(remote), Some(password)).map_err(explained)?;
        }
        None => unless_absent(options::set_md5_key(socket, Prefix::host(remote), None))?,
    }
    options::set_min_ttl(socket, remote.is_ipv4(), guard.min_ttl.map_or(0, NonZeroU8::get))?;
    unless_absent(SockRef::from(socket).detach_filter())
}

/// What is to be taken away may not be there: no such key or filter, or a kernel that knows no keys.
fn unless_absent(taken_away: io::Result<()>) -> io::Result<()> {
    match taken_away {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT)) => Ok(()),
        other => other,
    }
}

/// "Protocol not available" is all that a kernel without CONFIG_TCP_MD5SIG says.
fn explained(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOPROTOOPT) => {
            io::Error::new(error.kind(), "this kernel cannot sign connections (TCP_MD5SIG)")
        }
        _ => error,
    }
}

/// Lets what goes out come as far as it can, so that the peer may be strict.
fn send_far(socket: &impl AsFd, ipv4: bool) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if ipv4 { socket.set_ttl_v4(TTL) } else { socket.set_unicast_hops_v6(TTL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_neighbour_at_the_next_link_must_send_255_and_each_further_link_takes_one() {
        let least = |hops: u8| min_ttl_of(NonZeroU8::new(hops).unwrap()).get();
        assert_eq!([least(1), least(2), least(64), least(255)], [255, 254, 192, 1]);
    }

    #[test]
    fn a_kernel_that_knows_no_keys_has_none_to_take_away() {
        let answer = |errno| unless_absent(Err(io::Error::from_raw_os_error(errno)));
        assert!(answer(libc::ENOENT).is_ok());
        assert!(answer(libc::ENOPROTOOPT).is_ok(), "without CONFIG_TCP_MD5SIG");
        assert!(answer(libc::ENOMEM).is_err());
    }

    #[test]
    fn the_longest_prefix_says_how_a_peer_is_guarded() {
        let mut guards = Guards::default();
        let ttl = |least| Guard { password: None, min_ttl: NonZeroU8::new(least) };
        guards.insert("10.0.0.0/8".parse().unwrap(), ttl(200));
        guards.insert("10.1.0.0/16".parse().unwrap(), ttl(255));
        guards.insert("10.1.0.9/32".parse().unwrap(), Guard::default());
        guards.insert("10.1.0.9/32".parse().unwrap(), ttl(1));
        let of = |address: &str| guards.of(address.parse().unwrap());
        assert_eq!(of("10.2.0.1"), ttl(200));
        assert_eq!(of("10.1.0.8"), ttl(255));
        assert_eq!(of("10.1.0.9"), Guard::default());
        assert_eq!(of("11.0.0.1"), Guard::default());
        assert_eq!(of("fd00::1"), Guard::default());
    }
}
