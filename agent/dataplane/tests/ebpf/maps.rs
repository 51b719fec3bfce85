//! What stands in the maps beside the routes: words, groups, places, counters; what others do to them; and maps of
//! other agents.

use std::{cell::RefCell, collections::BTreeMap, mem::offset_of, path::Path};

use aya::maps::{Array, Map, MapData};
use manx_abi::{Counts, Group, Kind, PACKED, Settings, VERDICTS, Word, map};
use manx_dataplane::{
    ebpf::{EbpfSink, InterfaceSettings, MapPart, Mode, Options, PoolSpec, SourceCheck},
    route::{Action, BlackholeKind, NextHop, Route},
};
use manx_net::Prefix;
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{
    namespace::{Namespace, ip, run},
    nodes::{attach, pair},
};

const PINS: &str = "/sys/fs/bpf/manx";

fn pool(prefix: &str, block_len: u8) -> PoolSpec {
    PoolSpec { name: prefix.to_owned(), prefix: prefix.parse().unwrap(), block_len, mode: Mode::Unguarded }
}

fn hop(last: u8) -> NextHop {
    NextHop { gateway: [192, 168, 80, last].into(), ifindex: 1 }
}

fn via(prefix: &str, hops: &[u8]) -> Route {
    let hops = hops.iter().map(|last| hop(*last)).collect();
    Route { prefix: prefix.parse().unwrap(), action: Action::Via(hops) }
}

fn own(prefix: &str) -> Route {
    Route { prefix: prefix.parse().unwrap(), action: Action::Blackhole(BlackholeKind::Own) }
}

fn pinned(name: &str) -> Map {
    let path = format!("{PINS}/v{}/{name}", manx_abi::ABI_VERSION);
    Map::Array(MapData::from_pin(path).unwrap())
}

fn packed(name: &str, at: u32) -> u32 {
    let map: Array<_, [u32; PACKED]> = pinned(name).try_into().unwrap();
    map.get(&(at / PACKED as u32), 0).unwrap()[at as usize % PACKED]
}

fn poke(name: &str, at: u32, word: u32) {
    let mut map: Array<_, [u32; PACKED]> = pinned(name).try_into().unwrap();
    let mut element = map.get(&(at / PACKED as u32), 0).unwrap();
    element[at as usize % PACKED] = word;
    map.set(at / PACKED as u32, element, 0).unwrap();
}

/// The word of the n-th block of the pool that was indexed first.
fn block(number: u32) -> Word {
    Word(packed(map::WORDS, number))
}

fn open() -> EbpfSink {
    let (mut sink, _) = EbpfSink::open(&Options::default()).unwrap();
    assert_eq!(sink.set_pools(&[pool("10.0.0.0/16", 26), pool("fd00:1::/48", 122)]).unwrap(), []);
    sink
}

#[test]
fn a_next_hop_that_changes_under_all_its_routes_is_one_store_and_no_route_is_written() {
    Namespace::new().run(|| {
        let mut sink = open();
        let prefixes: Vec<String> = (0..200).map(|n| format!("10.0.{n}.64/26")).collect();
        let lead = |hops: &[u8]| -> Vec<Route> { prefixes.iter().map(|prefix| via(prefix, hops)).collect() };
        sink.apply(&lead(&[1]), &[]).unwrap();
        let word = block(1);
        assert!(word.is(Kind::Via));
        let before = Group(packed(map::GROUPS, word.target())).target().unwrap();
        let applied = sink.apply(&lead(&[2]), &[]).unwrap();
        assert_eq!((applied.written, applied.refused.len()), (200, 0));
        assert_eq!(block(1), word, "the blocks name the same group");
        assert_eq!(block(199 * 4 + 1), word);
        let after = Group(packed(map::GROUPS, word.target())).target().unwrap();
        assert_ne!(before, after, "and it leads elsewhere");
        assert_eq!(sink.dump().unwrap(), lead(&[2]).into_iter().collect::<Vec<_>>().sorted());
        // One of them goes its own way: the group stays with the others.
        sink.apply(&lead(&[3])[..1], &[]).unwrap();
        assert_ne!(block(1), word);
        assert_eq!(block(5), word);
        assert_eq!(sink.faults().unwrap(), []);
    });
}

