//! Random changes by us and by others. Whatever happened: once it is quiet, the kernel has exactly the routes
//! that we want and that nobody else holds, and the foreign ones are as their owners left them.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    time::Duration,
};

use manx_dataplane::{
    Dataplane,
    table::{Plan, Pool, PoolWrite},
};

use crate::lab::*;

const PREFIXES: [&str; 8] = [
    "172.16.0.0/16",
    "172.16.36.192/26",
    "172.16.36.200/32",
    "172.16.118.64/26",
    "172.16.118.65/32",
    "fd10::/32",
    "fd10:0:0:1::/64",
    "fd10:0:0:1::7/128",
];

/// An address at which a pod comes and goes.
const POD: &str = "172.16.118.65/32";

/// xorshift64*: the same seed gives the same story.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % sides
    }

    fn of(&mut self, things: &[&'static str]) -> &'static str {
        things[self.roll(things.len() as u64) as usize]
    }
}

/// May fail: the place may be taken, the route may be gone.
fn try_ip(arguments: &str) {
    let _ = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
}

fn next_hop(dice: &mut Dice, prefix: &str) -> &'static str {
    if prefix.contains(':') {
        dice.of(&["fd80::121", "fd80::125", "fd80::126"])
    } else {
        dice.of(&["192.168.80.121", "192.168.80.125", "192.168.80.126"])
    }
}

fn family(prefix: &str) -> &'static str {
    if prefix.contains(':') { "-6" } else { "-4" }
}

/// `proto static` routes to our prefixes, as `ip` shows them.
fn foreign() -> BTreeMap<String, String> {
    let text = ip("-4 route show proto static") + &ip("-6 route show proto static");
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "blackhole").collect();
            let prefix = if words[0].contains('/') {
                words[0].to_owned()
            } else {
                format!("{}/{}", words[0], if words[0].contains(':') { 128 } else { 32 })
            };
            (prefix, line.trim().to_owned())
        })
        .filter(|(prefix, _)| PREFIXES.contains(&prefix.as_str()))
        .collect()
}

#[derive(Default)]
struct Wishes {
    paths: BTreeMap<&'static str, BTreeSet<&'static str>>,
    blocks: BTreeSet<&'static str>,
}

impl Wishes {
    fn tell(&self, dataplane: &mut Dataplane) {
        self.tell_blocks(dataplane);
        for prefix in self.paths.keys() {
            self.tell_path(prefix, dataplane);
        }
    }

    fn tell_blocks(&self, dataplane: &mut Dataplane) {
        let pool = Pool {
            name: "default".to_owned(),
            prefix: p("172.16.0.0/16"),
            write: PoolWrite::Always,
            fast_path: true,
        };
        let own_blocks = self.blocks.iter().map(|block| p(block).into()).collect();
        dataplane.configure(Plan { pools: vec![pool], own_blocks, ..Plan::default() });
    }

    fn tell_path(&self, prefix: &str, dataplane: &mut Dataplane) {
        let hops = self.paths.get(prefix).into_iter().flatten().copied();
        dataplane.set_path(p(prefix), gateways(&hops.collect::<Vec<_>>()));
    }
}

