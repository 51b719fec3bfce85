//! What a lookup costs against the number of routes: by the index with the trie behind it, as the programs do it and by
//! their own code; by the trie alone; and by the kernel's FIB. What the generator of addresses costs is taken off each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray},
    programs::{TestRun, TestRunOptions, Xdp},
};
use manx_abi::{ABI_VERSION, global, map};
use manx_dataplane::{
    ebpf::{EbpfSink, Mode, Options, PoolSpec, Sizes},
    route::{Action, BlackholeKind, NextHop, Route},
};
use manx_net::Prefix;
use manx_tests::netns::Netns;

use super::{inject::steady, netlink, node};

/// In one run of a program, as in `ebpf/src/lookup.rs`.
const LOOKUPS: u32 = 32;
/// A block has so many addresses in both families.
const BLOCK_BITS: u8 = 6;
/// Blocks that hot destinations lie in.
const HOT: u32 = 64;
const BASE4: Ipv4Addr = Ipv4Addr::new(16, 0, 0, 0);
const BASE6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 0);
/// Blackholes far from the addresses that are looked up.
const ELSEWHERE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const ELSEWHERE6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// One route for each block of a pool.
    Blocks,
    /// Of eight blocks one with a single address of another node inside, and one that is two halves.
    Mixed,
    /// The same, but in no pool, and every part of the addresses (`manx_abi::outside`) has a blackhole: all is the trie's.
    Outside,
    /// The same with one blackhole, elsewhere.
    Elsewhere,
    /// The same without it: nothing there is carried, so nobody asks.
    Unheeded,
}

impl Table {
    pub const ALL: [Table; 5] =
        [Table::Blocks, Table::Mixed, Table::Outside, Table::Elsewhere, Table::Unheeded];

    pub fn title(self) -> &'static str {
        match self {
            Table::Blocks => "blocks of a pool",
            Table::Mixed => "mixed lengths in a pool",
            Table::Outside => "mixed lengths outside of pools, a blackhole in every /16 (IPv6: /32)",
            Table::Elsewhere => "mixed lengths outside of pools, and a blackhole elsewhere",
            Table::Unheeded => "mixed lengths outside of pools, all of them ways",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    pub v6: bool,
    pub table: Table,
    pub blocks: u32,
    /// Destinations in 64 blocks only.
    pub hot: bool,
}

/// Nanoseconds of a lookup above the generator, one of each round.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    pub routes: usize,
    pub index: Vec<f64>,
    pub trie: Vec<f64>,
    pub fib: Vec<f64>,
}

pub type Results = BTreeMap<Case, Costs>;

pub fn measure(object: &Path, cpu: usize, counts: &[u32], rounds: usize) -> Result<Results> {
    let mut results = Results::new();
    for v6 in [false, true] {
        for table in Table::ALL {
            for blocks in counts.iter().copied() {
                // What is irregular is measured where it is few and where it is many.
                if table != Table::Blocks && !matches!(blocks, 1_000 | 100_000) {
                    continue;
                }
                let subject = Subject::new(object, v6, table, blocks)
                    .with_context(|| format!("{}, {blocks} blocks", table.title()))?;
                for hot in [false, true] {
                    let costs = subject
                        .costs(hot, cpu, rounds)
                        .with_context(|| format!("{}, {blocks} blocks, IPv6: {v6}", table.title()))?;
                    results.insert(Case { v6, table, blocks, hot }, costs);
                }
            }
        }
    }
    Ok(results)
}

/// A namespace with the routes in its FIB and in its maps, and the programs on those maps.
struct Subject {
    ns: Netns,
    v6: bool,
    table: Table,
    blocks: u32,
    routes: usize,
    ifindex: u32,
    /// Pins would keep the maps; the sink keeps what it knows of them.
    _sink: EbpfSink,
    object: Vec<u8>,
}

fn prefixes(v6: bool, table: Table, blocks: u32) -> Vec<(IpAddr, u8)> {
    let (length, base) =
        if v6 { (128 - BLOCK_BITS, 0) } else { (32 - BLOCK_BITS, u64::from(BASE4.to_bits())) };
    let at = |offset: u64| -> IpAddr {
        // Within the pool, whose low half is all that varies.
        let low = base + offset;
        if v6 {
            Ipv6Addr::from_bits(BASE6.to_bits() + u128::from(low)).into()
        } else {
            Ipv4Addr::from_bits(low as u32).into()
        }
    };
    let mut prefixes = Vec::new();
    for block in 0..u64::from(blocks) {
        let start = block << BLOCK_BITS;
        match (table, block % 8) {
            (Table::Mixed | Table::Outside | Table::Elsewhere | Table::Unheeded, 0) => {
                prefixes.push((at(start), length));
                prefixes.push((at(start + 7), length + BLOCK_BITS));
            }
            (Table::Mixed | Table::Outside | Table::Elsewhere | Table::Unheeded, 1) => {
                prefixes.push((at(start), length + 1));
                prefixes.push((at(start + 32), length + 1));
            }
            _ => prefixes.push((at(start), length)),
        }
    }
    prefixes
}

