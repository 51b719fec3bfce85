//! `manxctl peer refresh|disable|enable PEER`: orders for the running manxd about one of its peers.

use std::{net::IpAddr, path::Path, process::ExitCode};

use anyhow::ensure;
use manx_api::{Ordered, path};

use crate::{client, output};

/// RFC 9003 §2.
const LONGEST_TEXT: usize = 255;

const EXAMPLES: &str = "\
Examples:
  manxctl peer refresh 10.0.0.2
  manxctl peer disable 10.0.0.2 --text 'replacing the switch'
  manxctl peer enable 10.0.0.2";

#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Ask a peer for all its routes again (RFC 2918); the session stays
    #[command(after_help = EXAMPLES)]
    Refresh {
        /// Its address, as `manxctl node status` has it
        #[arg(value_name = "PEER")]
        peer: IpAddr,
        #[command(flatten)]
        form: Form,
    },
    /// End the session with a peer and open none until it is enabled, or until manxd starts again
    #[command(after_help = EXAMPLES)]
    Disable {
        /// Its address, as `manxctl node status` has it
        #[arg(value_name = "PEER")]
        peer: IpAddr,
        /// What the peer's operator reads as the reason, at most 255 octets (RFC 9003)
        #[arg(long, default_value = "")]
        text: String,
        #[command(flatten)]
        form: Form,
    },
    /// Open sessions with a disabled peer again
    #[command(after_help = EXAMPLES)]
    Enable {
        /// Its address, as `manxctl node status` has it
        #[arg(value_name = "PEER")]
        peer: IpAddr,
        #[command(flatten)]
        form: Form,
    },
}

#[derive(clap::Args, Clone, Debug)]
pub struct Form {
    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn run(command: &Command, socket: &Path) -> anyhow::Result<ExitCode> {
    let (path, peer, text, form, done) = match command {
        Command::Refresh { peer, form } => (path::REFRESH, peer, "", form, "was asked for its routes again"),
        Command::Disable { peer, text, form } => (path::DISABLE, peer, text.as_str(), form, "is disabled"),
        Command::Enable { peer, form } => (path::ENABLE, peer, "", form, "is enabled"),
    };
    ensure!(
        text.len() <= LONGEST_TEXT,
        "the text has {} octets; a NOTIFICATION takes {LONGEST_TEXT} (RFC 9003): shorten it",
        text.len()
    );
    let query = format!("{path}?peer={}&text={}", client::escaped(&peer.to_string()), client::escaped(text));
    let ordered: Ordered = client::order(socket, &query)?;
    if form.output.is_some() {
        output::print(&format!("{}\n", serde_json::to_string_pretty(&ordered)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    for peer in ordered.peers {
        output::print(&format!("{peer} {done}.\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