/// One thing that happens.
fn disturb(dice: &mut Dice, wishes: &mut Wishes, dataplane: &mut Dataplane) -> String {
    let prefix = dice.of(&PREFIXES);
    let hop = next_hop(dice, prefix);
    let family = family(prefix);
    let command = match dice.roll(13) {
        0..=2 => {
            let hops: BTreeSet<&str> = (0..dice.roll(3)).map(|_| next_hop(dice, prefix)).collect();
            let story = format!("path {prefix} {hops:?}");
            wishes.paths.insert(prefix, hops);
            wishes.tell_path(prefix, dataplane);
            return story;
        }
        3 => {
            if !wishes.blocks.remove(prefix) {
                wishes.blocks.insert(prefix);
            }
            wishes.tell_blocks(dataplane);
            return format!("blocks {:?}", wishes.blocks);
        }
        4 => format!("{family} route add {prefix} via {hop} proto static"),
        5 => format!("{family} route replace {prefix} via {hop} proto static"),
        6 => format!("{family} route del {prefix} proto static"),
        7 => format!("{family} route del {prefix} proto 77"),
        8 => format!("{family} route replace {prefix} via {hop} proto 77"),
        9 => format!("{family} route flush proto 77"),
        10 | 11 => {
            // A pod on an address for which there may be a path; its interface goes and takes the route along.
            if Command::new("ip").args(["link", "del", "caliweb"]).output().unwrap().status.success() {
                return "pod gone".to_owned();
            }
            ip("link add caliweb type veth peer name peer");
            ip("link set caliweb up");
            ip("link set peer up");
            ip(&format!("route replace {POD} dev caliweb scope link"));
            return "pod".to_owned();
        }
        _ => {
            try_ip("link set ens33 down");
            try_ip("link set ens33 up");
            // It is lost with the link, and with it the network of the IPv6 next hops.
            try_ip("addr replace fd80::124/64 dev ens33 nodad");
            return "link flap".to_owned();
        }
    };
    // A replacement of a foreign route by somebody with our protocol is not our doing: leave it out.
    if !command.ends_with("77") || !foreign().contains_key(prefix) {
        try_ip(&command);
    }
    command
}

async fn story(seed: u64, open: impl Fn() -> Dataplane) {
    uplink();
    let mut dice = Dice(seed);
    let mut wishes = Wishes::default();
    let mut dataplane = open();
    wishes.tell(&mut dataplane);
    dataplane.finish_startup();
    let mut told = Vec::new();
    for _ in 0..60 {
        for _ in 0..=dice.roll(3) {
            told.push(disturb(&mut dice, &mut wishes, &mut dataplane));
        }
        let before = foreign();
        settle_for(&mut dataplane, Duration::from_millis(15)).await;
        let context = || format!("seed {seed}, after {:#?}", told.iter().rev().take(12).collect::<Vec<_>>());
        assert_eq!(foreign(), before, "foreign routes: {}", context());

        for prefix in PREFIXES {
            let hops = wishes.paths.get(prefix).filter(|hops| !hops.is_empty());
            // A block of one address is no blackhole.
            let blackhole = wishes.blocks.contains(prefix) && !p(prefix).is_host();
            let wanted = blackhole || hops.is_some();
            let shown = shown(prefix);
            let ours = shown.contains("proto 77");
            let taken = before.contains_key(prefix) || shown.contains("dev caliweb");
            let state = (dataplane.fib_state(p(prefix)), dataplane.withheld(p(prefix)));
            assert_eq!(ours, wanted && !taken, "{prefix}: {shown}: {state:?}: {}", context());
            if ours && blackhole {
                assert!(shown.starts_with("blackhole") && !shown.contains("via"), "{shown}: {}", context());
            } else if let Some(hops) = hops.filter(|_| ours) {
                assert_eq!(shown.matches("via").count(), hops.len(), "{hops:?}: {shown}: {}", context());
                for hop in hops {
                    assert!(shown.contains(&format!("via {hop} ")), "{hops:?}: {shown}: {}", context());
                }
            }
        }
        assert!(dataplane.audit().unwrap().is_clean(), "{}", context());

        // Somebody who sees all of this for the first time comes to the same conclusion.
        let mut newcomer = open();
        wishes.tell(&mut newcomer);
        settle_for(&mut newcomer, Duration::ZERO).await;
        assert_eq!(newcomer.fib_status().writes, 0, "{}", context());
        assert_eq!(newcomer.map_routes(), dataplane.map_routes(), "{}", context());
    }
}

#[test]
fn the_fib_converges_after_whatever_others_do_1() {
    isolated(|| story(0x5eed_0001, open));
}

#[test]
fn the_fib_converges_after_whatever_others_do_2() {
    isolated(|| story(0x5eed_0002, open));
}

#[test]
fn the_fib_converges_after_whatever_others_do_3() {
    isolated(|| story(0x5eed_0003, open));
}

#[test]
fn the_fib_converges_after_whatever_others_do_while_a_thread_writes_1() {
    isolated(|| story(0x5eed_0004, open_with_thread));
}

#[test]
fn the_fib_converges_after_whatever_others_do_while_a_thread_writes_2() {
    isolated(|| story(0x5eed_0005, open_with_thread));
}
