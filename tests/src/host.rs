//! A host of the lab: network, mounts, host name and processes of its own, on one machine with its neighbours. What a
//! node daemon writes outside the network namespace stays here too: /run, /etc and /var/lib are its own copies in
//! memory, and so is the bpffs at /sys/fs/bpf. The cluster's datastore is at /etc/manx, the same directory on every
//! host. Pods stand behind it as Calico makes them: a /32 behind 169.254.1.1, `cali…` on the host's side.

use std::{
    fs,
    net::IpAddr,
    ops::Deref,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    unistd::sethostname,
};

use crate::netns::Netns;

/// Where `manxd` and `manxctl` look by default, and where every host finds the cluster's resources.
pub const DATASTORE: &str = "/etc/manx";

/// The name that iproute2 prints for Manx's routes, from a file that the package puts there.
const PROTOCOL_NAME: &str = "77\tmanx\n";

/// The gateway of every pod (Calico's choice): an address that nobody has, answered by the host by proxy ARP.
const POD_GATEWAY: &str = "169.254.1.1";
const HOST_SIDE_MAC: &str = "ee:ee:ee:ee:ee:ee";
/// The link-local address that belongs to that MAC, and the pods' IPv6 gateway.
const POD_GATEWAY6: &str = "fe80::ecee:eeff:feee:eeee";

#[derive(Debug)]
pub struct Host {
    ns: Netns,
}

impl Deref for Host {
    type Target = Netns;

    fn deref(&self) -> &Netns {
        &self.ns
    }
}

impl Host {
    /// `scratch` is an empty directory for this host alone, `store` the datastore that all hosts share.
    pub fn new(name: &str, scratch: &Path, store: &Path) -> Result<Host> {
        let (host_name, scratch, store) = (name.to_owned(), scratch.to_owned(), store.to_owned());
        let ns = Netns::with_own_system(name, move || furnish(&host_name, &scratch, &store))?;
        ns.sh("ip link set lo up")?;
        ns.sysctl("net.ipv4.ip_forward", "1")?;
        ns.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        for group in ["all", "default"] {
            // Its value would otherwise be that of the machine the lab runs on.
            ns.sysctl(&format!("net.ipv4.conf.{group}.rp_filter"), "0")?;
        }
        quick_ipv6(&ns)?;
        Ok(Host { ns })
    }

    pub fn set_env(&mut self, name: &str, value: &str) {
        self.ns.set_env(name, value);
    }

    /// Writes a file as the host sees it, with the directories that lead to it.
    pub fn write_file(&self, path: &str, text: &str) -> Result<()> {
        let (path, text) = (PathBuf::from(path), text.to_owned());
        self.run(move || {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, text).with_context(|| format!("{}", path.display()))
        })
        .with_context(|| self.name().to_owned())
    }

    pub fn path_exists(&self, path: &str) -> bool {
        let path = PathBuf::from(path);
        self.run(move || path.exists())
    }

    /// Every path below `dir`, sorted; nothing if there is no such directory.
    pub fn paths_below(&self, dir: &str) -> Result<Vec<PathBuf>> {
        let dir = PathBuf::from(dir);
        self.run(move || {
            let mut found = Vec::new();
            let mut open = vec![dir];
            while let Some(dir) = open.pop() {
                for entry in fs::read_dir(&dir).into_iter().flatten() {
                    let entry = entry?;
                    if entry.file_type()?.is_dir() {
                        open.push(entry.path());
                    }
                    found.push(entry.path());
                }
            }
            found.sort();
            Ok(found)
        })
    }

    /// A pod, and the host route to each of its addresses that says it lives here.
    pub fn pod(&self, name: &str, addresses: &[IpAddr]) -> Result<Pod> {
        self.pod_by(name, addresses, None)
    }

    /// The same with a metric of the host's routes to it, as newer Felix sets one.
    pub fn pod_by(&self, name: &str, addresses: &[IpAddr], metric: Option<u32>) -> Result<Pod> {
        let ns = Netns::inside(name, &self.ns)?;
        quick_ipv6(&ns)?;
        ns.sh("ip link set lo up")?;
        let interface = host_interface(addresses.first().context("a pod without an address")?);
        let pod_ns = ns.proc_path("ns/net");
        self.sh(&format!(
            "ip link add {interface} address {HOST_SIDE_MAC} type veth peer name eth0 netns {}",
            pod_ns.display()
        ))?;
        self.sysctl(&format!("net.ipv4.conf.{interface}.proxy_arp"), "1")?;
        self.sysctl(&format!("net.ipv4.neigh.{interface}.proxy_delay"), "0")?;
        self.sh(&format!("ip link set {interface} up"))?;
        ns.sh("ip link set eth0 up")?;
        for address in addresses {
            match address {
                IpAddr::V4(a) => ns.sh(&format!("ip address add {a}/32 dev eth0"))?,
                IpAddr::V6(a) => ns.sh(&format!("ip address add {a}/128 dev eth0 nodad"))?,
            };
        }
        if addresses.iter().any(IpAddr::is_ipv4) {
            ns.sh(&format!("ip route add {POD_GATEWAY} dev eth0 scope link"))?;
            ns.sh(&format!("ip route add default via {POD_GATEWAY} dev eth0"))?;
        }
        if addresses.iter().any(IpAddr::is_ipv6) {
            ns.sh(&format!("ip route add default via {POD_GATEWAY6} dev eth0"))?;
        }
        let metric = metric.map(|metric| format!(" metric {metric}")).unwrap_or_default();
        for address in addresses {
            match address {
                IpAddr::V4(a) => self.sh(&format!("ip route add {a} dev {interface} scope link{metric}"))?,
                IpAddr::V6(a) => self.sh(&format!("ip -6 route add {a} dev {interface}{metric}"))?,
            };
        }
        Ok(Pod { ns, addresses: addresses.to_vec(), interface })
    }

    /// Takes a pod away as its runtime would: the interface goes, and with it the host's routes.
    pub fn remove_pod(&self, pod: Pod) -> Result<()> {
        self.sh(&format!("ip link del {}", pod.interface))?;
        Ok(())
    }
}

