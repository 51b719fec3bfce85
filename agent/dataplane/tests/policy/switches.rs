//! What the kernel says of forwarding, as operators switch it, and what is said where it cannot be read.

use std::{
    fs::File,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use manx_dataplane::switches::{Switches, Watch};
use nix::sched::{CloneFlags, unshare};

use crate::namespace::Namespace;

const SOON: Duration = Duration::from_secs(30);

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(done.success(), "ip {arguments}");
}

fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

fn eventually(watch: &Watch, what: &str, holds: impl Fn(&Switches) -> bool) {
    let begun = Instant::now();
    while !holds(&watch.switches()) {
        assert!(begun.elapsed() < SOON, "{what}: {:?}", watch.switches());
        thread::sleep(Duration::from_millis(10));
    }
}

fn policies(switches: &Switches) -> Vec<String> {
    switches.policies.iter().map(ToString::to_string).collect()
}

#[test]
fn what_no_policy_is_for_is_blocked_where_ipsec_blocks_by_default() {
    Namespace::new().run(|| {
        let watch = Watch::start().unwrap();
        assert_eq!(watch.switches().policies, []);
        ip("xfrm policy setdefault in block fwd accept out accept");
        assert_eq!(Switches::read().policies, [], "what comes in is the host's own");
        for (fwd, out) in [("block", "accept"), ("accept", "block")] {
            ip(&format!("xfrm policy setdefault in accept fwd {fwd} out {out}"));
            let direction = if fwd == "block" { "fwd" } else { "out" };
            let text = format!("IPsec's default policy \"{direction} block\" (ip xfrm policy getdefault)");
            let begun = Instant::now();
            eventually(&watch, "the default", |switches| policies(switches) == [text.as_str()]);
            assert!(begun.elapsed() < Duration::from_secs(2), "by its event: {:?}", begun.elapsed());
        }
        ip("xfrm policy setdefault in accept fwd accept out accept");
        eventually(&watch, "no default", |switches| switches.policies.is_empty());
    });
}

#[test]
fn an_interface_on_which_ipv6_is_off_has_none() {
    Namespace::new().run(|| {
        ip("link add cali1 type veth peer name cali2");
        ip("link set cali1 up");
        ip("link set cali2 up");
        let watch = Watch::start().unwrap();
        let without = |name: &str| watch.switches().is_without_ipv6(index(name));
        assert!(!without("cali1") && !without("cali2"));
        let key = "/proc/sys/net/ipv6/conf/cali1/disable_ipv6";
        // It tells of it by the address that goes.
        let has_address =
            || std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap().contains(" cali1\n");
        let begun = Instant::now();
        while !has_address() {
            assert!(begun.elapsed() < SOON, "no link-local address");
            thread::sleep(Duration::from_millis(10));
        }
        std::fs::write(key, "1").unwrap();
        let begun = Instant::now();
        eventually(&watch, "without IPv6", |switches| switches.is_without_ipv6(index("cali1")));
        assert!(begun.elapsed() < Duration::from_secs(2), "by its event: {:?}", begun.elapsed());
        assert!(!without("cali2"));
        std::fs::write(key, "0").unwrap();
        eventually(&watch, "with IPv6 again", |switches| !switches.is_without_ipv6(index("cali1")));
        ip("link set cali2 mtu 1000");
        eventually(&watch, "too small for IPv6", |switches| switches.is_without_ipv6(index("cali2")));
        assert!(
            !without("cali1")
                && watch.switches().forwards(index("cali1"), manx_dataplane::reach::Family::Ipv6)
        );
    });
}

#[test]
fn what_cannot_be_read_is_named_until_it_can_be_read_again() {
    Namespace::new().run(|| {
        // The descriptors of this thread, and of those that it starts, are its own from here on.
        unshare(CloneFlags::CLONE_FILES).unwrap();
        ip("link add cali1 type veth peer name cali2");
        let all = || -> Vec<File> { std::iter::from_fn(|| File::open("/dev/null").ok()).collect() };
        let full = all();
        assert!(Watch::start().is_err(), "without a descriptor nothing can be watched");
        let found = Switches::read();
        let named = |what: &str| found.unread.iter().any(|unread| unread.starts_with(what));
        assert!(named("net.ipv4.conf: ") && named("IPsec's policies: "), "{:?}", found.unread);
        assert!(found.unread[0].contains("Too many open files"), "{:?}", found.unread);
        drop(full);

        let watch = Watch::start().unwrap();
        let known = watch.switches();
        assert_eq!(known.unread, [""; 0]);
        let full = all();
        // A failure or two change nothing, so that no flow is moved for them.
        thread::sleep(Duration::from_millis(500));
        assert_eq!(watch.switches(), known);
        eventually(&watch, "unread", |switches| !switches.unread.is_empty());
        drop(full);
        eventually(&watch, "read again", |switches| *switches == known);
    });
}
