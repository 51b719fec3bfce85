//! `cargo xtask build-ebpf`
#[derive(Debug, clap::Args)]
/// Build the eBPF object
pub struct Args {}
pub fn run(_args: Args) -> anyhow::Result<()> {
    Ok(())
}
