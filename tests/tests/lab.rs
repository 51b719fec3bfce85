//! The lab itself: what every other scenario takes for granted.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use manx_tests::{lab::Lab, wait::eventually};

#[test]
fn pods_of_two_hosts_reach_each_other_when_the_hosts_have_routes_and_not_before() {
    let mut lab = Lab::new().unwrap();
    lab.gateway(Ipv4Addr::new(192, 168, 80, 2), 24).unwrap();
    let a = lab.host("kw01", Ipv4Addr::new(192, 168, 80, 124), 24).unwrap();
    let b = lab.host("kw02", Ipv4Addr::new(192, 168, 80, 125), 24).unwrap();
    for host in [&a, &b] {
        host.sh("ip route add default via 192.168.80.2 dev ens33 proto static metric 100").unwrap();
        host.sh("ping -c 1 -W 2 192.168.80.2").unwrap();
    }
    let v6: IpAddr = "fd00:1::1".parse().unwrap();
    let pod_a = a.pod("pod-a", &["172.16.36.193".parse().unwrap(), v6]).unwrap();
    let pod_b = b.pod("pod-b", &["172.16.118.65".parse().unwrap()]).unwrap();
    assert!(a.sh("ip route show 172.16.36.193").unwrap().contains("dev caliac1024c1 scope link"));
    a.sh("ping -c 1 -W 2 172.16.36.193").unwrap();
    a.sh("ping -c 1 -W 2 fd00:1::1").unwrap();

    assert!(!pod_a.output("ping -c 1 -W 1 172.16.118.65").unwrap().status.success());
    a.sh("ip route add 172.16.118.64/26 via 192.168.80.125 proto 77").unwrap();
    b.sh("ip route add 172.16.36.192/26 via 192.168.80.124 proto 77").unwrap();
    eventually("a ping from pod to pod", Duration::from_secs(2), || pod_a.sh("ping -c 1 -W 1 172.16.118.65"))
        .unwrap();
    assert!(a.sh("ip route show proto manx").unwrap().contains("172.16.118.64/26"));

    b.remove_pod(pod_b).unwrap();
    assert_eq!(b.sh("ip route show 172.16.118.65").unwrap(), "");
}

#[test]
fn a_host_keeps_its_files_maps_and_name_from_the_machine_and_its_neighbours() {
    let mut lab = Lab::new().unwrap();
    let a = lab.host("kw01", Ipv4Addr::new(192, 168, 80, 124), 24).unwrap();
    let b = lab.host("kw02", Ipv4Addr::new(192, 168, 80, 125), 24).unwrap();
    assert_eq!(a.sh("hostname").unwrap(), "kw01\n");
    a.write_file("/etc/manx-test", "x").unwrap();
    a.write_file("/run/manx/manx.sock", "x").unwrap();
    a.write_file("/var/lib/manx/state", "x").unwrap();
    a.write_file("/etc/manx/shared.yaml", "x").unwrap();
    assert!(b.path_exists("/etc/manx/shared.yaml"), "the datastore is everybody's");
    for path in ["/etc/manx-test", "/run/manx/manx.sock", "/var/lib/manx/state"] {
        assert!(
            a.path_exists(path) && !b.path_exists(path) && !std::path::Path::new(path).exists(),
            "{path}"
        );
    }
    a.sh("mkdir /sys/fs/bpf/manx").unwrap();
    assert!(!b.path_exists("/sys/fs/bpf/manx"));
    assert_eq!(a.sh("ls /sys/class/net").unwrap(), "ens33\nlo\n");
    let dir = lab.dir().to_owned();
    drop((a, b, lab));
    assert!(!dir.exists());
}
