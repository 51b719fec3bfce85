//! Other programs' answers, within a time and a size.

use std::{
    io::Read,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const TIME: Duration = Duration::from_secs(30);
const SIZE: u64 = 64 << 20;
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What it prints, or why it does not. Complaints stand behind what was printed nevertheless.
pub fn output(command: &mut Command) -> Result<Vec<u8>, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("cannot run {program}: {error}"))?;
    let read = |stream: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(stream) = stream {
                let _cut_short = stream.take(SIZE).read_to_end(&mut text);
            }
            text
        })
    };
    let said = read(child.stdout.take().map(|stream| Box::new(stream) as _));
    let complaint = read(child.stderr.take().map(|stream| Box::new(stream) as _));
    let deadline = Instant::now() + TIME;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(LOOK_AGAIN),
            Ok(None) => break Err(format!("{program} has not ended after {} s", TIME.as_secs())),
            Err(error) => break Err(error.to_string()),
        }
    };
    if status.is_err() {
        // It may have ended in this very moment.
        let _ = child.kill();
        let _ = child.wait();
    }
    let (mut said, complaint) = (said.join().unwrap_or_default(), complaint.join().unwrap_or_default());
    if !status?.success() && said.is_empty() {
        return Err(String::from_utf8_lossy(&complaint).trim().replace('\n', "; "));
    }
    if !complaint.is_empty() {
        said.extend_from_slice(b"\n# on standard error:\n");
        said.extend_from_slice(&complaint);
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Result<Vec<u8>, String> {
        output(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn what_a_program_prints_and_what_it_complains_of_are_kept() {
        assert_eq!(sh("echo a").unwrap(), b"a\n");
        assert_eq!(sh("echo a; echo b >&2; exit 3").unwrap(), b"a\n\n# on standard error:\nb\n");
        assert_eq!(sh("echo b >&2; exit 3").unwrap_err(), "b");
        assert!(
            output(&mut Command::new("/nonexistent")).unwrap_err().starts_with("cannot run /nonexistent: ")
        );
        // More than a pipe holds, on both.
        let long = sh("head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2").unwrap();
        assert!(long.len() > 600_000);
    }
}
