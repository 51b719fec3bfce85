//! What goes to stdout and stderr. A reader that has seen enough (`manxctl … | head`) is no error.

use std::io::{self, Write};

use manx_net::ParsePrefixError;
use manx_resources::Problem;

/// Writes to stdout. Ends the program, without a word, when nobody reads any more.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}

/// An error with its causes, but for those that its words have named already.
pub fn error(error: &anyhow::Error) {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if message.is_empty() {
            message = cause;
        } else if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    complain("error", &message);
}

/// For arguments that an address may stand for, too.
pub fn no_prefix_or_address(error: &ParsePrefixError) -> String {
    match error {
        ParsePrefixError::Syntax(text) => {
            format!("\"{text}\" is neither an address nor a prefix; write 172.16.36.193 or 172.16.0.0/16")
        }
        error => error.to_string(),
    }
}

/// Problems as `error:` or `warning:` lines.
pub fn problems<'p>(problems: impl IntoIterator<Item = &'p Problem>) {
    for problem in problems {
        complain(if problem.is_error() { "error" } else { "warning" }, &problem.to_string());
    }
}

/// One line to stderr. Where stderr cannot be written either, there is nobody left to tell.
pub fn complain(severity: &str, message: &str) {
    let _untold = writeln!(io::stderr(), "{severity}: {message}");
}
