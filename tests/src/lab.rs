//! A lab: a switch, a gateway and hosts on it, in namespaces without names, with one directory for the cluster's
//! datastore and the logs. Any number of labs stand side by side. Dropped, or its owner dead, a lab is gone; the
//! directory of a dead owner is removed by the next lab.

use std::{
    fs::{self, File},
    io,
    net::Ipv4Addr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    unistd::Uid,
};
use tempfile::TempDir;

use crate::{
    host::{Host, quick_ipv6},
    netns::Netns,
};

const DIRECTORY_PREFIX: &str = "manx-lab-";
/// A directory as young as this may belong to a lab that has not locked it yet.
const TOO_YOUNG_TO_SWEEP: Duration = Duration::from_secs(10);

/// The interface of every host that leads to the switch.
pub const UPLINK: &str = "ens33";

#[derive(Debug)]
pub struct Lab {
    switch: Netns,
    gateway: Option<Netns>,
    dir: TempDir,
    /// The directory itself, locked for as long as somebody needs it.
    lock: File,
    ports: usize,
}

impl Lab {
    pub fn new() -> Result<Lab> {
        ensure!(Uid::effective().is_root(), "the lab makes network namespaces: it has to be run as root");
        sweep(&std::env::temp_dir());
        let dir =
            tempfile::Builder::new().prefix(DIRECTORY_PREFIX).tempdir().context("a temporary directory")?;
        let lock = File::open(dir.path())?;
        lock.try_lock().context("the lab's directory is locked by somebody else")?;
        for part in ["store", "logs", "hosts"] {
            fs::create_dir(dir.path().join(part))?;
        }
        let switch = Netns::new("switch")?;
        quick_ipv6(&switch)?;
        switch.sh("ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
        switch.sh("ip link set br0 up")?;
        Ok(Lab { switch, gateway: None, dir, lock, ports: 0 })
    }

    /// A host on the switch, its address with the length of the network's prefix.
    pub fn host(&mut self, name: &str, address: Ipv4Addr, length: u8) -> Result<Host> {
        let scratch = self.dir.path().join("hosts").join(name);
        fs::create_dir(&scratch)?;
        let host = Host::new(name, &scratch, &self.store())?;
        self.plug(&host, address, length)?;
        Ok(host)
    }

    /// A router that answers for `address` and leads nowhere: packets for the outside end here, as they do behind a
    /// data centre's gateway that has never heard of the pods.
    pub fn gateway(&mut self, address: Ipv4Addr, length: u8) -> Result<()> {
        let gateway = Netns::new("gateway")?;
        quick_ipv6(&gateway)?;
        gateway.sh("ip link set lo up")?;
        gateway.sysctl("net.ipv4.ip_forward", "0")?;
        self.plug(&gateway, address, length)?;
        self.gateway = Some(gateway);
        Ok(())
    }

    fn plug(&mut self, ns: &Netns, address: Ipv4Addr, length: u8) -> Result<()> {
        self.ports += 1;
        let port = format!("port{}", self.ports);
        let path = ns.proc_path("ns/net");
        self.switch
            .sh(&format!("ip link add {port} type veth peer name {UPLINK} netns {}", path.display()))?;
        self.switch.sh(&format!("ip link set {port} master br0 up"))?;
        ns.sh(&format!("ip address add {address}/{length} dev {UPLINK}"))?;
        ns.sh(&format!("ip link set {UPLINK} up"))?;
        Ok(())
    }

    /// The directory of resources that every host has at [`crate::host::DATASTORE`].
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Where processes write what they say.
    pub fn logs(&self) -> PathBuf {
        self.dir.path().join("logs")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn switch(&self) -> &Netns {
        &self.switch
    }

    /// The router at the end of the hosts' default routes.
    pub fn outside(&self) -> Option<&Netns> {
        self.gateway.as_ref()
    }

    /// Starts `keeper` with what holds this lab and `others` in being: when it ends, they end, whether the owner is
    /// still there or not. To let go of them the owner forgets them; the directory is then the keeper's to remove.
    pub fn hand_over(&self, others: &[&Netns], mut keeper: Command) -> Result<Child> {
        let mut handed: Vec<BorrowedFd<'_>> = others.iter().map(|ns| ns.lifeline()).collect();
        handed.push(self.switch.lifeline());
        handed.extend(self.gateway.iter().map(Netns::lifeline));
        handed.push(self.lock.as_fd());
        let numbers: Vec<_> = handed.iter().map(AsRawFd::as_raw_fd).collect();
        // SAFETY: between fork and exec it only clears flags of descriptors that `handed` keeps open: fcntl is
        // async-signal-safe, and nothing is allocated.
        unsafe {
            keeper.pre_exec(move || {
                for fd in &numbers {
                    fcntl(BorrowedFd::borrow_raw(*fd), FcntlArg::F_SETFD(FdFlag::empty()))
                        .map_err(io::Error::from)?;
                }
                Ok(())
            });
        }
        keeper.process_group(0).spawn().context("cannot start the keeper of the lab")
    }
}

/// Removes what dead owners left behind.
fn sweep(temp: &Path) {
    for entry in fs::read_dir(temp).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(DIRECTORY_PREFIX) {
            continue;
        }
        let age = entry.metadata().and_then(|m| m.modified()).map(|t| SystemTime::now().duration_since(t));
        let old = matches!(age, Ok(Ok(age)) if age > TOO_YOUNG_TO_SWEEP);
        if old && File::open(entry.path()).is_ok_and(|dir| dir.try_lock().is_ok()) {
            // Two labs may sweep at once: whoever comes second finds nothing.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
