//! The node that the vectors are about: kw01 of the article with two pods, two uplinks, and a map that has a route
//! of each kind. Programs run on frames by BPF_PROG_TEST_RUN and share the sink's maps through their pins.

use std::{collections::BTreeSet, time::Duration};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData},
    programs::{
        ProgramError, SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp,
        links::{FdLink, PinnedLink},
        loaded_programs,
    },
};
use manx_abi::{Kind, PACKED, Program, Settings, VERDICTS, Verdict, Word, map};
use manx_dataplane::{
    ebpf::{EbpfSink, InterfaceSettings, KeepAlive, Mode, OBJECT, Options, SourceCheck, WayBack, resolve},
    route::{self, Action, BlackholeKind, NextHop, Route},
};
use manx_net::Prefix;

use crate::{
    frame::{Frame, Mac},
    namespace::{Namespace, run},
    nodes::pools,
};

pub const POD1: &str = "cali1";
pub const POD2: &str = "cali2";
pub const POD_WITHOUT_MAC: &str = "cali3";
/// Taken away when everything has been written.
pub const POD_THAT_WENT: &str = "cali4";
pub const UPLINK: &str = "ens33";
/// Its MTU is 1400.
pub const NARROW: &str = "ens34";
/// The MTU of [`NARROW`].
pub const NARROW_MTU: usize = 1400;
/// An index that no interface has.
const GONE: u32 = 99_999;

/// MACs by interface name: the host's side, and the pod's or the wire's.
pub const HOST1: Mac = [0xee, 0, 0, 0, 0, 0x11];
pub const POD1_MAC: Mac = [0x0a, 0, 0, 0, 0, 0x11];
pub const HOST2: Mac = [0xee, 0, 0, 0, 0, 0x22];
pub const POD2_MAC: Mac = [0x0a, 0, 0, 0, 0, 0x22];
pub const UPLINK_MAC: Mac = [0x02, 0, 0, 0, 0, 0x33];
pub const STRANGER: Mac = [0x02, 0, 0, 0, 0, 0x99];
pub const BROADCAST: Mac = [0xff; 6];

/// Conntrack's timeouts of UDP, in seconds, as the programs are told them. By the kernel's own a flow of a table has two
/// seconds until it is to be renewed, which an emulated machine takes to get there.
pub const UDP: u64 = 480;
pub const UDP_STREAM: u64 = 600;

/// What is done to the world for one vector, and undone after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Usual,
    FastPathOff,
    SourceCheckOff,
    SourceCheckLoose,
    /// The whole node carries only what conntrack has admitted.
    Guarded,
    /// Of [`POD1`].
    InterfaceOff,
    InterfaceGuarded,
    /// Of all uplinks: the way back to the source has to lead by them.
    WayBack,
    /// Of all pools.
    PoolsOff,
    PoolsGuarded,
    /// The agent has not been heard of for long.
    Stale,
    /// It was heard of last when the low 32 bits of jiffies were what they are now.
    StaleForWeeks,
    /// Guarded, by a program whose question conntrack refuses.
    Refused,
    /// The packet is several in one, of this many octets of payload each.
    Gso(u32),
}

/// What the frame looks like when the program has ended.
#[derive(Clone, Debug)]
pub enum Out {
    Same,
    Is(Frame),
}

/// One sentence, a frame in, what is decided, the frame out.
#[derive(Clone, Debug)]
pub struct Vector {
    pub says: &'static str,
    pub program: Program,
    pub interface: &'static str,
    pub frame: Frame,
    pub condition: Condition,
    pub verdict: Verdict,
    pub out: Out,
}

/// The vector's frame comes in by `interface`; its source MAC is of no interest.
pub fn vector(says: &'static str, interface: &'static str, frame: Frame, verdict: Verdict) -> Vector {
    let program = if interface.starts_with("cali") { Program::PodTc } else { Program::UplinkTc };
    let mac = match interface {
        POD1 => HOST1,
        POD2 => HOST2,
        _ => UPLINK_MAC,
    };
    let frame = frame.macs(mac, STRANGER);
    Vector { says, program, interface, frame, condition: Condition::Usual, verdict, out: Out::Same }
}

impl Vector {
    pub fn for_mac(mut self, mac: Mac) -> Vector {
        self.frame = self.frame.macs(mac, STRANGER);
        self
    }

    pub fn when(mut self, condition: Condition) -> Vector {
        self.condition = condition;
        self
    }

