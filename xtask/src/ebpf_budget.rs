//! What the programs may cost: instructions with all that they call, and octets of stack along the deepest chain of
//! calls. `ebpf/budget` says how much; the kernel's limits are a million verified instructions and 512 octets. What
//! the verifier processes a test of the dataplane compares with the same file, by loading the programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, ensure};
use aya_obj::{Object, generated::bpf_insn};

use crate::tree;

/// A line of `ebpf/budget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub instructions: usize,
    pub stack: usize,
    pub verified: usize,
}

/// What a program of the object costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    pub instructions: usize,
    pub stack: usize,
}

pub fn budget() -> Result<BTreeMap<String, Budget>> {
    let path = tree::root().join("ebpf/budget");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not a table of budgets", path.display()))
}

fn parse(text: &str) -> Result<BTreeMap<String, Budget>> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .map(|line| {
            let mut columns = line.split_whitespace();
            let name = columns.next().with_context(|| format!("no name in {line:?}"))?;
            let mut number = || -> Result<usize> {
                let column = columns.next().with_context(|| format!("a number is missing in {line:?}"))?;
                column.parse().with_context(|| format!("{column:?} in {line:?} is no number"))
            };
            let budget = Budget { instructions: number()?, stack: number()?, verified: number()? };
            Ok((name.to_owned(), budget))
        })
        .collect()
}

pub fn costs(object: &[u8]) -> Result<BTreeMap<String, Cost>> {
    let mut object = Object::parse(object)?;
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    // Behind each program's own instructions come those of the functions that it calls.
    object.relocate_calls(&sections)?;
    let programs = object.programs.iter().map(|(name, program)| {
        let function = object.functions.get(&program.function_key());
        let function = function.with_context(|| format!("{name} has no instructions"))?;
        let code = &function.instructions;
        Ok((name.clone(), Cost { instructions: code.len(), stack: stack(code)? }))
    });
    programs.collect()
}

/// No program is without a budget, and none costs more than it may.
pub fn check(costs: &BTreeMap<String, Cost>, budget: &BTreeMap<String, Budget>) -> Result<()> {
    for (name, cost) in costs {
        let budget = budget.get(name).with_context(|| format!("ebpf/budget has no line for {name}"))?;
        ensure!(
            cost.instructions <= budget.instructions && cost.stack <= budget.stack,
            "{name} has {} instructions and {} octets of stack; ebpf/budget allows {} and {}: make it smaller, or \
             raise the budget and say why in the commit",
            cost.instructions,
            cost.stack,
            budget.instructions,
            budget.stack
        );
    }
    Ok(())
}

const CALL: u8 = 0x85;
const MOVE_64: u8 = 0xbf;
const ADD_64: u8 = 0x07;
/// Source register of a call to one of our own functions.
const PSEUDO_CALL: u8 = 1;
const FRAME_POINTER: u8 = 10;

/// Octets of the deepest chain of calls, each function's rounded up as the verifier does where there is a JIT.
fn stack(code: &[bpf_insn]) -> Result<usize> {
    let calls: Vec<(usize, usize)> = code
        .iter()
        .enumerate()
        .filter(|(_, instruction)| instruction.code == CALL && instruction.src_reg() == PSEUDO_CALL)
        .map(|(at, instruction)| {
            let to = at as i64 + 1 + i64::from(instruction.imm);
            Ok((at, usize::try_from(to).context("a call leads before the program")?))
        })
        .collect::<Result<_>>()?;
    let starts: BTreeSet<usize> = calls.iter().map(|(_, to)| *to).chain([0]).collect();
    deepest(code, &calls, &starts, 0, 0)
}

/// The kernel allows eight frames.
const FRAMES: usize = 8;

fn deepest(
    code: &[bpf_insn],
    calls: &[(usize, usize)],
    starts: &BTreeSet<usize>,
    start: usize,
    depth: usize,
) -> Result<usize> {
    ensure!(depth < FRAMES, "the chain of calls has more than {FRAMES} functions");
    let end = starts.range(start + 1..).next().copied().unwrap_or(code.len());
    let own = frame(code.get(start..end).context("a call leads behind the program")?);
    let mut below = 0;
    for (at, to) in calls {
        if (start..end).contains(at) {
            below = below.max(deepest(code, calls, starts, *to, depth + 1)?);
        }
    }
    Ok(own.max(1).next_multiple_of(16) + below)
}

/// How far below its frame pointer a function reads, writes, or points.
fn frame(code: &[bpf_insn]) -> usize {
    let mut lowest = 0i64;
    let mut before: Option<&bpf_insn> = None;
    for instruction in code {
        // Classes LDX, ST and STX.
        let below = match instruction.code & 0x07 {
            1 if instruction.src_reg() == FRAME_POINTER => i64::from(instruction.off),
            2 | 3 if instruction.dst_reg() == FRAME_POINTER => i64::from(instruction.off),
            _ if instruction.code == ADD_64
                && before.is_some_and(|moved| {
                    moved.code == MOVE_64
                        && moved.src_reg() == FRAME_POINTER
                        && moved.dst_reg() == instruction.dst_reg()
                }) =>
            {
                i64::from(instruction.imm)
            }
            _ => 0,
        };
        lowest = lowest.min(below);
        before = Some(instruction);
    }
    lowest.unsigned_abs() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, destination: u8, source: u8, off: i16, imm: i32) -> bpf_insn {
        // Four bits each.
        let registers = destination | source << 4;
        bpf_insn {
            code,
            _bitfield_align_1: [],
            _bitfield_1: aya_obj::generated::__BindgenBitfieldUnit::new([registers]),
            off,
            imm,
        }
    }

    const EXIT: u8 = 0x95;

    #[test]
    fn the_stack_is_that_of_the_deepest_chain_of_calls() {
        let code = [
            // Writes 8 below, calls the function at 3.
            instruction(0x7b, FRAME_POINTER, 1, -8, 0),
            instruction(CALL, 0, PSEUDO_CALL, 0, 1),
            instruction(EXIT, 0, 0, 0, 0),
            // Points 40 below, calls nobody.
            instruction(MOVE_64, 2, FRAME_POINTER, 0, 0),
            instruction(ADD_64, 2, 0, 0, -40),
            instruction(EXIT, 0, 0, 0, 0),
        ];
        assert_eq!(stack(&code).unwrap(), 16 + 48);
    }

    #[test]
    fn a_program_over_its_budget_or_without_one_is_named() {
        let budget = parse("# program instructions stack verified\npod_tc 10 64 100\n").unwrap();
        let costs =
            |name: &str, instructions| BTreeMap::from([(name.to_owned(), Cost { instructions, stack: 64 })]);
        assert!(check(&costs("pod_tc", 10), &budget).is_ok());
        assert!(check(&costs("pod_tc", 11), &budget).unwrap_err().to_string().contains("pod_tc has 11"));
        assert!(check(&costs("other", 1), &budget).unwrap_err().to_string().contains("no line for other"));
        assert!(parse("pod_tc ten 64 100").is_err());
    }
}