/// The parts in which the addresses lie, whole: a blackhole that every other route is more specific than.
fn parts(prefixes: &[(IpAddr, u8)]) -> impl Iterator<Item = Prefix> {
    let part = |(address, _): &(IpAddr, u8)| match address {
        IpAddr::V4(address) => Prefix::new(Ipv4Addr::from_bits(address.to_bits() & !0 << 16).into(), 16),
        IpAddr::V6(address) => Prefix::new(Ipv6Addr::from_bits(address.to_bits() & !0 << 96).into(), 32),
    };
    prefixes.iter().filter_map(part).collect::<BTreeSet<_>>().into_iter()
}

impl Subject {
    fn new(object: &Path, v6: bool, table: Table, blocks: u32) -> Result<Subject> {
        let ns = node::host("lookups")?;
        let (address, gateway): (&str, IpAddr) = if v6 {
            ("fdff:1::1/64", "fdff:1::2".parse()?)
        } else {
            ("192.168.80.1/24", "192.168.80.2".parse()?)
        };
        let nodad = if v6 { " nodad" } else { "" };
        node::batch(
            &ns,
            &format!(
                "link add up0 type veth peer name up1\nlink set up0 up\nlink set up1 up\naddr add {address} dev up0{nodad}"
            ),
        )?;
        let ifindex = node::index(&ns, "up0")?;
        let prefixes = prefixes(v6, table, blocks);
        let mut routes: Vec<Route> = prefixes
            .iter()
            .filter_map(|(address, length)| {
                let prefix = Prefix::new(*address, *length)?;
                Some(Route { prefix, action: Action::Via(vec![NextHop { gateway, ifindex }]) })
            })
            .collect();
        let count = routes.len();
        let refused: Vec<Prefix> = match table {
            Table::Outside => parts(&prefixes).collect(),
            Table::Elsewhere => {
                Prefix::new(if v6 { ELSEWHERE6.into() } else { ELSEWHERE4.into() }, 32).into_iter().collect()
            }
            _ => Vec::new(),
        };
        let blackhole = |prefix| Route { prefix, action: Action::Blackhole(BlackholeKind::Explicit) };
        routes.extend(refused.into_iter().map(blackhole));
        // At least a kilobyte of words, and pages for the blocks that have one.
        let entries = (routes.len() as u32).max(1 << 16);
        let words = (blocks.next_power_of_two() * 10).clamp(1 << 20, 1 << 25);
        let sizes = Sizes { routes4: entries, routes6: entries, words, blocks6: entries, ..Sizes::default() };
        let pool_length = if v6 { 128 - BLOCK_BITS } else { 32 - BLOCK_BITS }
            - blocks.next_power_of_two().trailing_zeros() as u8;
        let base = if v6 { IpAddr::from(BASE6) } else { BASE4.into() };
        let pool = PoolSpec {
            name: "blocks".to_owned(),
            prefix: Prefix::new(base, pool_length).context("the pool")?,
            block_len: if v6 { 128 - BLOCK_BITS } else { 32 - BLOCK_BITS },
            mode: Mode::Unguarded,
        };
        let sink = ns.run(move || {
            netlink::write(&prefixes, gateway, ifindex, netlink::CREATE)?;
            let (mut sink, _) = EbpfSink::open(&Options { sizes, ..Options::default() })?;
            if matches!(table, Table::Blocks | Table::Mixed) {
                let not_indexed = sink.set_pools(&[pool])?;
                ensure!(not_indexed.is_empty(), "the pool is not indexed: {not_indexed:?}");
            }
            let applied = sink.apply(&routes, &[])?;
            ensure!(applied.refused.is_empty(), "the maps refused {:?}", applied.refused.first());
            Ok(sink)
        })?;
        Ok(Subject { ns, v6, table, blocks, routes: count, ifindex, _sink: sink, object: fs::read(object)? })
    }