/// Changes of one call: a prefix's number, and a bit for each of its next hops from then on; none: it goes.
type Change = Vec<(u8, u8)>;

fn table(desired: &BTreeMap<u8, u8>) -> Vec<Route> {
    let route = |(number, hops): (&u8, &u8)| {
        let hops: Vec<u8> = (0..8).filter(|bit| hops >> bit & 1 == 1).collect();
        via(&format!("10.0.{number}.64/26"), &hops)
    };
    desired.iter().map(route).collect::<Vec<_>>().sorted()
}

#[test]
fn after_each_change_every_route_leads_where_it_is_to_whichever_lead_there_with_it() {
    Namespace::new().run(|| {
        let sink = RefCell::new(open());
        let change = vec((0u8..8, prop_oneof![0u8..8, 1u8..4]), 1..8);
        let mut runner =
            TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
        let tried = runner.run(&vec(change, 1..8), |history: Vec<Change>| {
            let mut sink = sink.borrow_mut();
            sink.reconcile(&[]).unwrap();
            let mut desired = BTreeMap::new();
            for change in history {
                let change: BTreeMap<u8, u8> = change.into_iter().collect();
                let (gone, come): (BTreeMap<u8, u8>, BTreeMap<u8, u8>) =
                    change.into_iter().partition(|(_, hops)| *hops == 0);
                let gone: Vec<Prefix> =
                    gone.keys().map(|number| format!("10.0.{number}.64/26").parse().unwrap()).collect();
                desired.extend(come.clone());
                desired.retain(|number, _| !gone.contains(&format!("10.0.{number}.64/26").parse().unwrap()));
                sink.apply(&table(&come), &gone).unwrap();
                prop_assert_eq!(sink.dump().unwrap(), table(&desired));
            }
            prop_assert_eq!(sink.faults().unwrap(), []);
            Ok(())
        });
        tried.unwrap_or_else(|failed| panic!("{failed}"));
    });
}

trait Sorted {
    fn sorted(self) -> Self;
}

impl Sorted for Vec<Route> {
    fn sorted(mut self) -> Self {
        self.sort_by_key(|route| route.prefix);
        self
    }
}

/// Buckets of a group by next-hop id.
fn buckets(word: Word) -> Vec<u32> {
    let set = Group(packed(map::GROUPS, word.target())).target().unwrap_err();
    let map: Array<_, [u32; 64]> = pinned(map::BUCKETS).try_into().unwrap();
    map.get(&set, 0).unwrap().to_vec()
}

#[test]
fn several_next_hops_share_evenly_and_one_that_goes_takes_only_its_own_flows() {
    Namespace::new().run(|| {
        let mut sink = open();
        let route = |hops: &[u8]| [via("10.0.0.64/26", hops)];
        sink.apply(&route(&[1, 2, 3]), &[]).unwrap();
        let three = buckets(block(1));
        let mut counts = BTreeMap::new();
        three.iter().for_each(|id| *counts.entry(*id).or_insert(0) += 1);
        assert_eq!(counts.values().copied().collect::<Vec<i32>>(), [22, 21, 21]);
        assert_eq!(sink.dump().unwrap(), route(&[1, 2, 3]));
        let [_, _, lost] = <[u32; 3]>::try_from(counts.into_keys().collect::<Vec<_>>()).unwrap();

        sink.apply(&route(&[1, 2]), &[]).unwrap();
        let two = buckets(block(1));
        for (now, then) in two.iter().zip(&three) {
            assert!(now == then || *then == lost, "{two:?} {three:?}");
        }
        sink.apply(&route(&[1, 2, 3]), &[]).unwrap();
        let again = buckets(block(1));
        let moved = again.iter().zip(&two).filter(|(now, then)| now != then);
        assert_eq!(moved.count(), 21, "its fair share, no more");
        assert_eq!(sink.faults().unwrap(), []);
    });
}

