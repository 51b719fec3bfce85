//! Lines with codes: a code that is the last one's again is left out, a hyphen behind it says that more comes, and a
//! space that this was all.

use std::fmt::Write;

/// An answer under way. What is written can be taken out at any time, so that a long one needs no memory.
#[derive(Debug, Default)]
pub struct Reply {
    text: String,
    last: Option<u16>,
}

impl Reply {
    /// What a client reads first.
    pub fn greeting(version: &str) -> String {
        format!("0001 BIRD {version} ready.\n")
    }

    pub fn new() -> Reply {
        Reply::default()
    }

    /// A line with more behind it.
    pub fn line(&mut self, code: u16, text: &str) {
        // What a peer says must not look like a line of ours.
        let text = text.replace(['\n', '\r'], " ");
        let _ = match self.last {
            Some(last) if last == code => writeln!(self.text, " {text}"),
            _ => writeln!(self.text, "{code:04}-{text}"),
        };
        self.last = Some(code);
    }

    /// A line that belongs to the one before, whatever its code.
    pub fn more(&mut self, text: &str) {
        let text = text.replace(['\n', '\r'], " ");
        let _ = writeln!(self.text, " {text}");
    }

    /// The last line.
    pub fn end(mut self, code: u16, text: &str) -> String {
        let text = text.replace(['\n', '\r'], " ");
        let _ = writeln!(self.text, "{code:04} {text}");
        self.text
    }

    /// What was written since this was called last.
    pub fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_stands_where_it_changes_and_a_space_behind_the_last() {
        let mut reply = Reply::new();
        reply.line(1011, "Router ID is 10.0.0.1");
        reply.line(1011, "Last\nreboot");
        assert_eq!(reply.take(), "1011-Router ID is 10.0.0.1\n Last reboot\n");
        reply.line(1011, "again");
        reply.line(1012, "other");
        assert_eq!(reply.end(0, ""), " again\n1012-other\n0000 \n");
        assert_eq!(Reply::greeting("v1"), "0001 BIRD v1 ready.\n");
    }
}
