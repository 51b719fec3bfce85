//! The compiler for the eBPF target, with the sources of its `core` library, which has to be built for that target.
//! Two ways: a pinned nightly by rustup, in a RUSTUP_HOME of ours; or Debian's `rustc-web`, unpacked and not
//! installed, since it would push the user's own rustc out. Neither touches the system's compiler.

use std::{
    ffi::OsStr,
    fs,
    net::{TcpStream, ToSocketAddrs},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::{Args, Found, packages};
use crate::{progress, tree};

/// Pinned, so that two machines build the same object. Its LLVM has to be one that bpf-linker knows.
const NIGHTLY: &str = "nightly-2026-05-20";
/// What bpf-linker can be built against.
const LINKABLE_LLVM: std::ops::RangeInclusive<u32> = 21..=23;
const RUSTUP_SERVER: &str = "static.rust-lang.org:443";
const RUSTUP_LIMIT: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Source {
    /// A pinned nightly toolchain
    Rustup,
    /// Debian's rustc-web, unpacked
    Distribution,
}

/// A compiler that is in place.
#[derive(Clone, Debug)]
pub struct Compiler {
    pub source: Source,
    /// The directory above `bin/` and `lib/`.
    sysroot: PathBuf,
    rustc: PathBuf,
}

pub fn find(args: &Args) -> Result<Found> {
    let wanted = |compiler: &Compiler| args.compiler.is_none_or(|source| source == compiler.source);
    Ok(match installed().filter(wanted) {
        Some(compiler) => Found::Present(compiler.describe()?),
        None => Found::Missing("with the sources of its library".into()),
    })
}

pub fn bring(args: &Args) -> Result<()> {
    match args.compiler {
        Some(Source::Rustup) => return by_rustup(),
        Some(Source::Distribution) => return by_packages(),
        None => {}
    }
    match rustup_is_reachable() {
        Ok(()) => match by_rustup() {
            Ok(()) => return Ok(()),
            Err(error) => println!("    not by rustup: {error:#}"),
        },
        Err(error) => println!("    not by rustup: {error:#}"),
    }
    println!("    taking the distribution's compiler instead");
    by_packages()
}

/// The compiler that is in place, the one that was brought last if there are two.
pub fn installed() -> Option<Compiler> {
    let rustup = rustup_sysroot();
    let unpacked = unpacked_root().join("usr");
    let all = [
        Compiler { source: Source::Rustup, rustc: rustup.join("bin/rustc"), sysroot: rustup },
        Compiler { source: Source::Distribution, rustc: unpacked_root().join("rustc"), sysroot: unpacked },
    ];
    let usable = all.into_iter().filter(|compiler| compiler.has_sources() && compiler.version().is_ok());
    usable.max_by_key(|compiler| fs::metadata(&compiler.rustc).and_then(|m| m.modified()).ok())
}

impl Compiler {
    pub fn rustc(&self) -> &Path {
        &self.rustc
    }

    pub fn sysroot(&self) -> &Path {
        &self.sysroot
    }

    /// The cargo to use it with.
    pub fn cargo(&self) -> PathBuf {
        match self.source {
            Source::Rustup => self.sysroot.join("bin/cargo"),
            Source::Distribution => tree::cargo(),
        }
    }

    /// What `rustc -vV` says.
    pub fn version(&self) -> Result<String> {
        let output = Command::new(&self.rustc).arg("-vV").output()?;
        ensure!(output.status.success(), "{} does not run", self.rustc.display());
        Ok(String::from_utf8(output.stdout)?)
    }

    pub fn describe(&self) -> Result<String> {
        let version = self.version()?;
        let first = version.lines().next().unwrap_or_default();
        let from = match self.source {
            Source::Rustup => "rustup",
            Source::Distribution => "the distribution's packages",
        };
        Ok(format!("{first}, LLVM {}, from {from}", self.llvm_major()?))
    }

    pub fn llvm_major(&self) -> Result<u32> {
        let version = self.version()?;
        let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
        let major = llvm.and_then(|llvm| llvm.split('.').next()).context("rustc -vV names no LLVM")?;
        Ok(major.parse()?)
    }

    /// Its libLLVM, as a link from `tools/llvm/lib` that holds when the folder moves.
    pub fn llvm_link(&self) -> Result<PathBuf> {
        let dir = match self.source {
            Source::Rustup => self.sysroot.join("lib"),
            Source::Distribution => self.sysroot.join("lib").join(multiarch()),
        };
        let major = self.llvm_major()?;
        let prefix = format!("libLLVM.so.{major}.");
        let library = fs::read_dir(&dir)
            .with_context(|| format!("cannot read {}", dir.display()))?
            .filter_map(|entry| entry.ok())
            .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .with_context(|| format!("no {prefix}* in {}", dir.display()))?;
        let from_tools = library.path().strip_prefix(tree::tools())?.to_owned();
        Ok(Path::new("../..").join(from_tools))
    }

    /// Directories of libraries that the system may lack, for the unpacked compiler.
    pub fn library_dirs(&self) -> Option<Vec<PathBuf>> {
        (self.source == Source::Distribution).then(|| {
            let root = unpacked_root();
            ["usr/lib", "lib"].map(|lib| root.join(lib).join(multiarch())).into()
        })
    }

    /// Lets `command` find the libraries that came with the compiler.
    pub fn with_libraries<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if let Some(path) = self.library_dirs().and_then(|dirs| std::env::join_paths(dirs).ok()) {
            command.env("LD_LIBRARY_PATH", path);
        }
        command
    }

    fn has_sources(&self) -> bool {
        self.sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
    }
}

fn rustup_home() -> PathBuf {
    tree::tools().join("rustup")
}