#[test]
fn what_the_words_say_is_repaired_and_named() {
    Namespace::new().run(|| {
        let mut sink = open();
        let routes = [
            via("10.0.0.64/26", &[1]),
            own("10.0.0.128/26"),
            via("10.0.0.130/32", &[1]),
            via("fd00:1::40/122", &[]),
        ];
        let routes: Vec<Route> =
            routes.into_iter().filter(|route| route.action != Action::Via(vec![])).collect();
        sink.apply(&routes, &[]).unwrap();
        assert_eq!(sink.faults().unwrap(), []);
        let group = block(1).target();
        poke(map::WORDS, 1, Word::new(Kind::Pass, 0).0);
        poke(map::WORDS, block(2).target() + 2, 0xffff_ffff);
        poke(map::GROUPS, group, 77);
        poke(map::COUNTER_IDS, 2, 9);
        let faults = sink.faults().unwrap();
        let about: Vec<_> = faults.iter().map(|fault| (fault.map, fault.about.as_str())).collect();
        assert_eq!(about.len(), 4, "{faults:?}");
        for expected in [
            (map::WORDS, "10.0.0.64/26"),
            (map::WORDS, "10.0.0.130/32"),
            (map::GROUPS, &format!("group {group}")),
            (map::COUNTER_IDS, "10.0.0.128/26"),
        ] {
            assert!(about.contains(&expected), "{faults:?}");
        }
        let of = |part| sink.faults_of(part).unwrap();
        assert_eq!(MapPart::ALL.map(|part| of(part).len()), [1, 3, 0, 0]);
        assert_eq!(MapPart::ALL.map(of).concat(), faults);
        let of_block = faults.iter().find(|fault| fault.about == "10.0.0.64/26").unwrap();
        assert!(of_block.found.starts_with("pass,"), "{faults:?}");
        let applied = sink.reconcile(&routes).unwrap();
        assert_eq!(applied.repaired.len(), 4);
        assert_eq!(sink.faults().unwrap(), []);
        assert_eq!(sink.dump().unwrap(), routes.sorted());
    });
}

#[test]
fn of_much_damage_the_first_is_named_and_the_rest_is_counted_and_repaired() {
    Namespace::new().run(|| {
        let mut sink = open();
        let routes: Vec<Route> =
            (0..400).map(|n| own(&format!("10.0.{}.{}/26", n / 4, n % 4 * 64))).collect();
        sink.apply(&routes, &[]).unwrap();
        for n in 0..400 {
            poke(map::WORDS, n, 0);
        }
        let faults = sink.faults().unwrap();
        assert_eq!(faults.len(), 101, "{faults:?}");
        let rest = faults.last().unwrap();
        assert_eq!((rest.map, rest.about.as_str()), (map::WORDS, "300 more entries"));
        assert_eq!(sink.repair().unwrap(), faults);
        assert_eq!(sink.faults().unwrap(), []);
    });
}

#[test]
fn the_index_is_found_again_by_the_next_agent_and_nothing_in_it_moves() {
    Namespace::new().run(|| {
        let mut sink = open();
        let routes = vec![
            via("10.0.0.64/26", &[1, 2]),
            own("10.0.0.128/26"),
            via("10.0.0.130/32", &[1]),
            via("10.0.0.0/8", &[2]),
        ];
        let mut six = via("fd00:1::40/122", &[]);
        six.action = Action::Blackhole(BlackholeKind::Own);
        let mut pod = six.clone();
        pod.prefix = "fd00:1::41/128".parse().unwrap();
        pod.action = Action::Pass;
        let routes: Vec<Route> = routes.into_iter().chain([six, pod]).collect();
        sink.apply(&routes, &[]).unwrap();
        let words: Vec<Word> = (0..1024).map(block).collect();
        drop(sink);
        let (mut sink, opened) = EbpfSink::open(&Options::default()).unwrap();
        assert!(opened.adopted);
        assert_eq!(sink.faults().unwrap(), []);
        assert_eq!(sink.set_pools(&[pool("10.0.0.0/16", 26), pool("fd00:1::/48", 122)]).unwrap(), []);
        assert_eq!(sink.reconcile(&routes).unwrap().written, 0);
        assert_eq!((0..1024).map(block).collect::<Vec<_>>(), words);
        // And what it does next it does right.
        let gone: Vec<Prefix> = routes.iter().map(|route| route.prefix).collect();
        assert_eq!(sink.apply(&[], &gone).unwrap().removed, routes.len());
        assert_eq!(sink.faults().unwrap(), []);
        assert!((0..1024).map(block).all(|word| word.is(Kind::NoRoute)));
    });
}

