//! `manxctl peer refresh|disable|enable PEER`: orders for the running manxd about one of its peers.

use std::{net::IpAddr, path::Path, process::ExitCode};

use anyhow::ensure;
use manx_api::{Ordered, path};

use crate::{client, output};

/// RFC 9003 §2.
const LONGEST_TEXT: usize = 255;

#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Ask a peer for all its routes again (RFC 2918); the session stays
    Refresh {
        #[arg(value_name = "PEER")]
        peer: IpAddr,
    },
    /// End the session with a peer and open none until it is enabled, or until manxd starts again
    Disable {
        #[arg(value_name = "PEER")]
        peer: IpAddr,
        /// What the peer's operator reads as the reason, at most 255 octets (RFC 9003)
        #[arg(long, default_value = "")]
        text: String,
    },
    /// Open sessions with a disabled peer again
    Enable {
        #[arg(value_name = "PEER")]
        peer: IpAddr,
    },
}

pub fn run(command: &Command, socket: &Path) -> anyhow::Result<ExitCode> {
    let (path, peer, text, done) = match command {
        Command::Refresh { peer } => (path::REFRESH, peer, "", "was asked for its routes again"),
        Command::Disable { peer, text } => (path::DISABLE, peer, text.as_str(), "is disabled"),
        Command::Enable { peer } => (path::ENABLE, peer, "", "is enabled"),
    };
    ensure!(
        text.len() <= LONGEST_TEXT,
        "the text has {} octets; a NOTIFICATION takes {LONGEST_TEXT} (RFC 9003): shorten it",
        text.len()
    );
    let query = format!("{path}?peer={}&text={}", client::escaped(&peer.to_string()), client::escaped(text));
    let ordered: Ordered = client::order(socket, &query)?;
    for peer in ordered.peers {
        output::print(&format!("{peer} {done}.\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
