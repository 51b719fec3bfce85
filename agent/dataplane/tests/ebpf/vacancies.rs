//! Own blocks under traffic, with what the programs remember of the FIB's answers: a pod that comes is never hidden by it.

use std::{
    net::{IpAddr, UdpSocket},
    path::Path,
    thread::sleep,
    time::Duration,
};

use aya::maps::{Map, MapData, PerCpuArray};
use manx_abi::Verdict::{BlackholeOwn, FibDisagrees};
use manx_dataplane::ebpf::{EbpfSink, PULSE_LIMIT};

use crate::nodes::{Node, Pod, pair};

struct Family {
    flag: &'static str,
    /// In the second node's block, and nobody's.
    vacant: &'static str,
    length: u8,
    block: fn(&Node) -> String,
}

const V4: Family = Family { flag: "-4", vacant: "172.16.118.99", length: 32, block: Node::block4 };
const V6: Family = Family { flag: "-6", vacant: "fd00:118::99", length: 128, block: Node::block6 };

/// The first pod of the one sends to an address of the other's block, which the wire's XDP program drops.
struct Lab {
    from: Node,
    to: Node,
    sink: EbpfSink,
    _there: EbpfSink,
    family: Family,
}

impl Lab {
    fn new(family: Family, may_remember: bool) -> Lab {
        let (from, to) = pair();
        let there = from.sink(&to);
        let mut sink = to.sink(&from);
        sink.set_vacancy(may_remember);
        Lab { from, to, sink, _there: there, family }
    }

    fn pod(&self) -> &Pod {
        &self.from.pods[0]
    }

    /// One datagram each millisecond.
    fn send(&self, count: u32) {
        let to: IpAddr = self.family.vacant.parse().unwrap();
        let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        self.pod().namespace.run(move || {
            let socket = UdpSocket::bind((any, 0)).unwrap();
            for _ in 0..count {
                // The stack may have told it of the last one that nobody is there.
                let _ = socket.send_to(b"who is there", (to, 7));
                sleep(Duration::from_millis(1));
            }
        });
    }

    /// Times that the XDP program dropped it as an own block's, and that it left it to the stack.
    fn counted(&self) -> [u64; 2] {
        let counters = self.sink.counters().unwrap();
        [BlackholeOwn, FibDisagrees].map(|verdict| *counters.clone().uplink_xdp.get_mut(verdict))
    }

    /// What came of so many.
    fn of(&self, count: u32) -> [u64; 2] {
        let before = self.counted();
        self.send(count);
        let after = self.counted();
        [after[0] - before[0], after[1] - before[1]]
    }

    /// When the FIB was last asked, of the CPUs that remember the address as settled.
    fn remembered(&self) -> Vec<u32> {
        let address = match self.family.vacant.parse().unwrap() {
            IpAddr::V4(address) => manx_abi::Vacancy::of4(address.into()),
            IpAddr::V6(address) => {
                let bits = u128::from(address);
                [(bits >> 64) as u64, bits as u64]
            }
        };
        self.to.namespace.run(move || {
            let pin = format!("/sys/fs/bpf/manx/v{}/{}", manx_abi::ABI_VERSION, manx_abi::map::VACANCIES);
            let map = Map::PerCpuArray(MapData::from_pin(Path::new(&pin)).unwrap());
            let map: PerCpuArray<_, [u64; 4]> = map.try_into().unwrap();
            let values = map.get(&manx_abi::Vacancy::slot(address), 0).unwrap();
            let settled =
                values.iter().filter(|[high, low, _, asked]| [*high, *low] == address && asked >> 32 == 1);
            settled.map(|[.., asked]| *asked as u32).collect()
        })
    }

    fn ip(&self, what: &str) {
        self.to.namespace.ip(&format!("{} {what}", self.family.flag));
    }

    /// The second node's pod gets the address, and nobody tells the sink.
    fn move_in(&self) {
        let Family { flag, vacant, length, .. } = self.family;
        let pod = &self.to.pods[0];
        let nodad = if flag == "-6" { " nodad" } else { "" };
        pod.namespace.ip(&format!("{flag} addr add {vacant}/{length} dev eth0{nodad}"));
        self.ip(&format!("route add {vacant}/{length} dev {}", pod.host_side));
    }

    fn move_out(&self) {
        let Family { flag, vacant, length, .. } = self.family;
        self.ip(&format!("route del {vacant}/{length} dev {}", self.to.pods[0].host_side));
        self.to.pods[0].namespace.ip(&format!("{flag} addr del {vacant}/{length} dev eth0"));
    }
}

fn a_pod_that_comes_is_reached_at_once(family: Family) {
    let lab = Lab::new(family, true);
    for _ in 0..5 {
        assert_eq!(lab.of(60), [60, 0]);
        assert_ne!(lab.remembered(), []);
        lab.move_in();
        assert_eq!(lab.pod().answers(lab.family.vacant, 40, 0.002), 40);
        lab.move_out();
    }
}

#[test]
fn a_pod_that_comes_where_a_scan_has_just_been_dropped_is_reached_at_once_in_ipv4() {
    a_pod_that_comes_is_reached_at_once(V4);
}

#[test]
fn a_pod_that_comes_where_a_scan_has_just_been_dropped_is_reached_at_once_in_ipv6() {
    a_pod_that_comes_is_reached_at_once(V6);
}

fn a_block_whose_route_goes_is_not_dropped_for_long(family: Family) {
    let lab = Lab::new(family, true);
    assert_eq!(lab.of(60), [60, 0]);
    assert_ne!(lab.remembered(), []);
    lab.ip(&format!("route del blackhole {}", (lab.family.block)(&lab.to)));
    sleep(Duration::from_millis(150));
    assert_eq!(lab.of(20), [0, 20]);
}

#[test]
fn a_block_whose_route_somebody_deletes_is_soon_the_stacks_in_ipv4() {
    a_block_whose_route_goes_is_not_dropped_for_long(V4);
}

#[test]
fn a_block_whose_route_somebody_deletes_is_soon_the_stacks_in_ipv6() {
    a_block_whose_route_goes_is_not_dropped_for_long(V6);
}

#[test]
fn where_rules_may_choose_the_table_nothing_is_remembered() {
    for family in [V4, V6] {
        let lab = Lab::new(family, false);
        assert_eq!(lab.of(60), [60, 0]);
        assert_eq!(lab.remembered(), []);
    }
}

#[test]
fn while_nobody_keeps_the_maps_the_fib_is_asked_each_time() {
    let mut lab = Lab::new(V4, true);
    let mut sink = lab.sink;
    lab.sink = lab.to.namespace.run(move || {
        sink.pulse().unwrap();
        sink
    });
    assert_eq!(lab.of(60), [60, 0]);
    let asked = lab.remembered();
    assert_ne!(asked, []);
    sleep(PULSE_LIMIT + Duration::from_millis(500));
    assert_eq!(lab.of(60), [60, 0]);
    assert_eq!(lab.remembered(), asked);
}