#[test]
fn outside_the_pools_the_tries_are_asked_only_where_something_there_is_more_than_a_way() {
    Namespace::new().run(|| {
        let asked = || {
            let map: Array<_, [u8; size_of::<Settings>()]> = pinned(map::SETTINGS).try_into().unwrap();
            let settings = map.get(&0, 0).unwrap();
            let word = |at: usize| u32::from_ne_bytes(settings[at..at + 4].try_into().unwrap());
            [word(offset_of!(Settings, outside4)), word(offset_of!(Settings, outside6))].map(|word| word != 0)
        };
        let mut sink = open();
        sink.set_pools(&[pool("10.0.0.0/16", 26), pool("fd00:1::/48", 122)]).unwrap();
        let ways = [via("10.0.1.0/26", &[1]), via("192.0.2.0/24", &[1]), via("2001:db8::/32", &[1])];
        sink.apply(&ways, &[]).unwrap();
        assert_eq!(asked(), [false, false]);
        let refused = [own("198.51.100.0/24"), own("2001:db8:1::/48")];
        sink.apply(&refused[..1], &[]).unwrap();
        assert_eq!(asked(), [true, false]);
        sink.apply(&refused[1..], &[refused[0].prefix]).unwrap();
        assert_eq!(asked(), [false, true]);
        // A way becomes a blackhole and a way again.
        sink.apply(&[own("192.0.2.0/24")], &[refused[1].prefix]).unwrap();
        assert_eq!(asked(), [true, false]);
        sink.apply(&[via("192.0.2.0/24", &[1])], &[]).unwrap();
        assert_eq!(asked(), [false, false]);
        // Only around what is there, and the family's other parts cost nothing.
        let bit = |v4: bool, part: u32| {
            let (at, bit) = manx_abi::outside::position(v4, part);
            packed(map::OUTSIDE, at) >> bit & 1 == 1
        };
        sink.apply(&[own("198.50.0.0/15"), own("2001:db8:1::/48")], &[]).unwrap();
        let parts = [0xc631, 0xc632, 0xc633, 0xc634, 0xc000].map(|part| bit(true, part));
        assert_eq!(parts, [false, true, true, false, false]);
        let part6 = |first: u64| bit(false, manx_abi::outside::part6(first << 32));
        assert_eq!([0x2001_0db8, 0x2001_0db9].map(part6), [true, false]);
        // Somebody clears a bit: such a blackhole would not drop any more.
        let (at, _) = manx_abi::outside::position(true, 0xc632);
        poke(map::OUTSIDE, at, 0);
        let faults = sink.faults().unwrap();
        assert_eq!(faults.len(), 1, "{faults:?}");
        let all = sink.dump().unwrap();
        sink.reconcile(&all).unwrap();
        assert!(bit(true, 0xc632) && bit(true, 0xc633) && sink.faults().unwrap().is_empty());
        sink.apply(&[own("0.0.0.0/0")], &[]).unwrap();
        assert!((0..0x1_0000).step_by(977).all(|part| bit(true, part)) && !part6(0x2001_0db9));
        let gone = ["198.50.0.0/15", "2001:db8:1::/48", "0.0.0.0/0"].map(|prefix| prefix.parse().unwrap());
        sink.apply(&[], &gone).unwrap();
        let words = 0..manx_abi::outside::WORDS as u32;
        assert!(words.into_iter().all(|at| packed(map::OUTSIDE, at) == 0));
        // What lies in a pool that is not indexed is carried, so it is asked for.
        assert_eq!(sink.set_pools(&[pool("192.0.0.0/8", 32)]).unwrap().len(), 1);
        assert_eq!(asked(), [true, false]);
        assert_eq!(sink.set_pools(&[]).unwrap(), []);
        assert_eq!(asked(), [false, false]);
        assert_eq!(sink.faults().unwrap(), []);
    });
}

