//! Small questions to the system: who did that, which interface is it.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddr, UnixListener},
    },
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

/// A connection takes a descriptor, and a service manager's soft limit is 1024 for the sake of programs that call
/// select(2). The number that this process may have from now on.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// For ever. Without a handler each of these would end the process; who sends one means "read your files again", or that
/// a terminal has closed.
pub async fn let_signals_pass() -> io::Result<Infallible> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut first = signal(SignalKind::user_defined1())?;
    let mut second = signal(SignalKind::user_defined2())?;
    loop {
        let name = tokio::select! {
            _ = hangup.recv() => "SIGHUP",
            _ = first.recv() => "SIGUSR1",
            _ = second.recv() => "SIGUSR2",
        };
        tracing::info!(
            "{name}: there is nothing to do; resources and secrets are followed as they change, and `manxctl log-level` says \
             what the log lets through"
        );
    }
}

/// What writing routes, and loading and attaching programs takes, by number (capabilities(7)); `deploy/manxd.service`
/// has the same list.
const CAPABILITIES: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
/// Since Linux 5.8 it is needed for none of the above, and stands for the last two.
const SYS_ADMIN: u32 = 21;

/// Those of them that this process does not have. Empty where /proc does not say.
pub fn lacking_capabilities() -> Vec<&'static str> {
    std::fs::read_to_string("/proc/self/status").map(|status| lacking(&status)).unwrap_or_default()
}

fn lacking(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(has) = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else { return Vec::new() };
    let has = |bit: u32| has >> bit & 1 == 1;
    let lacks = |&(bit, name): &(u32, &str)| !has(bit) && (name == "CAP_NET_ADMIN" || !has(SYS_ADMIN));
    CAPABILITIES.iter().filter(|capability| lacks(capability)).map(|&(_, name)| name).collect()
}

/// Held by whoever writes routes of this protocol in this network namespace: two would undo each other's work. An
/// abstract socket is of a namespace, needs no place and goes with its process.
#[derive(Debug)]
pub struct Lock {
    _socket: UnixListener,
}

impl Lock {
    /// `None` if another process holds it.
    pub fn take(protocol: u8) -> io::Result<Option<Lock>> {
        let address = UnixAddr::from_abstract_name(format!("manxd-protocol-{protocol}"))?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => Ok(Some(Lock { _socket: socket })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The index of the interface that has this address.
pub fn interface_of(local: SocketAddr) -> Option<u32> {
    if let SocketAddr::V6(local) = local
        && local.scope_id() != 0
    {
        return Some(local.scope_id());
    }
    let name = nix::ifaddrs::getifaddrs().ok()?.find_map(|interface| {
        let address = interface.address?;
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (None, Some(v6)) => IpAddr::V6(v6.ip()),
            (None, None) => return None,
        };
        (ip == local.ip()).then_some(interface.interface_name)
    })?;
    nix::net::if_::if_nametoindex(name.as_str()).ok()
}

/// Our link-local address on the interface whose subnet both ends of a connection are in; `None` if there is a router
/// between them, or no IPv6. Asked for each connection: so from a file with a short line for each address, where
/// getifaddrs(3) would have the kernel list all links with all that it knows of them.
pub fn link_local_towards(local: SocketAddr, remote: SocketAddr) -> Option<Ipv6Addr> {
    let (IpAddr::V6(local), IpAddr::V6(remote)) = (local.ip(), remote.ip()) else { return None };
    // A thread has a network namespace of its own.
    let addresses = std::fs::read_to_string("/proc/thread-self/net/if_inet6").ok()?;
    link_local_among(&addresses, local, remote)
}

/// Each line: address and interface index, prefix length, scope and flags in hexadecimal digits, and a name.
fn link_local_among(addresses: &str, local: Ipv6Addr, remote: Ipv6Addr) -> Option<Ipv6Addr> {
    let read = |line: &'_ str| {
        let mut fields = line.split_ascii_whitespace();
        let address = Ipv6Addr::from(u128::from_str_radix(fields.next()?, 16).ok()?);
        let interface = u32::from_str_radix(fields.next()?, 16).ok()?;
        let length = u32::from_str_radix(fields.next()?, 16).ok()?;
        Some((address, interface, length))
    };
    let lines = || addresses.lines().filter_map(read);
    let (_, link, _) = lines().find(|(address, _, length)| {
        let differs = local.to_bits() ^ remote.to_bits();
        // A /128 makes neighbours of nobody.
        *address == local && *length < u128::BITS && differs.leading_zeros() >= *length
    })?;
    let of_link = lines().filter(|(_, interface, _)| *interface == link).map(|(address, ..)| address);
    of_link.into_iter().find(Ipv6Addr::is_unicast_link_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_as_many_descriptors_as_its_hard_limit_says() {
        let limit = raise_descriptor_limit().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (limit, limit));
    }

    #[test]
    fn a_lock_is_held_once_and_goes_with_its_holder() {
        // 250: no daemon's protocol, should one run here.
        let lock = Lock::take(250).unwrap();
        assert!(lock.is_some());
        assert!(Lock::take(250).unwrap().is_none());
        drop(lock);
        assert!(Lock::take(250).unwrap().is_some());
    }

    #[test]
    fn the_interface_of_the_loopback_address_is_the_first() {
        assert_eq!(interface_of("127.0.0.1:179".parse().unwrap()), Some(1));
        assert_eq!(interface_of("192.0.2.1:179".parse().unwrap()), None);
    }

    #[test]
    fn a_neighbours_link_is_the_one_whose_subnet_holds_both_ends() {
        let addresses = "\
fd000000000000000000000000000001 02 40 00 80     eth0
fd000000000000010000000000000001 03 80 00 80    dummy
fe800000000000000000000000000005 05 40 20 80    veth1
fe800000000000000000000000000002 02 40 20 80     eth0
fe800000000000000000000000000003 03 40 20 80    dummy
";
        let found = |local: &str, remote: &str| {
            link_local_among(addresses, local.parse().unwrap(), remote.parse().unwrap())
        };
        assert_eq!(found("fd00::1", "fd00::9"), Some("fe80::2".parse().unwrap()));
        assert_eq!(found("fd00::1", "fd00:0:0:2::9"), None, "behind a router");
        assert_eq!(found("fd00:0:0:1::1", "fd00:0:0:1::1"), None, "of a /128");
        assert_eq!(found("fd00::7", "fd00::9"), None, "not ours");
    }

    #[test]
    fn what_a_process_may_not_do_is_named() {
        let lacking = |set: &str| lacking(&format!("Name:\tmanxd\nCapEff:\t{set}\nCapBnd:\t0\n"));
        assert_eq!(lacking("000001ffffffffff"), [""; 0]);
        assert_eq!(lacking("0000000000000000"), ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        // NET_ADMIN and SYS_ADMIN; NET_ADMIN alone.
        assert_eq!(lacking("0000000000201000"), [""; 0]);
        assert_eq!(lacking("0000000000001000"), ["CAP_PERFMON", "CAP_BPF"]);
        assert_eq!(super::lacking("nothing of the kind"), [""; 0]);
    }
}
