//! The programs before the running kernel's verifier.

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{ProgramInfo, SchedClassifier, Xdp},
};
use manx_abi::global;

use super::{Guard, OBJECT, kfunc};

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

fn load(ebpf: &mut Ebpf, name: &str) -> ProgramInfo {
    let program = ebpf.program_mut(name).unwrap();
    if name == "uplink_xdp" || name == "jiffies" {
        let program: &mut Xdp = program.try_into().unwrap();
        program.load().unwrap();
        program.info().unwrap()
    } else {
        let program: &mut SchedClassifier = program.try_into().unwrap();
        program.load().unwrap();
        program.info().unwrap()
    }
}

#[test]
fn the_programs_load_within_their_budget_with_and_without_a_log_and_with_and_without_the_guard() {
    let (resolved, guard) = kfunc::resolve(OBJECT).unwrap();
    let mut ways = vec![(OBJECT, 0u32)];
    if guard == Guard::Available {
        ways.push((&resolved, 1));
    }
    for level in [VerifierLogLevel::DISABLE, VerifierLogLevel::DEBUG | VerifierLogLevel::STATS] {
        for (object, guard) in &ways {
            let mut loader = EbpfLoader::new();
            loader.btf(None).verifier_log_level(level).override_global(global::GUARD, guard, true);
            let mut ebpf = loader.load(object).unwrap();
            for (name, allowed) in budget() {
                let verified = load(&mut ebpf, name).verified_instruction_count().unwrap();
                println!("{name} with guard {guard}: {verified} of {allowed}");
                assert!(verified <= allowed, "{name}: {verified} instructions processed, {allowed} allowed");
            }
        }
    }
}