#[test]
fn a_pool_that_does_not_fit_is_named_and_a_full_hash_of_blocks_asks_the_trie() {
    Namespace::new().run(|| {
        let options = Options { sizes: "words=1024,blocks6=2".parse().unwrap(), ..Options::default() };
        let (mut sink, _) = EbpfSink::open(&options).unwrap();
        let refused = sink.set_pools(&[pool("10.0.0.0/8", 26), pool("fd00:1::/48", 122)]).unwrap();
        assert_eq!(refused.len(), 1);
        assert_eq!(
            refused[0].reason.to_string(),
            "its 262144 blocks do not fit the map of words; raise its size (--map-size words=N)"
        );
        let hop6 = NextHop { gateway: "fd00:80::1".parse().unwrap(), ifindex: 1 };
        let blocks = ["fd00:1::/122", "fd00:1::40/122", "fd00:1::80/122", "fd00:1::c0/122"];
        let route = |text: &&str| Route { prefix: text.parse().unwrap(), action: Action::Via(vec![hop6]) };
        let routes: Vec<Route> = blocks.iter().map(route).collect();
        assert_eq!(sink.apply(&routes, &[]).unwrap().refused, [], "the trie has them");
        assert_eq!(sink.status().unwrap().without_block6, 2);
        assert_eq!(sink.faults().unwrap(), []);
        sink.apply(&[], &[routes[0].prefix, routes[1].prefix, routes[2].prefix]).unwrap();
        assert_eq!(sink.status().unwrap().without_block6, 0);
        assert_eq!(sink.faults().unwrap(), []);
        let fill = sink.fill().unwrap();
        let of = |name| fill.iter().find(|fill| fill.name == name).unwrap();
        assert_eq!((of(map::BLOCKS6).entries, of(map::BLOCKS6).capacity), (1, 2));
        assert_eq!(of(map::WORDS).capacity, 1024);
        assert!(of(map::ROUTES6).bytes > 0 && of(map::WORDS).bytes >= 4096);
    });
}

#[test]
fn blocks_that_somebody_took_from_a_small_table_are_written_again_or_asked_of_the_trie() {
    Namespace::new().run(|| {
        let options = Options { sizes: "blocks6=2".parse().unwrap(), ..Options::default() };
        let (mut sink, _) = EbpfSink::open(&options).unwrap();
        assert_eq!(sink.set_pools(&[pool("fd00:1::/48", 122)]).unwrap(), []);
        sink.apply(&["fd00:1::/122", "fd00:1::40/122"].map(own), &[]).unwrap();
        let fill = |slot: &dyn Fn(u64) -> [u64; 4]| {
            let mut table: Array<_, [u64; 4]> = pinned(map::BLOCKS6).try_into().unwrap();
            for place in 0..table.len() {
                table.set(place, slot(place.into()), 0).unwrap();
            }
        };
        let lacking = |sink: &EbpfSink| sink.status().unwrap().without_block6;
        // Emptied: there is room again for what was in it.
        fill(&|_| [0; 4]);
        assert_eq!(sink.repair().unwrap().len(), 2);
        assert_eq!((sink.faults().unwrap(), lacking(&sink)), (vec![], 0));
        // Filled by others: what they leave has to rest, and until then the pool says that the trie is to be asked.
        fill(&|place| [0xfd77 << 48, 64 * place + 1, 5 << 28, 0]);
        assert_eq!(sink.repair().unwrap().len(), 6, "two that are missing and four strangers");
        assert_eq!((sink.faults().unwrap(), lacking(&sink)), (vec![], 2));
        assert_eq!(sink.repair().unwrap(), []);
        assert_eq!(lacking(&sink), 2);
        std::thread::sleep(std::time::Duration::from_secs(31));
        assert_eq!(sink.repair().unwrap(), []);
        assert_eq!((sink.faults().unwrap(), lacking(&sink)), (vec![], 0));
    });
}