fn rustup_sysroot() -> PathBuf {
    rustup_home().join(format!("toolchains/{NIGHTLY}-{}-unknown-linux-gnu", std::env::consts::ARCH))
}

fn unpacked_root() -> PathBuf {
    tree::tools().join("ebpf-rust")
}

/// Debian's name of the directory for this machine's libraries.
fn multiarch() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

/// rustup waits long for a network that swallows packets; a connection tells in seconds.
fn rustup_is_reachable() -> Result<()> {
    if progress::first_line(Command::new("rustup").arg("--version")).is_none() {
        bail!("there is no rustup");
    }
    let proxied = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "RUSTUP_DIST_SERVER"];
    if proxied.iter().any(|name| std::env::var_os(name).is_some()) {
        return Ok(());
    }
    let addresses =
        RUSTUP_SERVER.to_socket_addrs().with_context(|| format!("cannot resolve {RUSTUP_SERVER}"))?;
    let connects = |address| TcpStream::connect_timeout(&address, Duration::from_secs(4)).is_ok();
    ensure!(addresses.take(3).any(connects), "cannot connect to {RUSTUP_SERVER}");
    Ok(())
}

fn by_rustup() -> Result<()> {
    let mut command = Command::new("rustup");
    command
        .args(["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src"])
        .arg("--no-self-update")
        .env("RUSTUP_HOME", rustup_home())
        .env_remove("RUSTUP_TOOLCHAIN");
    progress::run_for("rustup toolchain install", &mut command, Some(RUSTUP_LIMIT))
}

fn by_packages() -> Result<()> {
    if !packages::has_apt() {
        bail!(
            "no apt here, and rustup cannot bring a compiler; give rustup a network, or put a nightly toolchain with \
             rust-src at {}",
            rustup_sysroot().display()
        );
    }
    let root = unpacked_root();
    let names = match package_names() {
        Ok(names) => names,
        Err(error) if nix::unistd::Uid::effective().is_root() => {
            println!("    {error:#}");
            packages::update_lists()?;
            package_names()?
        }
        Err(error) => return Err(error.context("apt's lists may be old; as root: apt-get update")),
    };
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let archives = root.join("archives");
    fs::create_dir_all(&archives)?;
    // apt's own user may not be able to write here; then it downloads as us and says so.
    let mut download = Command::new("apt-get");
    download.args(["download", "-o", "APT::Sandbox::User=root"]).args(&names).current_dir(&archives);
    progress::run("downloading the distribution's rustc", &mut download)?;
    for entry in fs::read_dir(&archives)? {
        let archive = entry?.path();
        let name = archive.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let mut unpack = Command::new("sh");
        if name.starts_with("rust-web-src") {
            // Only the library: the compiler's own sources are as large as all the rest.
            let script =
                r#"dpkg-deb --fsys-tarfile "$0" | tar -x -C "$1" --wildcards '*/library/*' './usr/lib/*'"#;
            unpack.args(["-c", script]);
        } else {
            unpack.args(["-c", r#"dpkg-deb -x "$0" "$1""#]);
        }
        unpack.arg(&archive).arg(&root);
        progress::run(&format!("unpacking {}", name.split('_').next().unwrap_or(name)), &mut unpack)?;
    }
    fs::remove_dir_all(&archives)?;
    link_sources(&root)?;
    // rustc finds its libraries beside itself only where the system has them too.
    let wrapper = root.join("rustc");
    let script = format!(
        "#!/bin/sh\nhere=$(dirname \"$(readlink -f \"$0\")\")\n\
         export LD_LIBRARY_PATH=\"$here/usr/lib/{0}:$here/lib/{0}\"\nexec \"$here/usr/bin/rustc\" \"$@\"\n",
        multiarch()
    );
    fs::write(&wrapper, script)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The compiler, its library's sources, and the libraries that a bare machine may lack.
fn package_names() -> Result<Vec<String>> {
    ensure!(packages::is_known("rustc-web"), "apt's lists do not have rustc-web");
    let wanted = |name: &String| {
        let libraries =
            ["libbsd0", "libedit2", "libffi8", "libicu72", "libmd0", "libxml2", "libz3-4", "libzstd1"];
        name.starts_with("libstd-rust-web")
            || name.starts_with("libllvm")
            || libraries.contains(&name.as_str())
    };
    let mut names: Vec<String> = packages::closure("rustc-web")?.into_iter().filter(wanted).collect();
    let llvm = names.iter().find_map(|name| name.strip_prefix("libllvm")?.parse().ok());
    ensure!(
        llvm.is_some_and(|major| LINKABLE_LLVM.contains(&major)),
        "the rustc-web in apt's lists has LLVM {}, bpf-linker knows {LINKABLE_LLVM:?}",
        llvm.map_or("unknown".into(), |major| major.to_string())
    );
    names.extend(["rustc-web", "rust-web-src"].map(str::to_owned));
    names.sort();
    names.dedup();
    Ok(names)
}

/// `-Z build-std` looks under the sysroot; Debian has a link there, to a path of the system's.
fn link_sources(root: &Path) -> Result<()> {
    let sources = fs::read_dir(root.join("usr/src"))?
        .filter_map(|entry| entry.ok())
        .find(|entry| entry.file_name().to_string_lossy().starts_with("rustc-"))
        .context("rust-web-src has no usr/src/rustc-*")?;
    let link = root.join("usr/lib/rustlib/src/rust");
    if fs::symlink_metadata(&link).is_ok() {
        fs::remove_file(&link)?;
    }
    fs::create_dir_all(link.parent().context("it is a path of five parts")?)?;
    std::os::unix::fs::symlink(Path::new("../../../src").join(sources.file_name()), &link)?;
    Ok(())
}
