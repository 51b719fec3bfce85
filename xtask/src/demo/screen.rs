//! What the audience sees: sections, commands with their output as it is, and checks in one column. Coloured on a
//! terminal, plain in a pipe or where NO_COLOR is set; what takes long says so while it does.

use std::{
    env,
    io::{IsTerminal, Write, stdout},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use manx_tests::{netns::Netns, process::Finished};

/// Text is wrapped here; output of commands never is.
const WIDTH: usize = 100;
/// Waiting is shown when it takes longer.
const SHOWN_AFTER: Duration = Duration::from_millis(800);
/// In a pipe a line can only be added.
const PIPE_INTERVAL: Duration = Duration::from_secs(10);

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "1;31";
const GREEN: &str = "32";
const CYAN: &str = "1;36";

#[derive(Debug)]
pub struct Screen {
    colour: bool,
    terminal: bool,
    passed: usize,
    failed: Vec<String>,
}

impl Screen {
    pub fn new(no_color: bool) -> Screen {
        let terminal = stdout().is_terminal();
        // https://no-color.org: any value but the empty one.
        let unwanted = no_color || env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Screen { colour: terminal && !unwanted, terminal, passed: 0, failed: Vec::new() }
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn title(&self, text: &str) {
        println!("{}", self.paint(BOLD, text));
    }

    pub fn section(&self, heading: &str) {
        let heading = format!("── {heading} ");
        let rule = "─".repeat(WIDTH.saturating_sub(heading.chars().count()));
        println!("\n{}", self.paint(CYAN, &format!("{heading}{rule}")));
    }

    /// A paragraph, wrapped.
    pub fn say(&self, text: &str) {
        println!();
        for line in wrap(text, WIDTH) {
            println!("{line}");
        }
    }

    /// Lines that are not to be wrapped, indented.
    pub fn lines(&self, lines: &[String]) {
        for line in lines {
            println!("  {line}");
        }
    }

    /// A command as it is typed.
    pub fn prompt(&self, place: &str, line: &str) {
        println!("\n{} {}", self.paint(CYAN, &format!("{place} $")), self.paint(BOLD, line));
    }

    /// Runs `script` at `place` and shows both. The output is shown as it is, whatever the exit code.
    pub fn run(&self, place: &str, ns: &Netns, script: &str) -> Result<Finished> {
        self.prompt(place, script);
        let finished = self.waiting(script, || ns.shell(script))?;
        print!("{}{}", finished.stdout, finished.stderr);
        Ok(finished)
    }

    /// A line for `what`, and one more in the count of passed or failed.
    pub fn check<T>(&mut self, what: &str, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.passed += 1;
                println!("  {}      {what}", self.paint(GREEN, "ok"));
                Some(value)
            }
            Err(e) => {
                println!("  {}  {what}", self.paint(RED, "FAILED"));
                for line in format!("{e:#}").lines() {
                    println!("          {}", self.paint(DIM, line));
                }
                self.failed.push(what.to_owned());
                None
            }
        }
    }

    /// Does `work`, and shows on the way that it is still at it.
    pub fn waiting<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let (done, ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || self.tick(what, &ended));
            let value = work();
            drop(done);
            value
        })
    }

    fn tick(&self, what: &str, ended: &mpsc::Receiver<()>) {
        let started = Instant::now();
        let (first, pause) = if self.terminal {
            (SHOWN_AFTER, Duration::from_millis(200))
        } else {
            (PIPE_INTERVAL, PIPE_INTERVAL)
        };
        let mut wait = first;
        let mut shown = false;
        while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            wait = pause;
            shown = true;
            let line = format!("{what} … {} s", started.elapsed().as_secs());
            if self.terminal {
                print!("\r\x1b[K  {}", self.paint(DIM, &line));
                // A terminal that cannot be written to is no reason to stop.
                let _ = stdout().flush();
            } else {
                println!("  {line}");
            }
        }
        if shown && self.terminal {
            print!("\r\x1b[K");
            let _ = stdout().flush();
        }
    }

    /// The last line; true if nothing failed.
    pub fn summary(&self, took: Duration) -> bool {
        let text = format!("{} checks passed, {} failed", self.passed, self.failed.len());
        let style = if self.failed.is_empty() { GREEN } else { RED };
        println!("\n{} in {:.1} s", self.paint(style, &text), took.as_secs_f32());
        for what in &self.failed {
            println!("  {}  {what}", self.paint(RED, "FAILED"));
        }
        self.failed.is_empty()
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a first line, and none is taken away");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_between_words_and_a_long_word_is_left_whole() {
        assert_eq!(wrap("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrap("a incomprehensible b", 5), ["a", "incomprehensible", "b"]);
    }
}