#[derive(Debug)]
pub struct Pod {
    ns: Netns,
    addresses: Vec<IpAddr>,
    interface: String,
}

impl Pod {
    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.addresses[0] // `Host::pod` refuses a pod without one
    }

    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    pub fn set_env(&mut self, name: &str, value: &str) {
        self.ns.set_env(name, value);
    }

    /// The name of the host's side of its veth.
    pub fn interface(&self) -> &str {
        &self.interface
    }
}

impl Deref for Pod {
    type Target = Netns;

    fn deref(&self) -> &Netns {
        &self.ns
    }
}

/// `cali` and the address in hexadecimal: 15 characters at most, and readable in a capture.
fn host_interface(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(a) => format!("cali{:08x}", a.to_bits()),
        IpAddr::V6(a) => format!("cali{:011x}", a.to_bits() & 0xfff_ffff_ffff),
    }
}

/// No router and no other owner of an address is to be waited for here.
pub(crate) fn quick_ipv6(ns: &Netns) -> Result<()> {
    for group in ["all", "default"] {
        for key in ["accept_dad", "accept_ra", "router_solicitations"] {
            ns.sysctl(&format!("net.ipv6.conf.{group}.{key}"), "0")?;
        }
    }
    Ok(())
}

fn furnish(name: &str, scratch: &Path, store: &Path) -> Result<()> {
    let none: Option<&str> = None;
    let plain = MsFlags::empty();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("private mounts")?;
    sethostname(name).context("the host name")?;

    mount(Some("tmpfs"), scratch, Some("tmpfs"), plain, none).context("a tmpfs for the host's files")?;
    for dir in ["/etc", "/var/lib"] {
        let layers = scratch.join(dir.trim_start_matches('/').replace('/', "-"));
        let (upper, work) = (layers.join("upper"), layers.join("work"));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        let options = format!("lowerdir={dir},upperdir={},workdir={}", upper.display(), work.display());
        mount(Some("overlay"), dir, Some("overlay"), plain, Some(options.as_str()))
            .with_context(|| format!("an overlay over {dir}"))?;
    }
    mount(Some("tmpfs"), "/run", Some("tmpfs"), plain, none).context("a tmpfs at /run")?;
    fs::create_dir_all("/run/lock")?;

    fs::create_dir_all(DATASTORE)?;
    mount(Some(store), DATASTORE, none, MsFlags::MS_BIND, none).context("the datastore")?;
    fs::create_dir_all("/etc/iproute2/rt_protos.d")?;
    fs::write("/etc/iproute2/rt_protos.d/manx.conf", PROTOCOL_NAME)?;

    // A sysfs shows the network namespace in which it was mounted, and a new one has no bpffs.
    mount(Some("sysfs"), "/sys", Some("sysfs"), plain, none).context("sysfs")?;
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), plain, none).context("bpffs")?;
    Ok(())
}