    pub fn xdp(mut self) -> Vector {
        self.program = Program::UplinkXdp;
        self
    }

    /// Into a pod: one hop less, from the host side's MAC to the pod's.
    pub fn into_pod(mut self, pod: Mac, host: Mac) -> Vector {
        self.out = Out::Is(self.frame.clone().forwarded(pod, host));
        self
    }

    /// To a next hop: one hop less; the kernel writes the MACs when it sends.
    pub fn onward(mut self) -> Vector {
        let mac = match self.interface {
            POD1 => HOST1,
            POD2 => HOST2,
            _ => UPLINK_MAC,
        };
        self.out = Out::Is(self.frame.clone().forwarded(mac, STRANGER));
        self
    }
}

pub struct World {
    /// Kept for its devices.
    _around: [Namespace; 2],
    sink: EbpfSink,
    programs: Attached,
    options: Options,
}

/// Runs a table in a fresh world; all vectors that fail are named.
pub fn check(vectors: fn() -> Vec<Vector>) {
    let (node, pods, wire) = (Namespace::new(), Namespace::new(), Namespace::new());
    for around in [&pods, &wire] {
        // Nobody there says anything of his own (multicast listeners' reports), which would be counted too.
        around.run(|| std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap());
    }
    for (name, host, pod) in [
        (POD1, HOST1, POD1_MAC),
        (POD2, HOST2, POD2_MAC),
        (POD_WITHOUT_MAC, HOST2, POD2_MAC),
        (POD_THAT_WENT, HOST2, POD2_MAC),
    ] {
        node.veth(name, &pods, &format!("{name}-pod"));
        node.ip(&format!("link set {name} address {}", text(host)));
        pods.ip(&format!("link set {name}-pod address {}", text(pod)));
    }
    for name in [UPLINK, NARROW] {
        node.veth(name, &wire, &format!("{name}-wire"));
        node.ip(&format!("link set {name} address {}", text(UPLINK_MAC)));
    }
    let failures = node.run(move || {
        let mut world = World::new([pods, wire]);
        // Where conntrack is a module, a look at it has loaded it now; flows have only seconds, so they are written later.
        run("conntrack", "-C");
        if world.sink.take_up_guard().unwrap() {
            world.programs = Attached::find(&world.options);
        }
        let vectors = vectors();
        let has_refused = world.programs.refused.is_some();
        let can_run = |vector: &&Vector| has_refused || !matches!(vector.condition, Condition::Refused);
        let failures: Vec<String> =
            vectors.iter().filter(can_run).filter_map(|vector| world.failure(vector)).collect();
        println!("{} vectors, {} failed", vectors.len(), failures.len());
        failures
    });
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

impl World {
    fn new(around: [Namespace; 2]) -> World {
        let ip = |arguments: &str| drop(run("ip", arguments));
        ip(&format!("link set {NARROW} mtu {NARROW_MTU}"));
        ip(&format!("addr add 192.168.80.124/24 dev {UPLINK}"));
        ip(&format!("addr add fd00:80::124/64 dev {UPLINK} nodad"));
        // What the kernel knows: the pods, the own blocks, and one pod each that the agent has not heard of.
        for (last, device) in [(193, POD1), (194, POD2), (200, POD2)] {
            ip(&format!("route add 172.16.36.{last} dev {device}"));
            ip(&format!("-6 route add fd00:36::{last} dev {device}"));
        }
        ip("route add blackhole 172.16.36.192/26");
        ip("-6 route add blackhole fd00:36::/64");
        // What others did since the agent was heard of: one gateway is as in the map, one is another of the same uplink,
        // one goes by another uplink, and a blackhole is gone.
        ip(&format!("route add 172.16.119.0/26 via 192.168.80.125 dev {UPLINK}"));
        ip(&format!("route add 172.16.118.64/26 via inet6 fd00:80::126 dev {UPLINK}"));
        ip(&format!("-6 route add fd00:118::/64 via fd00:80::126 dev {UPLINK}"));
        ip(&format!("route add 172.16.121.0/26 via inet6 fd00:80::125 dev {UPLINK}"));
        ip(&format!("-6 route add fd00:121::/64 via fd00:80::125 dev {UPLINK}"));
        ip(&format!("route add 172.16.120.0/26 via 192.168.80.125 dev {UPLINK}"));
        ip("route add blackhole 172.16.123.0/27");
        ip("-6 route add blackhole fd00:123::/80");
        let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
        let options = Options { bpf_dir: "/sys/fs/bpf/manx".into(), ..Options::default() };
        let (mut sink, _) = EbpfSink::open(&options).unwrap();
        let pod =
            |name: &str, mac: Option<Mac>| Action::Local { ifindex: index(name), mac: mac.map(route::Mac) };
        let via = |gateway: &str, ifindex: u32| {
            Action::Via(vec![NextHop { gateway: gateway.parse().unwrap(), ifindex }])
        };
        let two = Action::Via(vec![
            NextHop { gateway: "192.168.80.125".parse().unwrap(), ifindex: index(UPLINK) },
            NextHop { gateway: "192.168.80.126".parse().unwrap(), ifindex: index(UPLINK) },
        ]);
        let routes = [
            ("172.16.36.192/26", "fd00:36::/64", Action::Blackhole(BlackholeKind::Own)),
            ("172.16.36.193/32", "fd00:36::193/128", pod(POD1, Some(POD1_MAC))),
            ("172.16.36.194/32", "fd00:36::194/128", pod(POD2, Some(POD2_MAC))),
            ("172.16.36.195/32", "fd00:36::195/128", pod(POD_WITHOUT_MAC, None)),
            (
                "172.16.36.196/32",
                "fd00:36::196/128",
                Action::Local { ifindex: GONE, mac: Some(route::Mac(POD2_MAC)) },
            ),
            ("172.16.36.197/32", "fd00:36::197/128", pod(POD_THAT_WENT, Some(POD2_MAC))),
            ("172.16.118.64/26", "fd00:118::/64", via("fd00:80::125", index(UPLINK))),
            ("172.16.120.0/26", "fd00:120::/64", via("fd00:81::1", index(NARROW))),
            ("172.16.121.0/26", "fd00:121::/64", via("fd00:80::125", index(UPLINK))),
            ("172.16.122.0/26", "fd00:122::/64", Action::Unreachable),
            ("172.16.123.0/26", "fd00:123::/64", Action::Blackhole(BlackholeKind::Explicit)),
            ("172.16.124.0/26", "fd00:124::/64", two),
            ("172.16.118.70/32", "fd00:118::70/128", Action::Pass),
            ("172.16.125.0/26", "fd00:125::/64", via("fd00:80::125", GONE)),
            ("172.16.126.0/26", "fd00:126::/64", via("fd00:80::7", index(POD1))),
        ];
        let mut all = Vec::new();
        for (v4, v6, action) in routes {
            all.push(Route { prefix: prefix(v4), action: action.clone() });
            all.push(Route { prefix: prefix(v6), action });
        }
        // The article's own next hop: IPv4 by IPv4.
        all.push(Route { prefix: prefix("172.16.119.0/26"), action: via("192.168.80.125", index(UPLINK)) });
        for outside in ["10.9.0.0/16", "fd09::/48", "10.66.8.0/21", "fd00:66:9::/48"] {
            let action = via("fd00:80::125", index(UPLINK));
            all.push(Route { prefix: prefix(outside), action });
        }
        for refused in ["10.66.0.0/24", "fd00:66::/64"] {
            let action = Action::Blackhole(BlackholeKind::Explicit);
            all.push(Route { prefix: prefix(refused), action });
        }
        assert_eq!(sink.set_pools(&pools()).unwrap(), []);
        // In their place stands what no agent writes.
        for foreign in ["172.16.127.1", "172.16.127.2", "fd00:127::1", "fd00:127::2", "fd00:127::3"] {
            all.push(Route { prefix: Prefix::host(foreign.parse().unwrap()), action: Action::Pass });
        }
        let applied = sink.apply(&all, &[]).unwrap();
        assert_eq!((applied.written, applied.refused.len()), (all.len(), 0));
        ip(&format!("link del {POD_THAT_WENT}"));
        foreign_entries(&options);
        for uplink in [UPLINK, NARROW] {
            sink.attach_uplink(index(uplink)).unwrap();
        }
        for pod in [POD1, POD2, POD_WITHOUT_MAC] {
            sink.attach_pod(index(pod)).unwrap();
        }
        sink.set_whole_mode(Mode::Unguarded);
        let of = Duration::from_secs;
        sink.set_keep_alive(KeepAlive { udp: of(UDP), udp_stream: of(UDP_STREAM), ..KeepAlive::default() });
        World { _around: around, sink, programs: Attached::find(&options), options }
    }

    fn check_sources(&mut self, source_check: SourceCheck) {
        for pod in [POD1, POD2, POD_WITHOUT_MAC] {
            let ifindex = nix::net::if_::if_nametoindex(pod).unwrap();
            self.sink.set_interface(
                ifindex,
                InterfaceSettings { mode: None, source_check, ..InterfaceSettings::default() },
            );
        }
    }

    fn set_interface(&mut self, mode: Mode) {
        let ifindex = nix::net::if_::if_nametoindex(POD1).unwrap();
        let settings = InterfaceSettings {
            mode: Some(mode),
            source_check: SourceCheck::Strict,
            ..InterfaceSettings::default()
        };
        self.sink.set_interface(ifindex, settings);
    }

    fn want_ways_back(&mut self, on: bool) {
        let way_back = WayBack { ipv4: on, ipv6: on };
        for interface in [UPLINK, NARROW] {
            let ifindex = nix::net::if_::if_nametoindex(interface).unwrap();
            self.sink.set_interface(ifindex, InterfaceSettings { way_back, ..InterfaceSettings::default() });
        }
    }

    fn set_pools(&mut self, mode: Mode) {
        let mut pools = pools();
        pools.iter_mut().for_each(|pool| pool.mode = mode);
        assert_eq!(self.sink.set_pools(&pools).unwrap(), []);
    }

    /// 0 is what nobody ever wrote. How long it is enough is nothing.
    fn set_pulse(&mut self, pulse: u32) {
        self.settings(|settings| (settings.pulse, settings.pulse_limit) = (pulse, 0));
    }

    fn beat_weeks_ago(&mut self) {
        self.sink.pulse().unwrap();
        let turn = manx_abi::pulse(1 << 32);
        self.settings(|settings| settings.pulse = settings.pulse.wrapping_sub(turn));
    }

    fn settings(&mut self, change: impl FnOnce(&mut Settings)) {
        let path = format!("/sys/fs/bpf/manx/v{}/{}", manx_abi::ABI_VERSION, map::SETTINGS);
        let settings = Map::Array(MapData::from_pin(path).unwrap());
        let mut settings: Array<_, [u8; Settings::SIZE]> = settings.try_into().unwrap();
        let mut changed = Settings::from_bytes(settings.get(&0, 0).unwrap()).unwrap();
        change(&mut changed);
        settings.set(0, changed.to_bytes(), 0).unwrap();
    }

    fn failure(&mut self, vector: &Vector) -> Option<String> {
        match vector.condition {
            Condition::FastPathOff => self.sink.set_whole_mode(Mode::Off),
            Condition::SourceCheckOff => self.check_sources(SourceCheck::Off),
            Condition::SourceCheckLoose => self.check_sources(SourceCheck::Loose),
            Condition::Guarded => self.sink.set_whole_mode(Mode::Guarded),
            Condition::InterfaceOff => self.set_interface(Mode::Off),
            Condition::InterfaceGuarded => self.set_interface(Mode::Guarded),
            Condition::WayBack => self.want_ways_back(true),
            Condition::PoolsOff => self.set_pools(Mode::Off),
            Condition::PoolsGuarded => self.set_pools(Mode::Guarded),
            Condition::Stale => self.set_pulse(1),
            Condition::StaleForWeeks => self.beat_weeks_ago(),
            Condition::Refused => self.sink.set_whole_mode(Mode::Guarded),
            Condition::Usual | Condition::Gso(_) => {}
        }
        let before = *self.sink.counters().unwrap().of(vector.program);
        let (action, out) = self.run(vector);
        let after = *self.sink.counters().unwrap().of(vector.program);
        self.sink.set_whole_mode(Mode::Unguarded);
        self.check_sources(SourceCheck::Strict);
        self.set_pulse(0);
        if matches!(vector.condition, Condition::WayBack) {
            self.want_ways_back(false);
        }
        if matches!(vector.condition, Condition::PoolsOff | Condition::PoolsGuarded) {
            self.set_pools(Mode::Unguarded);
        }
        let counted: Vec<Verdict> =
            VERDICTS.iter().copied().filter(|verdict| after.get(*verdict) != before.get(*verdict)).collect();
        let expected = match &vector.out {
            Out::Same => vector.frame.bytes(),
            Out::Is(frame) => frame.bytes(),
        };
        let mut wrong = Vec::new();
        if counted != [vector.verdict] {
            wrong.push(format!("counted {counted:?} instead of {:?}", vector.verdict));
        }
        let right_action = action_of(vector.program, vector.verdict);
        if action != right_action {
            wrong.push(format!("returned {action} instead of {right_action}"));
        }
        if out != expected {
            wrong.push(format!("the frame is\n    {}\n  instead of\n    {}", hex(&out), hex(&expected)));
        }
        (!wrong.is_empty()).then(|| format!("{}: {}", vector.says, wrong.join("; ")))
    }

    fn run(&mut self, vector: &Vector) -> (i32, Vec<u8>) {
        let frame = vector.frame.bytes();
        let mut out = vec![0; frame.len() + 256];
        let ifindex = nix::net::if_::if_nametoindex(vector.interface).unwrap();
        let gso = match vector.condition {
            Condition::Gso(size) => size,
            _ => 0,
        };
        let context = match vector.program {
            Program::UplinkXdp => xdp_context(frame.len() as u32, ifindex),
            _ => skb_context(ifindex, gso),
        };
        let options = TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        let result = match vector.condition {
            Condition::Refused => self.programs.test_run_refused(options),
            _ => self.programs.test_run(vector.program, options),
        };
        let result = result.unwrap_or_else(|error| panic!("{}: {error:?}", vector.says));
        let length = result.data_size_out as usize;
        (result.return_value as i32, out[..length].to_vec())
    }
}

/// What no agent of this ABI writes, in the pages of the blocks that it is in: a kind that is not defined, a group that
/// was never written, and an IPv6 address by an IPv4 next hop.
fn foreign_entries(options: &Options) {
    let open = |name| {
        let path = options.bpf_dir.join(format!("v{}", manx_abi::ABI_VERSION)).join(name);
        MapData::from_pin(path).unwrap()
    };
    let mut words: Array<_, [u32; PACKED]> = Map::Array(open(map::WORDS)).try_into().unwrap();
    let blocks6: Array<_, [u64; 4]> = Map::Array(open(map::BLOCKS6)).try_into().unwrap();
    let read = |words: &Array<_, [u32; PACKED]>, at: u32| {
        Word(words.get(&(at / PACKED as u32), 0).unwrap()[at as usize % PACKED])
    };
    // The pool of IPv4 is the first that got room, and its blocks are of 64 addresses.
    let page4 = read(&words, 127 * 4).target();
    let by_ipv4 = read(&words, 119 * 4);
    let block: std::net::Ipv6Addr = "fd00:127::".parse().unwrap();
    let block = manx_abi::Block6::key(manx_abi::pool::halves(block.octets())).unwrap();
    let slot = blocks6.iter().map(Result::unwrap).find(|slot| slot[..2] == block).unwrap();
    let page6 = Word(slot[2] as u32).target();
    let unnamed = Word::new(Kind::Via, (manx_abi::capacity::GROUPS - 1) as u32);
    for (at, word) in [
        (page4 + 1, Word(u32::MAX)),
        (page6 + 1, Word(u32::MAX)),
        (page4 + 2, unnamed),
        (page6 + 2, unnamed),
        (page6 + 3, by_ipv4),
    ] {
        let (element, place) = (at / PACKED as u32, at as usize % PACKED);
        let mut packed = words.get(&element, 0).unwrap();
        packed[place] = word.0;
        words.set(element, packed, 0).unwrap();
    }
}

/// The sink's own programs as they are attached; of XDP, which the library does not find again, a copy on the same maps.
struct Attached {
    pod_tc: SchedClassifier,
    uplink_tc: SchedClassifier,
    uplink_xdp: Ebpf,
    /// Where conntrack is built in; into a module the library's programs cannot call.
    refused: Option<Ebpf>,
}

impl Attached {
    fn find(options: &Options) -> Attached {
        let links = options.bpf_dir.join("links");
        let program = |program: Program, interface: &str| {
            let ifindex = nix::net::if_::if_nametoindex(interface).unwrap();
            let pin = links.join(format!("{}-{ifindex}", program.name()));
            let link = FdLink::from(PinnedLink::from_pin(pin).unwrap());
            let id = link.info().unwrap().program_id();
            let program = loaded_programs().map(Result::unwrap).find(|program| program.id() == id);
            program.expect("it is attached")
        };
        let classifier = |of, interface| {
            SchedClassifier::from_program_info(program(of, interface), of.name().into()).unwrap()
        };
        let resolved = resolve(OBJECT).unwrap();
        let guard = u32::from(resolved.guard.is_available() && !resolved.calls_module());
        let mut loader = EbpfLoader::new();
        loader.btf(None).override_global(manx_abi::global::GUARD, &guard, true);
        for name in map::ALL {
            loader.map_pin_path(name, options.bpf_dir.join(format!("v{}", manx_abi::ABI_VERSION)).join(name));
        }
        let mut uplink_xdp = loader.load(&resolved.object).unwrap();
        xdp(&mut uplink_xdp).load().unwrap();
        let refused = (guard == 1).then(|| {
            let mut refused = loader.load(&with_short_options(resolved.object)).unwrap();
            pod_tc(&mut refused).load().unwrap();
            refused
        });
        Attached {
            pod_tc: classifier(Program::PodTc, POD1),
            uplink_tc: classifier(Program::UplinkTc, UPLINK),
            uplink_xdp,
            refused,
        }
    }

    fn test_run_refused(&mut self, options: TestRunOptions<'_>) -> Result<TestRunResult, ProgramError> {
        pod_tc(self.refused.as_mut().expect("its vectors run only where it is there")).test_run(options)
    }

    fn test_run(
        &mut self,
        program: Program,
        options: TestRunOptions<'_>,
    ) -> Result<TestRunResult, ProgramError> {
        match program {
            Program::PodTc => self.pod_tc.test_run(options),
            Program::UplinkTc => self.uplink_tc.test_run(options),
            Program::UplinkXdp => xdp(&mut self.uplink_xdp).test_run(options),
        }
    }
}

/// The object with a size of conntrack's options in it that no kernel takes.
fn with_short_options(mut object: Vec<u8>) -> Vec<u8> {
    // r5 = 12, then some instructions on, the call of a function of the kernel's.
    const SIZE: [u8; 8] = [0xb7, 5, 0, 0, 12, 0, 0, 0];
    const CALL: [u8; 4] = [0x85, 0x20, 0, 0];
    let calls = (0..object.len()).filter(|at| object[*at..].starts_with(&CALL));
    let sizes: BTreeSet<usize> = calls
        .filter_map(|call| {
            let before = call.saturating_sub(256);
            Some(before + object[before..call].windows(8).rposition(|bytes| bytes == SIZE)?)
        })
        .collect();
    // The lookup and the release behind it find the same one.
    assert_eq!(sizes.len(), 1, "{sizes:?}");
    sizes.into_iter().for_each(|size| object[size + 4] = 8);
    object
}

fn pod_tc(programs: &mut Ebpf) -> &mut SchedClassifier {
    programs.program_mut(Program::PodTc.name()).unwrap().try_into().unwrap()
}

fn xdp(programs: &mut Ebpf) -> &mut Xdp {
    programs.program_mut(Program::UplinkXdp.name()).unwrap().try_into().unwrap()
}

fn action_of(program: Program, verdict: Verdict) -> i32 {
    use manx_abi::Disposition::{Dropped, Passed, Redirected};
    match (program, verdict.disposition()) {
        (Program::UplinkXdp, Dropped) => 1,
        (Program::UplinkXdp, _) => 2,
        // TCX_NEXT, TC_ACT_SHOT, TC_ACT_REDIRECT.
        (_, Passed) => -1,
        (_, Dropped) => 2,
        (_, Redirected) => 7,
    }
}

/// `struct __sk_buff` as far as a test run takes it: the interface, and the size of a segment.
fn skb_context(ifindex: u32, gso_size: u32) -> Vec<u8> {
    let mut context = vec![0u8; 192];
    let mut put = |at: usize, word: u32| context[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    put(IFINDEX, ifindex);
    put(GSO_SEGS, u32::from(gso_size != 0) * 2);
    put(GSO_SIZE, gso_size);
    context
}

/// Offsets in `struct __sk_buff` of `<linux/bpf.h>`, which is ABI.
const IFINDEX: usize = 40;
const GSO_SEGS: usize = 164;
const GSO_SIZE: usize = 176;

/// `struct xdp_md`.
fn xdp_context(length: u32, ifindex: u32) -> Vec<u8> {
    let (data, data_end, data_meta, queue, egress) = (0u32, length, 0u32, 0u32, 0u32);
    [data, data_end, data_meta, ifindex, queue, egress].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub fn text(mac: Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(80).map(|octet| format!("{octet:02x}")).collect()
}
