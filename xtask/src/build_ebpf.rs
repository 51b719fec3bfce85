//! `cargo xtask build-ebpf`: compiles the programs, takes out what is only for debuggers, and shows what is in the
//! object. The bytes depend on sources, compiler and nothing else: no path of this machine enters.

use std::{
    ffi::OsString,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};
use aya_obj::Object;
use object::build::elf::{Builder, SectionData};

use crate::{
    ebpf_budget, progress,
    setup::{self, Need, compiler, compiler::Compiler},
    tree,
};

const TARGET: &str = "bpfel-unknown-none";
const BINARY: &str = "manx-ebpf";
/// What only the benchmark loads.
const BENCH: [&str; 2] = ["manx-ebpf-bench", "manx-ebpf-lookup"];

/// Build the eBPF programs and show what is in the object
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Build a second time from a copy of the sources elsewhere, and compare the bytes
    #[arg(long)]
    verify: bool,
}

pub fn run(args: Args) -> Result<()> {
    setup::ensure(Need::Demo)?;
    let compiler = compiler::installed().context("setup brought no compiler")?;
    let built = ensure_with(&compiler)?;
    let path = tree::ebpf_object();
    println!("object    {}{}", path.display(), if built { "" } else { " (unchanged)" });
    println!("compiler  {}", compiler.describe()?);
    let object = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    println!("bytes     {}", object.len());
    describe(&object)?;
    if args.verify {
        verify(&compiler, &object)?;
    }
    Ok(())
}

/// For other commands: the object is there and is that of the sources. Says nothing when nothing was to be done.
pub fn ensure() -> Result<()> {
    setup::ensure(Need::Demo)?;
    ensure_with(&compiler::installed().context("setup brought no compiler")?)?;
    Ok(())
}

/// As [`ensure`], and the programs cost no more than `ebpf/budget` allows.
pub fn ensure_within_budget() -> Result<()> {
    ensure()?;
    let path = tree::ebpf_object();
    let object = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    ebpf_budget::check(&ebpf_budget::costs(&object)?, &ebpf_budget::budget()?)
}

/// True if there was something to build.
fn ensure_with(compiler: &Compiler) -> Result<bool> {
    let sources = tree::root().join("ebpf");
    let object = tree::ebpf_object();
    let stamp = object.with_extension("stamp");
    let wanted = fingerprint(&sources, compiler)?;
    let bench = BENCH.map(tree::ebpf_bench_object);
    if object.is_file()
        && bench.iter().all(|object| object.is_file())
        && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted)
    {
        // The agent's build compares times, and a checkout may have made unchanged sources newer. Touched only then:
        // whatever embeds the object is compiled again.
        if newest(&sources)? > fs::metadata(&object)?.modified()? {
            fs::File::options().append(true).open(&object)?.set_modified(SystemTime::now())?;
        }
        return Ok(false);
    }
    let built = tree::root().join("target/ebpf-build");
    let bytes = build(compiler, &sources, &built)?;
    let dir = object.parent().context("the object's path has a directory")?;
    fs::create_dir_all(dir)?;
    let put = |object: &Path, bytes: Vec<u8>| -> Result<()> {
        // By rename: a build of the agent that runs meanwhile sees the one or the other.
        let new = object.with_extension("new");
        fs::write(&new, bytes)?;
        Ok(fs::rename(&new, object)?)
    };
    for (binary, object) in BENCH.iter().zip(&bench) {
        put(object, linked(&built, binary)?)?;
    }
    put(&object, bytes)?;
    fs::write(&stamp, wanted)?;
    Ok(true)
}

/// The object from `sources`, without debug sections.
fn build(compiler: &Compiler, sources: &Path, target_dir: &Path) -> Result<Vec<u8>> {
    let mut command = Command::new(compiler.cargo());
    command
        .current_dir(sources)
        .args(["build", "--release", "--locked", "--target", TARGET, "-Zbuild-std=core", "--target-dir"])
        .arg(target_dir)
        .env("RUSTC", compiler.rustc())
        // Debian's compiler is a stable one, and so may the cargo be that drives it.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(compiler, sources)?)
        .env("PATH", path_with(&tree::tools().join("bin"))?);
    // An outer `cargo run` sets these for the host.
    for name in [
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_TARGET",
        "CARGO",
    ] {
        command.env_remove(name);
    }
    progress::run("building the eBPF programs", compiler.with_libraries(&mut command))?;
    linked(target_dir, BINARY)
}

