use rtnetlink::{
    RouteMessageBuilder,
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{RouteNetlinkMessage, route::RouteType},
};

use super::*;

fn want_one(dataplane: &mut Dataplane) {
    let gateway: std::net::IpAddr = "10.0.0.2".parse().unwrap();
    dataplane.set_path("172.16.0.0/24".parse().unwrap(), vec![gateway.into()]);
}

/// In a network namespace with one network, 10.0.0.0/24, and a thread for every write.
fn isolated<T: Future<Output = ()>>(test: impl FnOnce(Dataplane) -> T + Send + 'static) {
    crate::isolated::isolated(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = Config { written_at_once: 0, ..Config::default() };
            let mut dataplane = Dataplane::open(config).unwrap();
            dataplane.finish_startup();
            drive(&mut dataplane).await;
            test(dataplane).await;
        });
    });
}

async fn drive(dataplane: &mut Dataplane) -> Vec<Report> {
    let mut reports = Vec::new();
    loop {
        let step = dataplane.step(Instant::now());
        reports.extend(step.reports);
        if step.more {
            continue;
        }
        let quiet = std::time::Duration::from_millis(100);
        if tokio::time::timeout(quiet, dataplane.changed()).await.is_err() && !dataplane.is_writing() {
            return reports;
        }
    }
}

async fn a_dead_writers_port(mut dataplane: Dataplane) {
    let port = dataplane.writer_port.unwrap();
    dataplane.fib.fail_writer();
    want_one(&mut dataplane);
    let reports = drive(&mut dataplane).await;
    assert!(matches!(&reports[..], [Report::WriterEnded { .. }]), "{reports:?}");
    assert_eq!(dataplane.fib_status().installed, 1);

    // Another process gets the port and meddles.
    let mut other = Requests::open_at(port).unwrap();
    let message = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
        .destination_prefix("172.16.1.0".parse().unwrap(), 24)
        .kind(RouteType::BlackHole)
        .protocol(DEFAULT_PROTOCOL.into())
        .build();
    let change = (RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL);
    assert_eq!(other.transact(vec![change]).unwrap(), [Ok(())]);
    let reports = drive(&mut dataplane).await;
    assert!(matches!(&reports[..], [Report::Tampered { how: Tampering::Added, .. }]), "{reports:?}");
    assert_eq!(dataplane.read_back().unwrap().len(), 1);
}

#[test]
fn who_has_the_port_of_a_thread_that_died_is_somebody_else() {
    isolated(a_dead_writers_port);
}

#[test]
fn routes_are_read_anew_only_when_what_is_on_its_way_has_landed_and_nothing_new_is_sent_before() {
    isolated(|mut dataplane| async move {
        let gate = dataplane.fib.gate_writer();
        want_one(&mut dataplane);
        dataplane.step(Instant::now());
        assert!(dataplane.is_writing());
        dataplane.changes.overrun = true;
        let other = "172.16.1.0/24".parse().unwrap();
        dataplane.set_path(other, vec!["10.0.0.3".parse::<std::net::IpAddr>().unwrap().into()]);
        for _ in 0..5 {
            let step = dataplane.step(Instant::now());
            assert!(step.reports.is_empty() && !step.more, "{step:?}");
            assert_eq!(dataplane.fib_state(other), Some(FibState::Pending));
            assert_eq!(dataplane.fib_status().writes, 0);
        }
        drop(gate);
        assert_eq!(drive(&mut dataplane).await, [Report::Resynchronised]);
        assert_eq!(dataplane.fib_status().installed, 2);
    });
}
