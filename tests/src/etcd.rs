//! etcd, as the distribution has it.

use std::{
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{netns::Netns, process::Daemon, wait::eventually};

const STARTED: Duration = Duration::from_secs(20);

/// A cluster of one member.
#[derive(Debug)]
pub struct Etcd {
    directory: PathBuf,
    listen: String,
    /// Its certificate and key, by which it speaks TLS; names in `directory`.
    identity: Option<(String, String)>,
    daemon: Option<Daemon>,
}

/// A directory in memory: etcd waits for the disk with each write.
pub fn directory() -> Result<TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).context("a directory for etcd")
}

impl Etcd {
    /// Listens at `address`, port 2379; what it stores and what it says stands in `directory`.
    pub fn start(ns: &Netns, address: &str, directory: &Path) -> Result<Etcd> {
        Etcd::start_as(ns, address, directory, None)
    }

    /// The same by TLS, with the certificate and the key of these names in `directory`.
    pub fn start_with_tls(
        ns: &Netns,
        address: &str,
        directory: &Path,
        certificate: &str,
        key: &str,
    ) -> Result<Etcd> {
        Etcd::start_as(ns, address, directory, Some((certificate.to_owned(), key.to_owned())))
    }

    fn start_as(
        ns: &Netns,
        address: &str,
        directory: &Path,
        identity: Option<(String, String)>,
    ) -> Result<Etcd> {
        let (directory, listen) = (directory.to_owned(), format!("{address}:2379"));
        let mut etcd = Etcd { directory, listen, identity, daemon: None };
        etcd.start_again(ns)?;
        Ok(etcd)
    }

    /// With what it stored before, after [`Etcd::kill`].
    pub fn start_again(&mut self, ns: &Netns) -> Result<()> {
        let scheme = if self.identity.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", self.listen);
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.directory.join("data"));
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
        if let Some((certificate, key)) = &self.identity {
            command.arg("--cert-file").arg(self.directory.join(certificate));
            command.arg("--key-file").arg(self.directory.join(key));
        }
        command.args(["--logger", "zap", "--log-level", "warn"]);
        let mut daemon = Daemon::start(ns, "etcd", command, &self.directory.join("log"))?;
        eventually("etcd listens", STARTED, || {
            daemon.check_running()?;
            let listen = self.listen.clone();
            ns.run(move || TcpStream::connect(listen)).context("connecting")
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// By SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("it does not run")?.kill().map(drop)
    }

    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }
}
