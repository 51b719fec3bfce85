//! The lab itself: what every other scenario takes for granted.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use manx_tests::{lab::Lab, wait::eventually, watch::RouteWatch};

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

/// Set in the process that is killed with a lab in its hands.
const VICTIM: &str = "MANX_LAB_VICTIM";

#[test]
fn a_lab_is_gone_when_its_owner_is_killed_and_its_directory_when_the_next_one_comes() {
    if std::env::var_os(VICTIM).is_some() {
        return hold_a_lab_until_killed();
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_lab_is_gone_when_its_owner_is_killed_and_its_directory_when_the_next_one_comes"])
        .arg("--nocapture")
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let facts = lines.find_map(|line| line.unwrap().strip_prefix("lab ").map(str::to_owned)).unwrap();
    let (dir, pids) = facts.split_once(' ').unwrap();
    let alive = || pids.split(' ').filter(|pid| is_alive(pid)).count();
    assert_eq!(alive(), 3, "{facts}");

    victim.kill().unwrap();
    victim.wait().unwrap();
    eventually("its processes are gone", Duration::from_secs(5), || {
        anyhow::ensure!(alive() == 0, "{} are left", alive());
        Ok(())
    })
    .unwrap();
    assert!(Path::new(dir).exists(), "nobody could remove it in time");
    let long_ago = SystemTime::now() - Duration::from_secs(60);
    fs::File::open(dir).unwrap().set_modified(long_ago).unwrap();
    drop(Lab::new().unwrap());
    assert!(!Path::new(dir).exists());
}

/// A process that has ended counts as gone even while its new parent has not reaped it.
fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

fn hold_a_lab_until_killed() {
    let mut lab = Lab::new().unwrap();
    let host = lab.host("kw01", Ipv4Addr::new(192, 168, 80, 124), 24).unwrap();
    let mut sleep = Command::new("sleep");
    sleep.arg("60");
    let mut sleeper = host.spawn(sleep).unwrap();
    println!("\nlab {} {} {} {}", lab.dir().display(), host.pid(), lab.switch().pid(), sleeper.id());
    sleeper.wait().unwrap();
}

#[test]
fn labs_stand_side_by_side_with_the_same_names_and_addresses() {
    let labs: Vec<_> = (0..2)
        .map(|_| {
            let mut lab = Lab::new().unwrap();
            let a = lab.host("kw01", Ipv4Addr::new(192, 168, 80, 124), 24).unwrap();
            let b = lab.host("kw02", Ipv4Addr::new(192, 168, 80, 125), 24).unwrap();
            (a, b, lab)
        })
        .collect();
    labs[0].1.sh("ip link set ens33 down").unwrap();
    assert!(!labs[0].0.output("ping -c 1 -W 1 192.168.80.125").unwrap().status.success());
    labs[1].0.sh("ping -c 1 -W 1 192.168.80.125").unwrap();
}

#[test]
fn a_watch_over_routes_sees_what_was_deleted_and_of_which_protocol() {
    let mut lab = Lab::new().unwrap();
    let host = lab.host("kw01", Ipv4Addr::new(192, 168, 80, 124), 24).unwrap();
    let watch = RouteWatch::start(&host, lab.logs().join("routes")).unwrap();
    host.sh("ip route add 172.16.118.64/26 via 192.168.80.125 proto 77").unwrap();
    host.sh("ip route replace 172.16.118.64/26 via 192.168.80.126 proto 77").unwrap();
    host.sh("ip route add blackhole 172.16.36.192/26 proto 99").unwrap();
    host.sh("ip route del blackhole 172.16.36.192/26 proto 99").unwrap();
    host.sh("ip route del 172.16.118.64/26 proto 77").unwrap();
    eventually("the deletion is written down", Duration::from_secs(5), || {
        let deleted = watch.deleted("manx")?;
        anyhow::ensure!(deleted.len() == 1 && deleted[0].contains("172.16.118.64/26"), "{deleted:?}");
        Ok(())
    })
    .unwrap();
}
