//! `manxctl node drain|undrain`: this node leaves, or comes back.

use std::{
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use manx_api::{Drain, DrainStage, DrainStatus, path};

use crate::{client, output};

/// RFC 9003 §2.
const LONGEST_TEXT: usize = 255;
/// Between two questions.
const AGAIN: Duration = Duration::from_millis(500);

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  manxctl node drain --text 'new disk' --wait   # then the node may be switched off
  manxctl node drain --now                      # do not wait for the traffic
  manxctl node undrain

First everybody is asked to go another way (GRACEFUL_SHUTDOWN, RFC 8326), while the routes stay; when no packets
come for the node's pods any more its routes are withdrawn; then its sessions are closed. Move the pods meanwhile
(kubectl drain): what lives here is reached by no other way. A drained node stays so over a restart of manxd.")]
pub struct DrainArgs {
    /// What the peers' operators read as the reason, at most 255 octets (RFC 9003)
    #[arg(long, default_value = "")]
    text: String,
    /// Do not wait until no packets come any more
    #[arg(long)]
    now: bool,
    /// Wait until the sessions are closed, for so many seconds at most [default: 600]; end in 1 if they are not then
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "600")]
    wait: Option<u32>,
    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  manxctl node undrain
  manxctl node status --wait                    # then, until its sessions stand again")]
pub struct UndrainArgs {
    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn drain(args: &DrainArgs, socket: &Path) -> anyhow::Result<ExitCode> {
    ensure!(
        args.text.len() <= LONGEST_TEXT,
        "the text has {} octets; a NOTIFICATION takes {LONGEST_TEXT} (RFC 9003): shorten it",
        args.text.len()
    );
    let query = format!("{}?text={}&now={}", path::DRAIN, client::escaped(&args.text), args.now);
    let mut status: DrainStatus = client::order(socket, &query)?;
    let mut said = None;
    let begun = Instant::now();
    loop {
        let Some(drain) = &status.drain else {
            bail!("somebody else has ended the drain: manxctl node undrain")
        };
        if args.output.is_none() && said != Some(drain.stage) {
            output::print(&format!("{}\n", tell(&status.node, drain)))?;
            said = Some(drain.stage);
        }
        let Some(seconds) = args.wait.filter(|_| drain.stage != DrainStage::Closed) else { break };
        if begun.elapsed() > Duration::from_secs(seconds.into()) {
            let packets = drain
                .packets
                .map(|packets| format!(": {packets:.0} packets a second still come for its pods"));
            bail!(
                "not drained after {seconds} s{}; it goes on, and manxctl node drain --now does not wait for them",
                packets.unwrap_or_default()
            );
        }
        thread::sleep(AGAIN);
        status = client::ask(socket, path::DRAIN)?;
    }
    if args.output.is_some() {
        output::print(&format!("{}\n", serde_json::to_string_pretty(&status)?))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn undrain(args: &UndrainArgs, socket: &Path) -> anyhow::Result<ExitCode> {
    let status: DrainStatus = client::order(socket, path::UNDRAIN)?;
    output::print(&match &args.output {
        Some(_) => format!("{}\n", serde_json::to_string_pretty(&status)?),
        None => format!("{} announces its routes, and opens its sessions.\n", status.node),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn tell(node: &str, drain: &Drain) -> String {
    match drain.stage {
        DrainStage::Leaving => {
            format!(
                "{node} asks everybody to go another way; its routes stay while packets come for its pods."
            )
        }
        DrainStage::Withdrawn => format!("{node} has withdrawn its routes."),
        DrainStage::Closed => format!("{node} has closed its sessions."),
    }
}
