//! What stands on a listening socket for all peers together.

use std::{collections::BTreeMap, io, net::IpAddr, num::NonZeroU8, os::fd::AsFd};

use manx_net::Prefix;
use socket2::{SockFilter, SockRef};

use crate::{
    Guard, Guards, Password,
    classes::{Others, classes},
    explained,
    filter::{self, Instruction},
    options, send_far,
};

/// A key costs some 140 octets of what net.core.optmem_max allows a socket: 20 KiB on the least of kernels. Beyond
/// this many, peers with one password share keys by prefixes that hold strangers, too.
const KEYS: usize = 100;
/// An instruction costs eight octets of the same.
const INSTRUCTIONS: usize = 512;

/// What a listening socket of one family has been given.
#[derive(Debug, Default)]
pub struct ListenerGuards {
    keys: BTreeMap<Prefix, Password>,
    filter: Vec<Instruction>,
    /// The filter is as the guards wanted it.
    filtered: bool,
}

/// The listener lacks some protection; [`ListenerGuards::admits`] knows whose.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    #[error("the kernel takes no MD5 key for {prefix}: {error}")]
    Key { prefix: Prefix, error: io::Error },
    #[error("the kernel takes no packet filter for TTL security: {0}")]
    Filter(io::Error),
    #[error("TTL security differs between too many peers for one packet filter")]
    FilterTooLong,
    #[error("cannot set the TTL of answers: {0}")]
    Ttl(io::Error),
}

impl ListenerGuards {
    /// Gives the socket what the guards say. What has not changed is not touched, and connections that stand keep what
    /// they have. Does all that can be done before it returns an error.
    pub fn apply(&mut self, socket: &impl AsFd, ipv4: bool, guards: &Guards) -> Result<(), ListenerError> {
        // SYN-ACKs carry the listener's.
        let ttl = send_far(socket, ipv4).map_err(ListenerError::Ttl);
        let filtered = self.apply_filter(socket, ipv4, guards);
        self.filtered = filtered.is_ok();
        self.apply_keys(socket, ipv4, guards).and(filtered).and(ttl)
    }

    /// Whether a connection from there has passed all that its guard wants. False where the kernel has refused a part.
    pub fn admits(&self, remote: IpAddr, guard: &Guard) -> bool {
        let key = self.keys.iter().find(|(prefix, _)| prefix.contains(remote)).map(|(_, password)| password);
        key == guard.password.as_ref() && (self.filtered || guard.min_ttl.is_none())
    }

    fn apply_keys(&mut self, socket: &impl AsFd, ipv4: bool, guards: &Guards) -> Result<(), ListenerError> {
        let wanted = keys_of(guards, ipv4);
        let mut result = Ok(());
        let mut set = |prefix: Prefix, password: Option<&Password>| {
            options::set_md5_key(socket, prefix, password)
                .map_err(|error| result = Err(ListenerError::Key { prefix, error: explained(error) }))
                .is_ok()
        };
        // First what is there already or is in the way, for a socket holds only so many.
        let unwanted: Vec<Prefix> =
            self.keys.keys().filter(|prefix| !wanted.contains_key(prefix)).copied().collect();
        for prefix in unwanted {
            if set(prefix, None) {
                self.keys.remove(&prefix);
            }
        }
        for (prefix, password) in wanted {
            if self.keys.get(&prefix) != Some(&password) && set(prefix, Some(&password)) {
                self.keys.insert(prefix, password);
            }
        }
        result
    }

    fn apply_filter(&mut self, socket: &impl AsFd, ipv4: bool, guards: &Guards) -> Result<(), ListenerError> {
        let filter = filter_of(guards, ipv4).ok_or(ListenerError::FilterTooLong)?;
        if filter == self.filter {
            return Ok(());
        }
        let socket = SockRef::from(socket);
        let program: Vec<SockFilter> = filter.iter().copied().map(SockFilter::from).collect();
        if program.is_empty() { socket.detach_filter() } else { socket.attach_filter(&program) }
            .map_err(ListenerError::Filter)?;
        self.filter = filter;
        Ok(())
    }
}

