//! `manxctl support-dump`: all that somebody far away needs to find out what is wrong with a node, in one file, and
//! nothing that is secret. What cannot be had is named in it, and everything else is there nevertheless.

mod run;
mod sources;

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use manx_api::{NodeStatus, path};
use manx_datastore::{Datastore, OpenError};
use serde::Serialize;

use crate::{client, output};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl support-dump
  manxctl support-dump /tmp/kw01.tar.gz
  manxctl support-dump - > kw01.tar.gz

Exit code: 0; 1 where manxd does not answer, with all else in the file.")]
pub struct Args {
    /// The file to write, or - for standard output [default: manx-support-NODE-TIME.tar.gz, here]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    /// Print what became of it as JSON
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

/// What is packed, by the names of its files, and why other things are not.
#[derive(Debug, Default)]
pub(crate) struct Pack {
    files: BTreeMap<String, Vec<u8>>,
    missing: Vec<String>,
}

impl Pack {
    pub(crate) fn add(&mut self, name: &str, found: Result<Vec<u8>, String>) {
        match found {
            Ok(text) => drop(self.files.insert(name.to_owned(), text)),
            Err(why) => self.missing.push(format!("{name}: {why}")),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    file: String,
    files: usize,
    /// Of those that could not be had, a line each.
    missing: Vec<String>,
}

pub fn run(
    args: &Args,
    datastore: &dyn Fn() -> Result<Datastore, OpenError>,
    socket: &Path,
) -> anyhow::Result<ExitCode> {
    let now = Timestamp::now();
    let status: Result<NodeStatus, _> = client::ask(socket, path::STATUS);
    let node = match &status {
        Ok(status) => status.node.clone(),
        Err(_) => std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map_or_else(|_| "node".to_owned(), |name| name.trim().to_owned()),
    };
    let mut pack = Pack::default();
    let url = datastore().ok().map(|datastore| datastore.to_string());
    sources::gather(
        &mut pack,
        &sources::Asked { node: &node, url: url.as_deref(), socket, status: status.as_ref().ok() },
    );
    sources::resources(&mut pack, datastore);
    let name = format!("manx-support-{node}-{}", now.strftime("%Y%m%dT%H%M%SZ"));
    let missing = pack.missing.clone();
    if !missing.is_empty() {
        pack.files.insert("errors.txt".to_owned(), format!("{}\n", missing.join("\n")).into_bytes());
    }
    let packed = packed(&name, &pack.files, now).context("packing it")?;
    let made = match &args.file {
        Some(file) if file.as_os_str() == "-" => {
            io::stdout().lock().write_all(&packed).context("standard output")?;
            None
        }
        file => {
            let file = file.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
            // It tells much of the node, if nothing secret.
            let mut options = OpenOptions::new();
            let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&file);
            opened
                .and_then(|mut opened| opened.write_all(&packed))
                .with_context(|| file.display().to_string())?;
            Some(Made { file: file.display().to_string(), files: pack.files.len(), missing })
        }
    };
    if let Some(made) = made {
        output::print(&match args.output {
            Some(_) => format!("{}\n", serde_json::to_string_pretty(&made)?),
            None => said(&made, packed.len()),
        })?;
    }
    match status {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            output::complain("warning", &format!("manxd did not answer, and the rest is packed: {error}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn said(made: &Made, size: usize) -> String {
    let missing = match made.missing.len() {
        0 => String::new(),
        n => format!("{n} could not be had; errors.txt in it says why.\n"),
    };
    format!(
        "Written {}: {} files, {} kB.\n{missing}It holds no passwords. It does hold this node's addresses, rules and log: look \
         into it before you give it away.\n",
        made.file,
        made.files,
        size.div_ceil(1000)
    )
}

fn packed(directory: &str, files: &BTreeMap<String, Vec<u8>>, now: Timestamp) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now.as_second()).unwrap_or(0));
        archive.append_data(&mut header, format!("{directory}/{name}"), text.as_slice())?;
    }
    archive.into_inner()?.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_the_same_in_a_directory_of_its_own() {
        let mut pack = Pack::default();
        pack.add("a/b.txt", Ok(b"text\n".to_vec()));
        pack.add("c.json", Err("why not".into()));
        assert_eq!(pack.missing, ["c.json: why not"]);
        let packed = packed("manx-support-kw01", &pack.files, Timestamp::UNIX_EPOCH).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice()));
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("manx-support-kw01/a/b.txt"));
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text\n");
        assert!(entries.next().is_none());
    }
}
