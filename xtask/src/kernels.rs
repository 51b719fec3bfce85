//! `cargo xtask kernels`: Debian's kernels, booted in a virtual machine, run tests of ours: what a distribution has as
//! modules, and what an older kernel lacks, this machine's kernel cannot show. Only the emulator is installed (and xz);
//! packages are apt's, by a configuration under `target/kernels`, and only unpacked. The guest's root is this machine's,
//! read-only.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{progress, tree};

const INIT: &str = include_str!("kernels/init.sh");
const GUEST: &str = include_str!("kernels/guest.sh");
const EMULATOR: &str = "/usr/bin/qemu-system-x86_64";
/// A kernel that says nothing for so long does not run here; emulated, it takes some 20 s on an idle machine.
const UNTIL_UP: Duration = Duration::from_secs(20);
const UNTIL_UP_EMULATED: Duration = Duration::from_secs(180);
const UNTIL_DOWN: Duration = Duration::from_secs(1800);

/// Where kernels come from: Debian 12, its security updates and its backports.
const SOURCES: &str = "\
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm-backports main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security bookworm-security main
";

/// Boot kernels of a distribution and try what this machine's cannot show
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Only trials whose name contains this: module, netfilter, untyped, old
    #[arg(value_name = "NAME")]
    only: Option<String>,
}

struct Trial {
    name: &'static str,
    shows: &'static str,
    /// The package that depends on the newest kernel of its kind.
    kernel: &'static str,
    /// What its version must begin with for the trial to show what it says.
    series: &'static str,
    /// nf_conntrack is loaded without its types, as a kernel without CONFIG_DEBUG_INFO_BTF_MODULES has it.
    strips: bool,
}

const TRIALS: &[Trial] = &[
    Trial {
        name: "module",
        shows: "with nf_conntrack as a module, there already or coming later, tracked flows are carried",
        kernel: "linux-image-6.12-amd64",
        series: "6.12.",
        strips: false,
    },
    Trial {
        name: "netfilter",
        shows: "beside Services, policies, zones, sets and others' programs what netfilter does is not undone",
        kernel: "linux-image-6.12-amd64",
        series: "6.12.",
        strips: false,
    },
    Trial {
        name: "untyped",
        shows: "without the module's types the fast path is off where connections are tracked, and says why",
        kernel: "linux-image-6.12-amd64",
        series: "6.12.",
        strips: true,
    },
    Trial {
        name: "old",
        shows: "a kernel before 6.6 gets routes without programs, and says why",
        kernel: "linux-image-amd64",
        series: "6.1.",
        strips: false,
    },
];

