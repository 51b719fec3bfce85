//! `cargo xtask setup`
#[derive(Debug, clap::Args)]
/// Bring what building and testing need and is missing
pub struct Args {
    /// Only report; exit 1 if something is missing
    #[arg(long)]
    pub check: bool,
}
pub fn run(_args: Args) -> anyhow::Result<()> {
    Ok(())
}