/// What the linker left, without debug sections.
fn linked(target_dir: &Path, binary: &str) -> Result<Vec<u8>> {
    let linked = target_dir.join(TARGET).join("release").join(binary);
    let bytes = fs::read(&linked).with_context(|| format!("cannot read {}", linked.display()))?;
    without_debug_sections(&bytes)
        .with_context(|| format!("{} is not an object to be embedded", linked.display()))
}

fn rustflags(compiler: &Compiler, sources: &Path) -> Result<OsString> {
    let cargo_home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?)
            .join(".cargo"),
    };
    let mut flags = OsString::from("-Cdebuginfo=2\x1f-Clink-arg=--btf");
    // The line information in BTF names source files.
    for (from, to) in [(sources, "ebpf"), (&cargo_home, "cargo"), (compiler.sysroot(), "rust")] {
        flags.push("\x1f--remap-path-prefix=");
        flags.push(from);
        flags.push(format!("=/{to}"));
    }
    Ok(flags)
}

fn path_with(first: &Path) -> Result<OsString> {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(std::iter::once(first.to_owned()).chain(std::env::split_paths(&rest)))?)
}

/// DWARF is two thirds of the object and full of what a kernel never reads; BTF stays.
fn without_debug_sections(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(bytes)?;
    let is_debug = |name: &[u8]| name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    let mut debug = Vec::new();
    for section in builder.sections.iter_mut().filter(|section| is_debug(&section.name)) {
        section.delete = true;
        debug.push(section.id());
    }
    for symbol in builder.symbols.iter_mut() {
        symbol.delete |= symbol.section.is_some_and(|section| debug.contains(&section));
    }
    // LLVM keeps the names of sections and of symbols in one table; the writer wants two.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut out = Vec::new();
    builder.write(&mut out)?;
    Ok(out)
}

fn describe(bytes: &[u8]) -> Result<()> {
    let object = Object::parse(bytes)?;
    let (costs, budget) = (ebpf_budget::costs(bytes)?, ebpf_budget::budget()?);
    println!(
        "\n{:<12} {:>12} {:>8} {:>8} {:>8} {:>10}",
        "program", "instructions", "of", "stack", "of", "verified ≤"
    );
    for (name, cost) in &costs {
        let (instructions, stack, verified) =
            budget.get(name).map_or((0, 0, 0), |budget| (budget.instructions, budget.stack, budget.verified));
        println!(
            "{name:<12} {:>12} {instructions:>8} {:>8} {stack:>8} {verified:>10}",
            cost.instructions, cost.stack
        );
    }
    ebpf_budget::check(&costs, &budget)?;
    let mut maps: Vec<_> = object.maps.iter().collect();
    maps.sort_by_key(|(name, _)| *name);
    println!("\n{:<12} {:>9} {:>11} {:>9}", "map", "key bytes", "value bytes", "entries");
    for (name, map) in maps {
        println!("{name:<12} {:>9} {:>11} {:>9}", map.key_size(), map.value_size(), map.max_entries());
    }
    Ok(())
}

/// Another path, another target directory, the same bytes.
fn verify(compiler: &Compiler, expected: &[u8]) -> Result<()> {
    let copy = std::env::temp_dir().join(format!("manx-ebpf-copy-{}", std::process::id()));
    let result = files(&tree::root().join("ebpf")).and_then(|files| {
        for (name, path) in files {
            let to = copy.join(name);
            fs::create_dir_all(to.parent().context("a file has a directory")?)?;
            fs::copy(&path, &to)
                .with_context(|| format!("cannot copy {} to {}", path.display(), to.display()))?;
        }
        build(compiler, &copy, &copy.join("target"))
    });
    // Whatever came of it, the copy goes.
    let _ = fs::remove_dir_all(&copy);
    let found = result?;
    ensure!(found == expected, "built at {}, the object has other bytes", copy.display());
    println!("\nverified  the same {} bytes when built at {}", found.len(), copy.display());
    Ok(())
}

/// Changes when anything does that the bytes depend on.
fn fingerprint(sources: &Path, compiler: &Compiler) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    compiler.version()?.hash(&mut hasher);
    // How it is built is told by this program itself.
    include_str!("build_ebpf.rs").hash(&mut hasher);
    for (name, path) in files(sources)? {
        name.hash(&mut hasher);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?.hash(&mut hasher);
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}

fn newest(sources: &Path) -> Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for (_, path) in files(sources)? {
        newest = newest.max(fs::metadata(&path)?.modified()?);
    }
    Ok(newest)
}

/// Every file below `dir` but build output, by its path from there, sorted.
fn files(dir: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot read {}", next.display()))? {
            let path = entry?.path();
            if !path.is_dir() {
                found.push((path.strip_prefix(dir)?.to_owned(), path));
            } else if !path.ends_with("target") {
                dirs.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