#[test]
fn what_an_interface_counted_is_not_lost_when_it_goes() {
    let (kw01, kw02) = pair();
    let mut sink = kw01.sink(&kw02);
    assert_eq!(kw01.pods[0].answers(&kw01.pods[1].v4, 5, 0.01), 5);
    kw01.namespace.run(move || {
        let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
        let before = sink.counters().unwrap();
        let pod = &before.interfaces[&index("cali1")];
        assert_eq!(pod.hooks.tc.redirected_peer, 5);
        let prefixes = sink.prefix_counts().unwrap();
        let of = |text: &str| {
            let prefix = Some(text.parse::<Prefix>().unwrap());
            prefixes.iter().find(|(of, _)| *of == prefix).unwrap().1
        };
        assert_eq!((of("172.16.36.194/32").packets, of("172.16.36.193/32").packets), (5, 5));
        sink.detach(index("cali1")).unwrap();
        let after = sink.counters().unwrap();
        // Neighbour discovery and the like may count meanwhile; nothing may be lost.
        let none_fell = |now: &Counts| VERDICTS.iter().all(|of| now.get(*of) >= before.pod_tc.get(*of));
        assert!(none_fell(&after.pod_tc), "{after:?}");
        assert_eq!(after.pod_tc.redirected_peer, before.pod_tc.redirected_peer);
        assert!(!after.interfaces.contains_key(&index("cali1")));
        attach(&mut sink, &["cali1"]);
        let again = sink.counters().unwrap();
        assert!(none_fell(&again.pod_tc), "{again:?}");
        assert_eq!(again.pod_tc.redirected_peer, before.pod_tc.redirected_peer);
        assert_eq!(again.interfaces[&index("cali1")].hooks.tc.redirected_peer, 0);
    });
}

#[test]
fn an_interface_that_is_switched_off_leaves_its_packets_to_the_stack_and_the_others_not() {
    let (kw01, kw02) = pair();
    let mut sink = kw01.sink(&kw02);
    let ifindex = kw01.namespace.ifindex("cali1");
    let off = InterfaceSettings {
        mode: Some(Mode::Off),
        source_check: SourceCheck::Strict,
        ..InterfaceSettings::default()
    };
    sink.set_interface(ifindex, off);
    assert_eq!(kw01.pods[0].answers(&kw01.pods[1].v4, 3, 0.01), 3);
    let counted = sink.counters().unwrap();
    assert_eq!(counted.pod_tc.interface_off, 3);
    assert_eq!(counted.pod_tc.redirected_peer, 3, "the answers");
    sink.set_interface(ifindex, InterfaceSettings::default());
    assert_eq!(kw01.pods[0].answers(&kw01.pods[1].v4, 3, 0.01), 3);
    assert_eq!(sink.counters().unwrap().pod_tc.redirected_peer, 9);
    assert_eq!(sink.faults().unwrap(), []);
}

#[test]
fn maps_of_an_older_abi_go_when_the_last_link_has_moved_and_a_newer_ones_stay() {
    let (kw01, kw02) = pair();
    let routes = kw01.routes(&kw02);
    drop(kw01.sink(&kw02));
    let (pod, address) = (&kw01.pods[0], kw02.pods[0].v4.clone());
    kw01.namespace.run(move || {
        // As an agent of ABI 1 left them, by their names; the programs that run are on maps of theirs.
        std::fs::create_dir(format!("{PINS}/v1")).unwrap();
        std::fs::create_dir(format!("{PINS}/v99")).unwrap();
        for (dir, name) in [("v1", "ROUTES4"), ("v1", "UPLINKS"), ("v99", "ROUTES4")] {
            let kind = "type hash key 4 value 8 entries 4 name other";
            run("bpftool", &format!("map create {PINS}/{dir}/{name} {kind}"));
        }
        for name in map::ALL {
            std::fs::remove_file(format!("{PINS}/v{}/{name}", manx_abi::ABI_VERSION)).unwrap();
        }
        let (mut sink, opened) = EbpfSink::open(&Options::default()).unwrap();
        assert!(!opened.adopted);
        assert_eq!(opened.older, [1]);
        assert_eq!(opened.unknown, [format!("{PINS}/v99")]);
        sink.set_pools(&crate::nodes::pools()).unwrap();
        sink.reconcile(&routes).unwrap();
        sink.set_whole_mode(Mode::Unguarded);
        assert!(Path::new(&format!("{PINS}/v1/ROUTES4")).exists());
        attach(&mut sink, &["cali1", "cali2"]);
        assert!(Path::new(&format!("{PINS}/v1/ROUTES4")).exists());
        sink.detach_unclaimed().unwrap();
        assert!(!Path::new(&format!("{PINS}/v1")).exists());
        assert!(Path::new(&format!("{PINS}/v99/ROUTES4")).exists());
        ip("link set lo up");
    });
    assert_eq!(pod.answers(&address, 5, 0.01), 5);
}