    fn costs(&self, hot: bool, cpu: usize, rounds: usize) -> Result<Costs> {
        let choices = if hot { HOT.min(self.blocks) } else { self.blocks };
        let stride = self.blocks / choices;
        let (high, low) = if self.v6 {
            let bits = BASE6.to_bits();
            ((bits >> 64) as u64, bits as u64)
        } else {
            (0, u64::from(BASE4.to_bits()))
        };
        let mut question = [0; 32];
        question[..8].copy_from_slice(&high.to_ne_bytes());
        question[8..16].copy_from_slice(&low.to_ne_bytes());
        for (place, word) in [choices, stride, self.ifindex].into_iter().enumerate() {
            let at = 16 + place * 4;
            question[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        let (object, v6, ifindex, routes) = (self.object.clone(), self.v6, self.ifindex, self.routes);
        let is_asked = !matches!(self.table, Table::Elsewhere | Table::Unheeded);
        self.ns.run(move || {
            steady(cpu)?;
            let mut programs = Programs::load(&object, v6, question)?;
            let mut costs = Costs { routes, ..Costs::default() };
            for round in 0..=rounds {
                let nothing = programs.lookup("nothing", ifindex, 8000, true)?;
                let index = programs.lookup("index", ifindex, 3200, is_asked)? - nothing;
                let trie = programs.lookup("trie", ifindex, 1600, true)? - nothing;
                let fib = programs.lookup("fib", ifindex, 1600, true)? - nothing;
                // The first warms caches up.
                if round > 0 {
                    costs.index.push(index);
                    costs.trie.push(trie);
                    costs.fib.push(fib);
                }
            }
            Ok(costs)
        })
    }
}

fn pin(name: &str) -> PathBuf {
    Path::new("/sys/fs/bpf/manx").join(format!("v{ABI_VERSION}")).join(name)
}

struct Programs {
    ebpf: Ebpf,
    family: char,
}

impl Programs {
    /// On the maps that are pinned here.
    fn load(object: &[u8], v6: bool, question: [u8; 32]) -> Result<Programs> {
        // Slots are found by the table's own size.
        let blocks6 = MapData::from_pin(pin(map::BLOCKS6)).context("the blocks of IPv6 pools")?;
        let mask = blocks6.info()?.max_entries() - 1;
        let mut loader = EbpfLoader::new();
        loader.btf(None).override_global(global::BLOCK6_MASK, &mask, true);
        for name in map::ALL {
            loader.map_pin_path(name, pin(name));
        }
        let mut ebpf = loader.load(object).context("the lookups")?;
        let map = ebpf.map_mut("QUESTION").context("no map QUESTION")?;
        Array::<_, [u8; 32]>::try_from(map)?.set(0, question, 0)?;
        let family = if v6 { '6' } else { '4' };
        for name in ["nothing", "index", "trie", "fib"] {
            let program: &mut Xdp =
                ebpf.program_mut(&format!("{name}{family}")).context("no such program")?.try_into()?;
            program.load()?;
        }
        Ok(Programs { ebpf, family })
    }

    /// Nanoseconds of one lookup. All of them must have found a way, or none.
    fn lookup(&mut self, name: &str, ifindex: u32, runs: u32, finds: bool) -> Result<f64> {
        let before = self.found()?;
        let program: &Xdp =
            self.ebpf.program(&format!("{name}{}", self.family)).context("no such program")?.try_into()?;
        let (data, end, meta, queue, egress) = (0u32, 64u32, 0u32, 0u32, 0u32);
        let context: Vec<u8> =
            [data, end, meta, ifindex, queue, egress].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let frame = [0; 64];
        let done = program.test_run(TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(&context),
            repeat: runs,
            ..TestRunOptions::new()
        })?;
        let (found, asked) = (self.found()? - before, u64::from(runs) * u64::from(LOOKUPS));
        let wanted = if finds { asked } else { 0 };
        ensure!(found == wanted, "{name}: of {asked} lookups {found} found a way, not {wanted}");
        ensure!(done.duration > Duration::ZERO, "{name}: no time was measured");
        Ok(done.duration.as_nanos() as f64 / f64::from(LOOKUPS))
    }

    fn found(&self) -> Result<u64> {
        let map = self.ebpf.map("FOUND").context("no map FOUND")?;
        let counts: PerCpuArray<_, u64> = PerCpuArray::try_from(map)?;
        Ok(counts.get(&0, 0)?.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lookup_finds_its_way_by_the_index_the_trie_and_the_fib() {
        let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/manx-ebpf-lookup.o");
        for v6 in [false, true] {
            for table in [Table::Mixed, Table::Outside, Table::Elsewhere, Table::Unheeded] {
                let subject = Subject::new(&object, v6, table, 64).unwrap();
                let costs = subject.costs(false, 0, 1).unwrap();
                assert_eq!((costs.index.len(), costs.trie.len(), costs.fib.len()), (1, 1, 1));
            }
        }
    }

    #[test]
    fn every_address_of_every_block_has_a_route() {
        for v6 in [false, true] {
            for table in Table::ALL {
                let prefixes: Vec<Prefix> = prefixes(v6, table, 16)
                    .into_iter()
                    .map(|(address, length)| Prefix::new(address, length).unwrap())
                    .collect();
                for offset in 0..16 << BLOCK_BITS {
                    let address: IpAddr = if v6 {
                        Ipv6Addr::from_bits(BASE6.to_bits() + offset).into()
                    } else {
                        Ipv4Addr::from_bits(BASE4.to_bits() + offset as u32).into()
                    };
                    let host = Prefix::new(address, if v6 { 128 } else { 32 }).unwrap();
                    assert!(prefixes.iter().any(|prefix| prefix.covers(host)), "{address}");
                }
            }
        }
    }
}
