//! Socket options that no crate has: `TCP_MD5SIG_EXT`, `IP_MINTTL` and `IPV6_MINHOPCOUNT`.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd},
};

use libc::{c_int, socklen_t};
use manx_net::Prefix;

use crate::password::{MAX_PASSWORD, Password};

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct TcpMd5Sig {
    /// A `sockaddr_in` or `sockaddr_in6` at the beginning of a `sockaddr_storage`; its port counts for nothing.
    address: [u8; 128],
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    interface: c_int,
    key: [u8; MAX_PASSWORD],
}

/// The prefix's length counts (`TCP_MD5SIG_FLAG_PREFIX`).
const BY_PREFIX: u8 = 1;

const _: () = assert!(mem::size_of::<TcpMd5Sig>() == 128 + 8 + MAX_PASSWORD);
const _: () = assert!(MAX_PASSWORD == libc::TCP_MD5SIG_MAXKEYLEN);

/// Signs what goes to the prefix and drops what comes from it unsigned (RFC 2385); `None` takes the key away. Where
/// prefixes overlap, the longest counts.
pub fn set_md5_key(socket: &impl AsFd, of: Prefix, password: Option<&Password>) -> io::Result<()> {
    let octets = password.map_or(&[][..], Password::octets);
    let mut key = [0; MAX_PASSWORD];
    for (to, from) in key.iter_mut().zip(octets) {
        *to = *from;
    }
    let option = TcpMd5Sig {
        address: storage(of),
        flags: BY_PREFIX,
        prefix_len: of.len(),
        // At most 80: a password's bound.
        key_len: octets.len() as u16,
        interface: 0,
        key,
    };
    set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG_EXT, &option)
}

/// 0 takes everything.
pub fn set_min_ttl(socket: &impl AsFd, ipv4: bool, least: u8) -> io::Result<()> {
    let (level, name) =
        if ipv4 { (libc::IPPROTO_IP, libc::IP_MINTTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT) };
    set(socket, level, name, &c_int::from(least))
}

fn storage(of: Prefix) -> [u8; 128] {
    let mut storage = [0; 128];
    let family = if of.is_v4() { libc::AF_INET } else { libc::AF_INET6 } as libc::sa_family_t;
    storage[..2].copy_from_slice(&family.to_ne_bytes());
    match of {
        Prefix::V4(prefix) => storage[4..8].copy_from_slice(&prefix.addr().octets()),
        Prefix::V6(prefix) => storage[8..24].copy_from_slice(&prefix.addr().octets()),
    }
    storage
}

fn set<T>(socket: &impl AsFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel reads so many octets as the value
    // has, which lives until the call returns, and keeps no pointer. Both types are plain numbers without padding, so
    // that each octet has a value.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            mem::size_of::<T>() as socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
