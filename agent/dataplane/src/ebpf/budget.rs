//! The programs before the running kernel's verifier.

use std::os::fd::AsFd;

use aya::{
    EbpfLoader,
    maps::{Map, MapData},
};
use manx_abi::{global, map};

use super::{OBJECT, kfunc, program::Code};

/// BPF_LOG_LEVEL1: the path that the verifier is on.
const PATH: u32 = 1;
/// BPF_LOG_STATS: how many instructions there were.
const STATS: u32 = 4;
const LOG: usize = 16 << 20;

/// Name and allowed number of processed instructions, by program.
fn budget() -> Vec<(&'static str, u32)> {
    let table = include_str!("../../../../ebpf/budget");
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    let line = |line: &'static str| {
        let mut columns = line.split_whitespace();
        Some((columns.next()?, columns.nth(2)?.parse().ok()?))
    };
    lines.map(|text| line(text).unwrap()).collect()
}

/// What the verifier counted, as its log ends.
fn processed(log: &[u8]) -> u32 {
    let end = log.iter().position(|octet| *octet == 0).unwrap();
    let text = std::str::from_utf8(&log[..end]).unwrap();
    let count = text.rsplit("processed ").next().unwrap();
    count.split(' ').next().unwrap().parse().unwrap()
}

fn data(map: &Map) -> &MapData {
    match map {
        Map::Array(data) | Map::HashMap(data) | Map::LpmTrie(data) | Map::PerCpuArray(data) => data,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_programs_load_within_their_budget_with_and_without_a_log_and_with_and_without_the_guard() {
    let resolved = kfunc::resolve(OBJECT).unwrap();
    let mut ways = vec![(OBJECT, 0u32, 0u32)];
    if resolved.generations {
        ways.push((&resolved.object, 0, 1));
    }
    if resolved.guard.is_available() {
        ways.push((&resolved.object, 1, resolved.generations.into()));
    }
    let ebpf = EbpfLoader::new().btf(None).load(OBJECT).unwrap();
    let maps: Vec<_> =
        map::ALL.iter().map(|name| (*name, data(ebpf.map(name).unwrap()).fd().as_fd())).collect();
    let mut log = vec![0u8; LOG];
    for (object, guard, generations) in ways {
        let globals = [(global::GUARD, guard), (global::GENERATIONS, generations)];
        let code = Code { object, globals: &globals, maps: &maps, module: resolved.module() };
        let code = code.prepare().unwrap();
        for (name, allowed) in budget() {
            code.verify(name, 0, &mut []).unwrap();
            for level in [STATS, PATH | STATS] {
                code.verify(name, level, &mut log).unwrap();
                let verified = processed(&log);
                println!("{name} with guard {guard}, generations {generations}: {verified} of {allowed}");
                assert!(verified <= allowed, "{name}: {verified} instructions processed, {allowed} allowed");
            }
        }
    }
}
