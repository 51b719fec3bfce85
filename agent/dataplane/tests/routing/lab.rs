//! A node in namespaces of its own: `ens33` (192.168.80.124/24, fd80::124/64) on a link with the next hops .121
//! to .126, and pods behind `cali…` interfaces.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use manx_dataplane::{Config, Dataplane, Report, Step, fib::FibRoute, resolve::Gateway, table::Plan};
use manx_net::Prefix;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

pub const MANX: u8 = 77;
/// Longer than the kernel ever takes to say what it did.
const QUIET: Duration = Duration::from_millis(60);

/// Runs a test on a thread in fresh namespaces. They vanish with it.
pub fn isolated<T: Future<Output = ()>>(test: impl FnOnce() -> T + Send + 'static) {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces; run as root");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        // `ip netns` keeps its names there.
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn gateways(addresses: &[&str]) -> Vec<Gateway> {
    addresses.iter().map(|address| Gateway::from(address.parse::<std::net::IpAddr>().unwrap())).collect()
}

pub fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// Runs `ip`, which must succeed, and returns what it printed.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Many commands by one `ip`.
pub fn ip_batch(commands: &str) {
    std::fs::write("/run/batch", commands).unwrap();
    ip("-batch /run/batch");
}

/// `ip route show` for exactly one prefix, in all tables.
pub fn shown(prefix: &str) -> String {
    let family = if prefix.contains(':') { "-6" } else { "-4" };
    ip(&format!("{family} route show table all exact {prefix}")).trim().to_owned()
}

/// The uplink, and the wire behind it with the other nodes.
pub fn uplink() {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    ip("link set lo up");
    ip("netns add wire");
    ip("link add ens33 type veth peer name wire0 netns wire");
    ip("addr add 192.168.80.124/24 dev ens33");
    ip("addr add fd80::124/64 dev ens33 nodad");
    ip("link set ens33 up");
    ip("-n wire link set wire0 up");
    for last in [2, 121, 125, 126] {
        ip(&format!("-n wire addr add 192.168.80.{last}/24 dev wire0"));
        ip(&format!("-n wire addr add fd80::{last}/64 dev wire0 nodad"));
    }
    ip("route add default via 192.168.80.2");
}

/// A pod as Calico's CNI plugin sets it up: a veth without an address on the host side, and a host route.
pub fn pod(name: &str, address: &str) {
    pod_with(name, address, "add");
}

/// A pod whose host route takes the place of one that is there.
pub fn pod_over(name: &str, address: &str) {
    pod_with(name, address, "replace");
}

fn pod_with(name: &str, address: &str, verb: &str) {
    let (family, length) = if address.contains(':') { ("-6", 128) } else { ("-4", 32) };
    ip(&format!("netns add {name}"));
    ip(&format!("link add cali{name} type veth peer name eth0 netns {name}"));
    ip(&format!("-n {name} link set lo up"));
    let nodad = if length == 128 { "nodad" } else { "" };
    ip(&format!("-n {name} addr add {address}/{length} dev eth0 {nodad}"));
    ip(&format!("-n {name} link set eth0 up"));
    ip(&format!("link set cali{name} up"));
    if length == 32 {
        ip(&format!("-n {name} route add 169.254.1.1 dev eth0 scope link"));
        ip(&format!("-n {name} route add default via 169.254.1.1 dev eth0"));
        std::fs::write(format!("/proc/sys/net/ipv4/conf/cali{name}/proxy_arp"), "1").unwrap();
    }
    ip(&format!("{family} route {verb} {address}/{length} dev cali{name} scope link"));
}

pub fn open() -> Dataplane {
    Dataplane::open(Config::default()).unwrap()
}

/// One of which a thread writes whatever there is.
pub fn open_with_thread() -> Dataplane {
    Dataplane::open(Config { written_at_once: 0, ..Config::default() }).unwrap()
}

/// Until all is with the kernel; what it says meanwhile is nobody's doing but ours.
pub async fn write_all(dataplane: &mut Dataplane) -> Step {
    loop {
        let step = dataplane.step(Instant::now());
        if step.more {
            continue;
        }
        if !dataplane.is_writing() {
            return step;
        }
        dataplane.changed().await.unwrap();
    }
}

/// A plan with own blocks and no pools.
pub fn owning(blocks: &[&str]) -> Plan {
    Plan { own_blocks: blocks.iter().map(|block| p(block).into()).collect(), ..Plan::default() }
}

/// Drives the dataplane until the kernel has been quiet for a while, and returns all that it said.
pub async fn settle(dataplane: &mut Dataplane) -> Step {
    settle_for(dataplane, QUIET).await
}

pub async fn settle_for(dataplane: &mut Dataplane, quiet: Duration) -> Step {
    let mut all = Step::default();
    loop {
        let step = dataplane.step(Instant::now());
        all.map.upserts.extend(step.map.upserts);
        all.map.removals.extend(step.map.removals);
        all.next_hops.extend(step.next_hops);
        all.links.extend(step.links);
        all.reports.extend(step.reports);
        if step.more {
            continue;
        }
        match tokio::time::timeout(quiet, dataplane.changed()).await {
            Ok(taken_in) => taken_in.unwrap(),
            // Quiet is when the kernel has answered.
            Err(_) if dataplane.is_writing() => {}
            Err(_) => return all,
        }
    }
}

/// Drives the dataplane until `done`; the kernel delays some news (loss of carrier, duplicate address detection) by
/// a second or two.
pub async fn settle_until(dataplane: &mut Dataplane, mut done: impl FnMut(&mut Dataplane) -> bool) {
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        settle(dataplane).await;
        if done(dataplane) {
            return;
        }
        assert!(Instant::now() < give_up, "it does not come about");
    }
}

/// The prefixes of our routes as the kernel has them.
pub fn ours(dataplane: &mut Dataplane) -> Vec<Prefix> {
    dataplane.read_back().unwrap().into_iter().map(|route: FibRoute| route.prefix).collect()
}

pub fn is_tampering(report: &Report) -> bool {
    matches!(report, Report::Tampered { .. })
}

/// `ip monitor route` in the node's namespace: what the kernel announced, in order.
pub struct Monitor {
    child: std::process::Child,
    path: std::path::PathBuf,
}

impl Monitor {
    pub fn start() -> Monitor {
        let path = std::path::PathBuf::from("/run/monitor");
        let file = std::fs::File::create(&path).unwrap();
        let child = Command::new("ip").args(["monitor", "route"]).stdout(file).spawn().unwrap();
        let monitor = Monitor { child, path };
        // It listens once it shows a route that only this wait adds.
        for attempt in 0.. {
            assert!(attempt < 100, "ip monitor does not start");
            ip("route add blackhole 198.51.100.1 proto static");
            ip("route del blackhole 198.51.100.1");
            thread::sleep(Duration::from_millis(20));
            if std::fs::read_to_string(&monitor.path).unwrap().contains("198.51.100.1") {
                break;
            }
        }
        monitor
    }

    /// The lines that contain `part`, once the last of them has been written.
    pub fn lines(self, part: &str) -> Vec<String> {
        thread::sleep(Duration::from_millis(100));
        let text = std::fs::read_to_string(&self.path).unwrap();
        text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It may have ended by itself; the wait takes its status either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
