//! `manxd cleanup`: removes what this or an earlier version put on the node.

use std::io;

use anyhow::{Context, bail};

use crate::{cli::CleanupArgs, process::Lock};

pub fn run(args: &CleanupArgs) -> anyhow::Result<()> {
    let places = &args.places;
    let _lock = Lock::take(places.protocol)?.with_context(|| {
        format!("a manxd with protocol {} is running here; stop it first", places.protocol)
    })?;
    // Programs first: without them the kernel forwards by its own routes, which are still there.
    let pins = manx_dataplane::ebpf::cleanup(&places.bpf_dir)?;
    println!("removed {pins} pinned programs and maps under {}", places.bpf_dir.display());
    let routes = manx_dataplane::cleanup(places.protocol).context("deleting routes")?;
    println!("removed {routes} routes of protocol {}", places.protocol);
    let state = places.state_dir.display();
    if crate::blackholes::cleanup(&places.state_dir).with_context(|| format!("cannot empty {state}"))? {
        println!("removed operators' blackholes from {state}");
    }
    match std::fs::remove_file(&places.api_socket) {
        Ok(()) => println!("removed {}", places.api_socket.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => bail!("cannot remove {}: {error}", places.api_socket.display()),
    }
    if let Some(dir) = places.api_socket.parent().filter(|dir| dir.ends_with("manx")) {
        // Ours by its name; it stays if somebody else keeps something in it.
        let _ = std::fs::remove_dir(dir);
    }
    Ok(())
}
