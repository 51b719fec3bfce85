//! A next hop that does not answer: its senders are told by the stack, and when it answers again it is the programs'.

use std::{
    net::UdpSocket,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use manx_dataplane::{
    Config, Dataplane,
    ebpf::{Counters, EbpfSink, Options},
    resolve::Gateway,
    route::{Action, NextHop, Route},
};
use tokio::{runtime::Runtime, time::timeout};

use crate::{
    namespace::Namespace,
    nodes::since,
    transit::{BLOCKS, Transit, WIRES, address, on_wire, transit},
};

/// The kernel's three questions, the stack's three, and as much again.
const LONG: Duration = Duration::from_secs(12);
const FLOWS: u16 = 40;

/// What the daemon has: the kernel's events, and the maps.
struct Agent {
    runtime: Runtime,
    dataplane: Dataplane,
    sink: EbpfSink,
}

impl Agent {
    fn new(mut sink: EbpfSink, hop: NextHop) -> Agent {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut dataplane = {
            let _inside = runtime.enter();
            Dataplane::open(Config::default()).unwrap()
        };
        dataplane.watch(Gateway::from(hop.gateway));
        sink.pulse().unwrap();
        Agent { runtime, dataplane, sink }
    }

    /// As long as `more` says so.
    fn drive(&mut self, mut more: impl FnMut(&EbpfSink) -> bool) {
        let Agent { runtime, dataplane, sink } = self;
        runtime.block_on(async {
            loop {
                let step = dataplane.step(Instant::now());
                if let Some(silent) = &step.silent {
                    sink.set_silent(silent).unwrap();
                }
                sink.pulse().unwrap();
                if !more(sink) {
                    return;
                }
                if let Ok(taken_in) = timeout(Duration::from_millis(100), dataplane.changed()).await {
                    taken_in.unwrap();
                }
            }
        });
    }
}

/// What ping says to `count` questions, one each 0.5 s, while the agent runs; and what was counted.
fn ping(
    node: &Namespace,
    pod: &Namespace,
    mut agent: Agent,
    to: &str,
    count: u32,
) -> (String, Counters, Agent) {
    let arguments = format!("-n -W 1 -c {count} -i 0.5 {to}");
    let before = agent.sink.counters().unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let until = ended.clone();
    std::thread::scope(|scope| {
        let said = scope.spawn(move || {
            pod.run(move || {
                let output = Command::new("ping").args(arguments.split(' ')).output().unwrap();
                ended.store(true, Ordering::Relaxed);
                String::from_utf8_lossy(&output.stdout).into_owned()
            })
        });
        let agent = node.run(move || {
            agent.drive(|_| !until.load(Ordering::Relaxed));
            agent
        });
        let counted = since(&before, &agent.sink.counters().unwrap());
        (said.join().unwrap(), counted, agent)
    })
}

/// The far end loses its address on the wire, and with it what answers; or has it back.
fn answers(node: &Namespace, end: &Namespace, v4: bool, back: bool) {
    let (family, length, nodad) = if v4 { ("-4", 24, "") } else { ("-6", 64, " nodad") };
    let [far, near] = [125, 124].map(|last| on_wire(WIRES[0].1, last, v4));
    if back {
        end.ip(&format!("{family} addr add {far}/{length} dev eth0{nodad}"));
        let own = address(BLOCKS[0], 66, v4);
        end.ip(&format!("{family} route replace default via {near} src {own}"));
    } else {
        end.ip(&format!("{family} addr del {far}/{length} dev eth0"));
        // Half a minute earlier than the kernel would doubt it.
        node.ip(&format!("{family} neigh del {far} dev {}", WIRES[0].0));
    }
}

/// One datagram for each of [`FLOWS`] flows, all of which arrive at `end`.
fn flows_arrive(pod: &Namespace, end: &Namespace, to: &str, v4: bool) {
    let bound = if v4 { format!("{to}:4000") } else { format!("[{to}]:4000") };
    let target = bound.clone();
    let socket = end.run(move || UdpSocket::bind(bound).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    pod.run(move || {
        for _ in 0..FLOWS {
            let own = UdpSocket::bind(if v4 { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            own.send_to(b"flow", &target).unwrap();
        }
    });
    for flow in 0..FLOWS {
        socket.recv(&mut [0; 8]).unwrap_or_else(|error| panic!("flow {flow}: {error}"));
    }
}

fn a_silent_next_hop(v4: bool) {
    let Transit { node, pod, ends, sink } = transit();
    let host = if v4 { 32 } else { 128 };
    let index = |name: &'static str| node.ifindex(name);
    let hop = |wire: usize| NextHop {
        gateway: on_wire(WIRES[wire].1, 125, v4).parse().unwrap(),
        ifindex: index(WIRES[wire].0),
    };
    let (dead, other) = (hop(0), hop(1));
    let (target, neighbour) = (address(BLOCKS[0], 66, v4), address(BLOCKS[1], 66, v4));
    // By both, of which the stack takes the one that lives.
    let shared = address(122, 66, v4);
    let family = if v4 { "-4" } else { "-6" };
    node.ip(&format!("{family} route add {shared}/{host} via {}", other.gateway));
    ends[1].ip(&format!("{family} addr add {shared}/{host} dev lo"));
    let mut hops = vec![dead, other];
    hops.sort_unstable();
    let by_both = Route { prefix: format!("{shared}/{host}").parse().unwrap(), action: Action::Via(hops) };
    let agent = node.run(move || {
        let mut agent = Agent::new(sink, dead);
        assert!(agent.sink.apply(&[by_both], &[]).unwrap().refused.is_empty());
        agent
    });

    let (said, counted, agent) = ping(&node, &pod, agent, &target, 4);
    assert!(said.contains("4 received"), "{said}");
    assert!(counted.pod_tc.redirected_neigh == 4, "{:?}", counted.pod_tc);

    answers(&node, &ends[0], v4, false);
    let (said, counted, agent) = ping(&node, &pod, agent, &target, 20);
    let told = if v4 { "Destination Host Unreachable" } else { "Address unreachable" };
    assert!(said.contains(told), "{said}\n{:?}", counted.pod_tc);
    assert!(counted.pod_tc.next_hop_silent > 5, "{:?}", counted.pod_tc);

    // The kernel may drop the entry of one that has failed, and does where it has many. That is no answer.
    node.ip(&format!("{family} neigh del {} dev {}", dead.gateway, WIRES[0].0));
    let (said, counted, agent) = ping(&node, &pod, agent, &target, 10);
    assert!(said.contains(told), "{said}\n{:?}", counted.pod_tc);
    assert_eq!(counted.pod_tc.redirected_neigh, 0, "{:?}", counted.pod_tc);

    // A neighbour of the dead one keeps all that it has, and the stack has the dead one's share.
    let (said, counted, agent) = ping(&node, &pod, agent, &neighbour, 4);
    assert!(
        said.contains("4 received") && counted.pod_tc.redirected_neigh == 4,
        "{said}\n{:?}",
        counted.pod_tc
    );
    let before = agent.sink.counters().unwrap();
    flows_arrive(&pod, &ends[1], &shared, v4);
    let counted = since(&before, &agent.sink.counters().unwrap());
    let (carried, left) = (counted.pod_tc.redirected_neigh, counted.pod_tc.next_hop_silent);
    assert!(carried > 0 && left > 0 && carried + left == u64::from(FLOWS), "{:?}", counted.pod_tc);

    // An agent that comes anew finds the slot marked, and the kernel's entry failed or asked again.
    let agent = node.run(move || {
        drop(agent);
        let (sink, opened) = EbpfSink::open(&Options::default()).unwrap();
        assert!(opened.adopted);
        assert_eq!(sink.faults().unwrap(), []);
        let mut agent = Agent::new(sink, dead);
        let until = Instant::now() + Duration::from_secs(5);
        agent.drive(|_| Instant::now() < until);
        agent
    });
    let (said, counted, agent) = ping(&node, &pod, agent, &target, 10);
    assert!(said.contains(told), "{said}\n{:?}", counted.pod_tc);
    assert_eq!(counted.pod_tc.redirected_neigh, 0, "{:?}", counted.pod_tc);
    assert_eq!(agent.sink.faults().unwrap(), [], "the mark is no fault");

    // Nobody sends: it is the agent that has it asked.
    answers(&node, &ends[0], v4, true);
    let agent = node.run(move || {
        let (mut agent, until) = (agent, Instant::now() + 3 * LONG);
        let is_back = move |sink: &EbpfSink| !sink.is_silent(&dead);
        agent.drive(|sink| !is_back(sink) && Instant::now() < until);
        assert!(is_back(&agent.sink), "the next hop answers again");
        agent
    });
    let (said, counted, _agent) = ping(&node, &pod, agent, &target, 4);
    assert!(
        said.contains("4 received") && counted.pod_tc.redirected_neigh == 4,
        "{said}\n{:?}",
        counted.pod_tc
    );
}

#[test]
fn senders_to_an_ipv4_next_hop_that_does_not_answer_are_told_until_it_does() {
    a_silent_next_hop(true);
}

#[test]
fn senders_to_an_ipv6_next_hop_that_does_not_answer_are_told_until_it_does() {
    a_silent_next_hop(false);
}
