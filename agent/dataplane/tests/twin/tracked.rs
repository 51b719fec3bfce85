//! Where connections are tracked the programs carry only what conntrack has admitted. Nothing is translated or refused
//! here, so both nodes still have to send the same.

use std::fs;

use manx_abi::Verdict;
use manx_dataplane::ebpf::{KeepAlive, Mode};

use crate::{
    differential, flows,
    lab::{Lab, counted},
    namespace::run,
    packets,
    random::{self, Random},
    replay,
    tables::Table,
};

/// Both nodes track what they forward, and forgive what the programs have not shown to conntrack.
fn tracking() -> Lab {
    let mut lab = Lab::new();
    for node in [&lab.with, &lab.without] {
        node.namespace.run(|| {
            run("nft", "add table inet tracked");
            run("nft", "add chain inet tracked forward { type filter hook forward priority 0 ; }");
            run("nft", "add rule inet tracked forward ct state new accept");
            fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", "1")
                .expect("conntrack is there");
        });
    }
    lab.sink(|sink| {
        assert!(sink.guard().is_available(), "{:?}", sink.guard());
        sink.set_keep_alive(KeepAlive::default());
        sink.set_whole_mode(Mode::Guarded);
    });
    lab.set_table(Table::plain(), [true; 4]);
    lab.tracks = true;
    lab
}

#[test]
fn random_packets_of_tracked_flows_leave_both_nodes_alike() {
    let (seed, count) = (random::seed(), random::packets(20_000) / 2);
    println!("MANX_SEED={seed} MANX_PACKETS={count}");
    let mut random = Random::new(seed);
    let mut lab = tracking();
    let before = lab.counters();
    differential::send(&mut lab, &mut random, count, seed, |random, table| {
        if random.percent(50) { flows::dialogue(random) } else { packets::random(random, table) }
    });
    let counted = counted(&before, &lab.counters());
    println!("{count} packets at each; verdicts with the markers: {counted:?}");
    for verdict in [Verdict::Untracked, Verdict::NotGuarded, Verdict::TcpControl, Verdict::RedirectedPeer] {
        assert!(counted.iter().any(|(seen, _)| *seen == verdict), "none was {verdict:?}");
    }
}

#[test]
fn recorded_connections_are_carried_once_they_are_admitted() {
    let mut lab = tracking();
    let before = lab.counters();
    let traffic = replay::recorded();
    replay::replay(&mut lab, &traffic);
    let counted = counted(&before, &lab.counters());
    println!("{} frames; verdicts with the markers: {counted:?}", traffic.len());
    let of = |wanted| counted.iter().find(|(verdict, _)| *verdict == wanted).map_or(0, |(_, count)| *count);
    let carried = of(Verdict::RedirectedPeer) + of(Verdict::RedirectedNeigh);
    assert!(carried > 40, "{counted:?}");
    assert!(of(Verdict::TcpControl) >= 24, "each of twelve connections is opened: {counted:?}");
    assert!(of(Verdict::Unconfirmed) + of(Verdict::Untracked) > 0, "{counted:?}");
}
