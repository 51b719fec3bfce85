//! The README's first command, as a newcomer runs it but in a pipe.

use std::{
    env,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use manx_tests::programs::workspace;

fn demo(arguments: &[&str], settings: &[(&str, &str)]) -> Result<(Output, String)> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Of this test's crate; what asks for it (ring) would be built anew.
    cargo.env_remove("CARGO_MANIFEST_DIR");
    cargo.current_dir(workspace()).args(["xtask", "demo"]).args(arguments).envs(settings.iter().copied());
    let output = cargo.output().context("cannot run cargo")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((output, text))
}

/// The last line: how many checks passed and how many failed.
fn summary(text: &str) -> Result<(usize, usize)> {
    let last = text.lines().rev().find(|line| line.contains(" checks passed, ")).context("no summary")?;
    let mut numbers = last.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok());
    Ok((numbers.next().context("no number")?, numbers.next().context("no second number")?))
}

#[test]
fn the_whole_story_passes_in_plain_text_and_answers_both_questions() -> Result<()> {
    let (output, text) = demo(&[], &[])?;
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let (passed, failed) = summary(&text)?;
    ensure!(passed >= 65 && failed == 0, "{passed} passed, {failed} failed");
    ensure!(!text.contains('\u{1b}'), "colours in a pipe");
    for part in [
        "1  Full mesh",
        "2.1  The mesh is switched off",
        "2.2  km01 becomes a route reflector",
        "2.3  Every other node peers with km01",
        "3.1  Why have the workers no route to km01?",
        "3.2  Who is the server",
        "the pods stay connected",
        "km01 owns no block, so it has nothing to advertise",
        "kw01 is its client",
        "bpftool map dump pinned",
    ] {
        ensure!(text.contains(part), "\"{part}\" is not in it:\n{text}");
    }
    Ok(())
}

#[test]
fn a_check_that_fails_is_counted_and_ends_in_exit_code_1() -> Result<()> {
    // Without the fast path the packets arrive, but not by eBPF.
    let (output, text) = demo(&[], &[("MANX_FAST_PATH", "off")])?;
    ensure!(output.status.code() == Some(1), "{:?}", output.status);
    let (_, failed) = summary(&text)?;
    ensure!(failed == 4 && text.matches("FAILED").count() >= 4, "{text}");
    Ok(())
}

#[test]
fn the_same_story_passes_with_bird_as_the_reflector() -> Result<()> {
    let (output, text) = demo(&["--bird", "km01"], &[])?;
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let (passed, failed) = summary(&text)?;
    ensure!(passed >= 55 && failed == 0, "{passed} passed, {failed} failed");
    Ok(())
}