pub fn run(args: Args) -> Result<()> {
    let wanted = |trial: &&Trial| args.only.as_ref().is_none_or(|only| trial.name.contains(only.as_str()));
    let trials: Vec<&Trial> = TRIALS.iter().filter(wanted).collect();
    ensure!(!trials.is_empty(), "no trial has that name");
    if !cfg!(target_arch = "x86_64") {
        println!("kernels: skipped; the guests run this machine's programs on kernels for x86_64");
        return Ok(());
    }
    install()?;
    let apt = Apt::prepare()?;
    let tools = home().join("tools");
    for package in ["busybox-static", "kmod"] {
        apt.unpack(package, &tools)?;
    }
    build()?;
    let mut failed = Vec::new();
    for trial in trials {
        let started = Instant::now();
        let kernel = Kernel::bring(&apt, &tools, trial)?;
        let console = home().join(format!("{}.log", trial.name));
        boot(&kernel, &tools, trial, &console)?;
        let text = fs::read(&console).unwrap_or_default();
        let ok = String::from_utf8_lossy(&text).lines().any(|line| line.trim() == "guest: exit 0");
        let word = if ok { "ok    " } else { "FAILED" };
        println!(
            "  {word}  {} ({}): {} ({:.0} s)",
            trial.name,
            kernel.version,
            trial.shows,
            started.elapsed().as_secs_f32()
        );
        if !ok {
            failed.push(format!("{}: see {}", trial.name, console.display()));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// What a trial needs on this machine.
fn install() -> Result<()> {
    let wanted = [
        ("qemu-system-x86", EMULATOR, "boots other kernels"),
        ("xz-utils", "/usr/bin/xz", "unpacks their modules"),
    ];
    let missing = wanted.iter().filter(|(_, program, _)| !Path::new(program).exists());
    let names: Vec<&str> = missing
        .map(|(name, _, why)| {
            println!("    {name:<16} {why}");
            *name
        })
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("apt-get");
    command.args(["install", "--yes", "--no-install-recommends"]).args(names);
    progress::run("apt-get install", command.env("DEBIAN_FRONTEND", "noninteractive"))
}

fn home() -> PathBuf {
    tree::root().join("target/kernels")
}

/// Tests and programs, as the guest finds them on this machine's disk, and the runner's lists of them.
fn build() -> Result<()> {
    let lists = home().join("lists");
    fs::create_dir_all(&lists)?;
    let cargo = || {
        let mut cargo = tree::cargo_command();
        cargo.current_dir(tree::root()).env("CARGO_TARGET_DIR", tree::target());
        cargo
    };
    progress::run("building manxd", cargo().args(["build", "--workspace", "--bins"]))?;
    let into = |name: &str, command: &mut Command| -> Result<()> {
        let file = File::create(lists.join(name))?;
        let status = command.stdout(file).stderr(Stdio::null()).status()?;
        ensure!(status.success(), "cannot list tests into {name}: {status}");
        Ok(())
    };
    let list = ["nextest", "list", "--list-type", "binaries-only", "--message-format", "json", "-p"];
    into("dataplane.json", cargo().args(list).arg("manx-dataplane"))?;
    into("netfilter.json", cargo().args(list).args(["manx-tests", "--test", "netfilter"]))?;
    into("cargo.json", cargo().args(["metadata", "--format-version", "1"]))
}

/// apt with sources and lists of its own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn prepare() -> Result<Apt> {
        let dir = home().join("apt");
        for part in ["lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(dir.join(part))?;
        }
        let sources = dir.join("sources.list");
        fs::write(&sources, SOURCES)?;
        let option = |name: &str, path: &Path| format!("{name}={}", path.display());
        let apt = Apt {
            options: vec![
                option("Dir::Etc::sourcelist", &sources),
                "Dir::Etc::sourceparts=-".into(),
                option("Dir::State::lists", &dir.join("lists")),
                option("Dir::Cache", &dir.join("cache")),
                "APT::Sandbox::User=root".into(),
            ],
        };
        progress::run("apt-get update for kernels", apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(self.options.iter().flat_map(|option| ["-o", option]));
        command
    }

    /// The newest kernel of a series: what a package without files of its own depends on.
    fn newest(&self, package: &str, series: &str) -> Result<String> {
        let output = self.command("apt-cache").args(["depends", package]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut kernels = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
        let version = kernels.find(|version| version.starts_with(series));
        let version =
            version.with_context(|| format!("no kernel {series}* in what {package} depends on:\n{text}"))?;
        Ok(format!("linux-image-{version}"))
    }

    /// Fetches a package once, and unpacks it.
    fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        let mark = home().join("apt/packages").join(package);
        if mark.exists() && into.exists() {
            return Ok(());
        }
        let place = home().join("apt/fetched").join(package);
        fs::create_dir_all(&place)?;
        let mut fetch = self.command("apt-get");
        progress::run(&format!("fetching {package}"), fetch.args(["download", package]).current_dir(&place))?;
        let mut found = fs::read_dir(&place)?.flatten().map(|entry| entry.path());
        let file = found.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        let file = file.with_context(|| format!("apt-get download {package} left no package"))?;
        progress::run(
            &format!("unpacking {package}"),
            Command::new("dpkg-deb").arg("-x").arg(file).arg(into),
        )?;
        fs::remove_dir_all(&place)?;
        File::create(mark).map(drop).map_err(Into::into)
    }
}

struct Kernel {
    /// As `uname -r` says it.
    version: String,
    dir: PathBuf,
    initramfs: PathBuf,
}

impl Kernel {
    fn bring(apt: &Apt, tools: &Path, trial: &Trial) -> Result<Kernel> {
        let package = apt.newest(trial.kernel, trial.series)?;
        let dir =
            home().join(if trial.strips { format!("{package}-{}", trial.name) } else { package.clone() });
        if trial.strips && !dir.exists() {
            // Its modules are changed: it is another tree, so the package comes again.
            let _ = fs::remove_file(home().join("apt/packages").join(&package));
        }
        apt.unpack(&package, &dir)?;
        let version = package.strip_prefix("linux-image-").context("no kernel's name")?.to_owned();
        let kernel = Kernel { initramfs: home().join(format!("{}.img", trial.name)), version, dir };
        if trial.strips {
            kernel.strip()?;
        }
        let depmod = tools.join("depmod");
        if !depmod.exists() {
            std::os::unix::fs::symlink("bin/kmod", &depmod)?;
        }
        progress::run("depmod", Command::new(depmod).arg("-b").arg(&kernel.dir).arg(&kernel.version))?;
        kernel.pack(tools, trial)?;
        Ok(kernel)
    }

    fn modules(&self) -> PathBuf {
        self.dir.join("lib/modules").join(&self.version)
    }

    /// Takes the types out of nf_conntrack.
    fn strip(&self) -> Result<()> {
        let packed = self.modules().join("kernel/net/netfilter/nf_conntrack.ko.xz");
        let plain = packed.with_extension("");
        if packed.exists() {
            shell("unpacking nf_conntrack", "xz -d \"$1\"", &[&packed])?;
        }
        shell("taking types out", "objcopy -R .BTF \"$1\"", &[&plain])
    }

    /// What the guest needs until it has this machine's root.
    fn pack(&self, tools: &Path, trial: &Trial) -> Result<()> {
        let root = home().join(format!("{}.initramfs", trial.name));
        let _ = fs::remove_dir_all(&root);
        for dir in ["bin", "modules", "proc", "sys", "dev", "host", "upper", "root"] {
            fs::create_dir_all(root.join(dir))?;
        }
        fs::copy(tools.join("bin/busybox"), root.join("bin/busybox"))?;
        fs::write(root.join("init"), INIT)?;
        fs::write(root.join("guest.sh"), GUEST)?;
        let dependencies = fs::read_to_string(self.modules().join("modules.dep"))?;
        let mut order: Vec<String> = Vec::new();
        for wanted in ["virtio_pci", "9pnet_virtio", "9p", "overlay"] {
            let is =
                |path: &str| path.rsplit('/').next().is_some_and(|f| f.split('.').next() == Some(wanted));
            // What is built in is not listed.
            let mut lines = dependencies.lines().filter_map(|line| line.split_once(':'));
            let Some((module, needs)) = lines.find(|(module, _)| is(module)) else { continue };
            // Nearest first, so the farthest goes in first.
            for path in needs.split_whitespace().rev().chain([module]) {
                let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".xz").to_owned();
                if order.contains(&name) {
                    continue;
                }
                let (from, to) = (self.modules().join(path), root.join("modules").join(&name));
                if path.ends_with(".xz") {
                    shell("unpacking modules", "xz -dc \"$1\" > \"$2\"", &[&from, &to])?;
                } else {
                    fs::copy(from, to)?;
                }
                order.push(name);
            }
        }
        fs::write(root.join("order"), order.join("\n"))?;
        let script = "chmod +x \"$1/init\" && cd \"$1\" && find . | bin/busybox cpio -o -H newc > \"$2\"";
        shell("packing the initramfs", script, &[&root, &self.initramfs])
    }
}

fn shell(label: &str, script: &str, args: &[&Path]) -> Result<()> {
    progress::run(label, Command::new("sh").args(["-ec", script, "sh"]).args(args))
}

/// By hardware where that runs an ordinary kernel, else emulated, which is some ten times slower.
fn boot(kernel: &Kernel, tools: &Path, trial: &Trial, console: &Path) -> Result<()> {
    if File::options().read(true).write(true).open("/dev/kvm").is_ok()
        && attempt(kernel, tools, trial, console, "kvm", UNTIL_UP)?
    {
        return Ok(());
    }
    println!("    {}: /dev/kvm does not boot it; emulated", trial.name);
    let came = attempt(kernel, tools, trial, console, "tcg,thread=multi", UNTIL_UP_EMULATED)?;
    ensure!(
        came,
        "{}: Linux {} comes up neither by /dev/kvm nor emulated; its console is in {}, what the emulator said beside it",
        trial.name,
        kernel.version,
        console.display()
    );
    Ok(())
}

/// False if it did not come up.
fn attempt(
    kernel: &Kernel,
    tools: &Path,
    trial: &Trial,
    console: &Path,
    accelerator: &str,
    until_up: Duration,
) -> Result<bool> {
    let _ = fs::remove_file(console);
    let words = format!(
        "console=ttyS0 quiet panic=-1 manx.trial={} manx.kernel={} manx.tools={} manx.root={} manx.lists={}",
        trial.name,
        kernel.dir.display(),
        tools.display(),
        tree::root().display(),
        home().join("lists").display()
    );
    let mut emulator = Command::new(EMULATOR);
    emulator.args(["-accel", accelerator]);
    emulator.args(["-cpu", "max", "-smp", "2", "-m", "4096", "-nographic", "-no-reboot", "-nodefaults"]);
    emulator.arg("-serial").arg(format!("file:{}", console.display()));
    emulator.arg("-kernel").arg(kernel.dir.join(format!("boot/vmlinuz-{}", kernel.version)));
    emulator.arg("-initrd").arg(&kernel.initramfs).args(["-append", &words]);
    emulator.args(["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"]);
    let log = File::create(console.with_extension("emulator"))?;
    let guest = emulator.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
    let mut guest = guest.with_context(|| format!("cannot run {EMULATOR}"))?;
    let says = |word: &str| {
        let text = fs::read(console).unwrap_or_default();
        String::from_utf8_lossy(&text).contains(word)
    };
    if !wait(&mut guest, until_up, || says("guest: up"))? {
        end(&mut guest)?;
        return Ok(false);
    }
    if !wait(&mut guest, UNTIL_DOWN, || says("guest: exit"))? {
        end(&mut guest)?;
        bail!("{}: gave up; its console is in {}", trial.name, console.display());
    }
    // It powers itself off.
    wait(&mut guest, UNTIL_UP, || false)?;
    end(&mut guest)?;
    Ok(true)
}

/// Whether that came before the limit or the guest's end.
fn wait(guest: &mut Child, limit: Duration, mut came: impl FnMut() -> bool) -> Result<bool> {
    let started = Instant::now();
    while started.elapsed() < limit {
        if came() {
            return Ok(true);
        }
        if guest.try_wait()?.is_some() {
            return Ok(came());
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(false)
}

fn end(guest: &mut Child) -> Result<()> {
    if guest.try_wait()?.is_none() {
        guest.kill()?;
    }
    guest.wait().map(drop).map_err(Into::into)
}
