//! Where the maps are pinned, and how large they are.

use std::{fmt, path::PathBuf, str::FromStr};

use manx_abi::capacity;

#[derive(Clone, Debug)]
pub struct Options {
    /// Directory on a BPF filesystem for all that is pinned; made if it is not there. One for each network
    /// namespace that an agent runs in.
    pub bpf_dir: PathBuf,
    pub sizes: Sizes,
}

/// Entries of the maps. Memory for routes and IPv6 blocks is taken as they come, for the others at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub routes4: u32,
    pub routes6: u32,
    /// Blocks of IPv4 pools, and addresses of blocks with pods or borrowed addresses inside: 8 octets each.
    pub words: u32,
    /// Blocks of IPv6 pools that are in use: 64 octets each, rounded up to a power of two.
    pub blocks6: u32,
    /// Pods of this node and its uplinks, a power of two. Each takes some 700 octets for each CPU.
    pub interfaces: u32,
    /// Prefixes that are counted each for itself: 16 octets for each CPU.
    pub counters: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options { bpf_dir: "/sys/fs/bpf/manx".into(), sizes: Sizes::default() }
    }
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes {
            routes4: capacity::ROUTES4 as u32,
            routes6: capacity::ROUTES6 as u32,
            words: capacity::WORDS as u32,
            blocks6: capacity::BLOCKS6 as u32,
            interfaces: capacity::INTERFACES as u32,
            counters: capacity::PREFIX_COUNTS as u32,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSize {
    #[error("\"{0}\" is not NAME=ENTRIES")]
    Syntax(String),
    #[error("no map is called \"{0}\"; there are routes4, routes6, words, blocks6, interfaces and counters")]
    Name(String),
    #[error("{name}={entries} is not possible; {possible}")]
    Entries { name: String, entries: u32, possible: &'static str },
}

/// More than this no map may have, and no machine has memory for.
const MOST: u32 = 1 << 26;

impl Sizes {
    /// These sizes, but for what `text` names: `routes4=1000000,words=4000000`.
    pub fn with(mut self, text: &str) -> Result<Sizes, BadSize> {
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let syntax = || BadSize::Syntax(part.to_owned());
            let (name, entries) = part.split_once('=').ok_or_else(syntax)?;
            // A number that is too large is no slip in the syntax.
            let (name, entries) = (name.trim(), entries.trim().parse::<u64>().map_err(|_| syntax())?);
            let entries = u32::try_from(entries).unwrap_or(u32::MAX);
            let (field, possible, is_possible) = match name {
                "routes4" => (&mut self.routes4, "1 to 67108864", entries > 0),
                "routes6" => (&mut self.routes6, "1 to 67108864", entries > 0),
                "words" => (&mut self.words, "1024 to 67108864", entries >= 1024),
                "blocks6" => (&mut self.blocks6, "1 to 67108864", entries > 0),
                "interfaces" => (
                    &mut self.interfaces,
                    "a power of two from 16 to 65536",
                    entries.is_power_of_two() && (16..=65536).contains(&entries),
                ),
                "counters" => (&mut self.counters, "1 to 67108864", entries > 0),
                _ => return Err(BadSize::Name(name.to_owned())),
            };
            if !is_possible || entries > MOST {
                return Err(BadSize::Entries { name: name.to_owned(), entries, possible });
            }
            *field = entries;
        }
        Ok(self)
    }
}

impl Sizes {
    pub(super) fn block6_slots(&self) -> usize {
        capacity::block6_slots(self.blocks6 as usize)
    }
}

impl FromStr for Sizes {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<Sizes, BadSize> {
        Sizes::default().with(text)
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sizes { routes4, routes6, words, blocks6, interfaces, counters } = self;
        write!(
            f,
            "routes4={routes4},routes6={routes6},words={words},blocks6={blocks6},interfaces={interfaces},\
             counters={counters}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_by_name_and_what_is_wrong_is_named() {
        let sizes: Sizes = "routes4=1000, interfaces=64".parse().unwrap();
        assert_eq!(sizes, Sizes { routes4: 1000, interfaces: 64, ..Sizes::default() });
        assert_eq!(sizes.to_string().parse(), Ok(sizes));
        assert_eq!("".parse(), Ok(Sizes::default()));
        let error = |text: &str| text.parse::<Sizes>().unwrap_err().to_string();
        assert_eq!(error("routes4"), "\"routes4\" is not NAME=ENTRIES");
        assert!(error("route4=1").starts_with("no map is called \"route4\""));
        assert_eq!(
            error("interfaces=100"),
            "interfaces=100 is not possible; a power of two from 16 to 65536"
        );
        assert_eq!(error("routes6=0"), "routes6=0 is not possible; 1 to 67108864");
        assert!(error("words=99999999999").ends_with("is not possible; 1024 to 67108864"));
    }
}
