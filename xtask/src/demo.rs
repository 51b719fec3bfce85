//! `cargo xtask demo`: the article's cluster on this machine, in network namespaces, and its walk from full mesh to
//! route reflector, command by command, each with a check. `walk` tells the story; `screen` is what one sees.

mod keep;
mod screen;
mod walk;

use std::{path::PathBuf, process::exit, time::Instant};

use anyhow::{Context, Result, ensure};
use manx_tests::cluster::Cluster;
use nix::{
    sys::signal::{SigHandler, Signal, signal},
    unistd::Uid,
};

use crate::{build_ebpf, progress, tree};
use screen::Screen;

/// Play the article's story on this machine: three nodes, full mesh, then a route reflector
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave the nodes standing at the end, and say how to enter them and how to take them down
    #[arg(long)]
    keep: bool,
    /// Run BIRD 2 in this node's place; may be given several times
    #[arg(long, value_name = "NODE", value_parser = ["km01", "kw01", "kw02"])]
    bird: Vec<String>,
    /// Plain text, on a terminal too (so does the environment variable NO_COLOR)
    #[arg(long)]
    no_color: bool,
    /// Hold a kept lab, whose directory this is, until a signal comes
    #[arg(long, hide = true, value_name = "DIR")]
    hold: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    if let Some(dir) = args.hold {
        return keep::hold(&dir);
    }
    ensure!(
        Uid::effective().is_root(),
        "the demo makes network namespaces: run it as root, such as by: sudo -E env \"PATH=$PATH\" cargo xtask demo"
    );
    // Whoever stops reading has seen enough: end as other programs do, and the lab with us.
    // SAFETY: the default disposition runs no code of ours, and nothing else here handles SIGPIPE.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    let mut screen = Screen::new(args.no_color);
    screen.title("Manx: three nodes, from full mesh to route reflector");
    prepare()?;
    let started = Instant::now();
    let birds: Vec<&str> = args.bird.iter().map(String::as_str).collect();
    let programs = tree::programs();
    let mut cluster =
        screen.waiting("making hosts, a switch and pods", || Cluster::with_programs(&birds, &programs))?;
    let played = walk::play(&mut screen, &mut cluster);
    if played.is_err() {
        println!();
        screen.check("the walk comes to its end", played);
    }
    let well = screen.summary(started.elapsed());
    if args.keep {
        keep::leave(&screen, cluster)?;
    }
    if !well {
        exit(1);
    }
    Ok(())
}

/// Everything that the demo runs is there, and of these sources.
fn prepare() -> Result<()> {
    build_ebpf::ensure()?;
    let mut cargo = tree::cargo_command();
    cargo.current_dir(tree::root()).args(["build", "--package", "manxd", "--package", "manxctl"]);
    cargo.env("CARGO_TARGET_DIR", tree::target());
    progress::run("building manxd and manxctl", &mut cargo).context("the demo runs them")
}