/// Prefixes that do not overlap.
fn keys_of(guards: &Guards, ipv4: bool) -> BTreeMap<Prefix, Password> {
    let mut passwords: Vec<&Password> = Vec::new();
    let rules: BTreeMap<Prefix, Option<usize>> = guards
        .by_prefix
        .iter()
        .filter(|(prefix, _)| prefix.is_v4() == ipv4)
        .map(|(prefix, guard)| {
            let number = guard.password.as_ref().map(|password| {
                passwords.iter().position(|known| *known == password).unwrap_or_else(|| {
                    passwords.push(password);
                    passwords.len() - 1
                })
            });
            (*prefix, number)
        })
        .collect();
    let keys = |others| -> BTreeMap<Prefix, Password> {
        let classes = classes(&rules, others).into_iter();
        classes.filter_map(|(prefix, number)| Some((prefix, (*passwords.get(number?)?).clone()))).collect()
    };
    let exact = keys(Others::Excluded);
    if exact.len() <= KEYS { exact } else { keys(Others::Whatever) }
}

/// Empty if nobody asks for a minimum; `None` if no program is short enough.
fn filter_of(guards: &Guards, ipv4: bool) -> Option<Vec<Instruction>> {
    let rules: BTreeMap<Prefix, Option<NonZeroU8>> =
        guards.by_prefix.iter().map(|(prefix, guard)| (*prefix, guard.min_ttl)).collect();
    let program = |others| {
        let classes = classes(&rules, others).into_iter();
        let least: Vec<(Prefix, NonZeroU8)> = classes
            .filter_map(|(prefix, least)| Some((prefix, least?)))
            .filter(|(prefix, _)| prefix.is_v4() == ipv4)
            .collect();
        if least.is_empty() { Some(Vec::new()) } else { filter::program(ipv4, &least) }
    };
    program(Others::Excluded)
        .filter(|program| program.len() <= INSTRUCTIONS)
        .or_else(|| program(Others::Whatever))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read, Write},
        net::{SocketAddr, TcpListener, TcpStream},
        time::Duration,
    };

    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::{protect_accepted, protect_dial};

    fn guard(password: Option<&str>, least: u8) -> Guard {
        let password = password.map(|text| Password::from_file(text.as_bytes()).unwrap());
        Guard { password, min_ttl: NonZeroU8::new(least) }
    }

    fn guards(list: &[(&str, Guard)]) -> Guards {
        let mut guards = Guards::default();
        for (prefix, guard) in list {
            guards.insert(prefix.parse().unwrap(), guard.clone());
        }
        guards
    }

    fn listener(address: &str) -> TcpListener {
        TcpListener::bind((address, 0)).unwrap()
    }

    /// With the guard and the TTL of the one who dials. A SYN that the listener drops is tried again after a second.
    fn dial(from: &str, to: SocketAddr, own: &Guard, ttl: u32) -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from.parse().unwrap(), 0).into())?;
        protect_dial(&socket, to.ip(), own)?;
        if to.is_ipv4() {
            socket.set_ttl_v4(ttl)?
        } else {
            socket.set_unicast_hops_v6(ttl)?
        }
        socket.connect_timeout(&to.into(), Duration::from_millis(300))?;
        Ok(socket.into())
    }

    fn is_silence(result: std::io::Result<TcpStream>) -> bool {
        result.is_err_and(|error| error.kind() == ErrorKind::TimedOut)
    }

    /// Behaviour 15.
    #[test]
    fn a_syn_with_a_lesser_ttl_than_its_peers_is_not_answered_and_others_are() {
        let listener = listener("127.0.0.1");
        let to = listener.local_addr().unwrap();
        let mut on_listener = ListenerGuards::default();
        let strict = guards(&[("127.0.0.2/32", guard(None, 255)), ("127.0.0.3/32", guard(None, 250))]);
        on_listener.apply(&listener, true, &strict).unwrap();
        assert!(is_silence(dial("127.0.0.2", to, &Guard::default(), 254)));
        assert!(is_silence(dial("127.0.0.3", to, &Guard::default(), 249)));
        for (from, ttl) in [("127.0.0.2", 255), ("127.0.0.3", 250), ("127.0.0.4", 1)] {
            dial(from, to, &Guard::default(), ttl).unwrap();
        }
        // Without a minimum there is no filter.
        on_listener.apply(&listener, true, &Guards::default()).unwrap();
        dial("127.0.0.2", to, &Guard::default(), 1).unwrap();
    }

    /// Behaviour 15: before the connection is accepted by the filter that it inherits, afterwards by its own minimum.
    #[test]
    fn what_comes_with_a_lesser_ttl_after_the_handshake_is_never_read() {
        for (address, host) in [("127.0.0.1", "127.0.0.1/32"), ("::1", "::1/128")] {
            for early in [true, false] {
                let listener = listener(address);
                let to = listener.local_addr().unwrap();
                let strict = guards(&[(host, guard(None, 255))]);
                ListenerGuards::default().apply(&listener, to.is_ipv4(), &strict).unwrap();
                let dialled = dial(address, to, &Guard::default(), 255).unwrap();
                let (mut accepted, remote) = listener.accept().unwrap();
                accepted.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
                let protect = || protect_accepted(&accepted, remote.ip(), &strict.of(remote.ip())).unwrap();
                if !early {
                    protect();
                }
                let send_with = |ttl: u32| {
                    let socket = SockRef::from(&dialled);
                    if to.is_ipv4() { socket.set_ttl_v4(ttl) } else { socket.set_unicast_hops_v6(ttl) }
                        .unwrap();
                };
                send_with(254);
                (&dialled).write_all(b"far").unwrap();
                if early {
                    std::thread::sleep(Duration::from_millis(50));
                    protect();
                }
                let none = accepted.read(&mut [0; 8]).map_err(|error| error.kind());
                assert_eq!(none, Err(ErrorKind::WouldBlock), "{address} {early}");
                // The dialler sends again what the kernel has dropped, now from near enough.
                send_with(255);
                accepted.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                assert_eq!(accepted.read(&mut [0; 8]).unwrap(), 3);
            }
        }
    }

    #[test]
    fn only_who_signs_with_the_peers_password_connects() {
        for (address, own, range) in [("127.0.0.1", "127.0.0.7", "127.0.0.0/24"), ("::1", "::1", "::/64")] {
            let listener = listener(address);
            let to = listener.local_addr().unwrap();
            let mut on_listener = ListenerGuards::default();
            let by_range = guards(&[(range, guard(Some("right"), 0))]);
            on_listener.apply(&listener, to.is_ipv4(), &by_range).unwrap();
            assert!(is_silence(dial(own, to, &Guard::default(), 64)));
            assert!(is_silence(dial(own, to, &guard(Some("wrong"), 0), 64)));
            let mut dialled = dial(own, to, &guard(Some("right"), 0), 64).unwrap();
            let (mut accepted, remote) = listener.accept().unwrap();
            let own_guard = by_range.of(remote.ip());
            assert!(on_listener.admits(remote.ip(), &own_guard));
            assert!(!on_listener.admits(remote.ip(), &guard(Some("other"), 0)));
            assert!(!on_listener.admits(remote.ip(), &Guard::default()));
            protect_accepted(&accepted, remote.ip(), &own_guard).unwrap();
            // Another password for the range; who is connected stays so.
            let changed = guards(&[(range, guard(Some("new"), 0))]);
            on_listener.apply(&listener, to.is_ipv4(), &changed).unwrap();
            assert!(is_silence(dial(own, to, &guard(Some("right"), 0), 64)));
            dial(own, to, &guard(Some("new"), 0), 64).unwrap();
            dialled.write_all(b"still").unwrap();
            assert_eq!(accepted.read(&mut [0; 8]).unwrap(), 5);
            // And none at all.
            on_listener.apply(&listener, to.is_ipv4(), &Guards::default()).unwrap();
            dial(own, to, &Guard::default(), 64).unwrap();
        }
    }

    #[test]
    fn an_unsigned_peer_inside_a_signed_range_connects_unsigned() {
        let listener = listener("127.0.0.1");
        let to = listener.local_addr().unwrap();
        let both = guards(&[("127.0.0.0/24", guard(Some("right"), 0)), ("127.0.0.9/32", Guard::default())]);
        ListenerGuards::default().apply(&listener, true, &both).unwrap();
        dial("127.0.0.9", to, &Guard::default(), 64).unwrap();
        dial("127.0.0.8", to, &guard(Some("right"), 0), 64).unwrap();
        assert!(is_silence(dial("127.0.0.8", to, &Guard::default(), 64)));
    }

    #[test]
    fn five_thousand_peers_with_one_password_fit_onto_a_socket_with_one_that_is_unsigned() {
        let listener = listener("127.0.0.1");
        let to = listener.local_addr().unwrap();
        let mut many = Guards::default();
        many.insert("127.1.0.77/32".parse().unwrap(), Guard::default());
        for n in 0..5000_u32 {
            let address = std::net::Ipv4Addr::from_bits(0x7f01_0000 + n);
            many.insert(Prefix::host(address.into()), guard(Some("right"), 255));
        }
        ListenerGuards::default().apply(&listener, true, &many).unwrap();
        dial("127.1.19.135", to, &guard(Some("right"), 0), 255).unwrap();
        assert!(is_silence(dial("127.1.19.135", to, &guard(Some("right"), 0), 254)));
        assert!(is_silence(dial("127.1.19.135", to, &Guard::default(), 255)));
        dial("127.1.0.77", to, &Guard::default(), 64).unwrap();
    }
}
