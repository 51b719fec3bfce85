//! Log lines on standard error, as text or JSON.

use std::io::{IsTerminal, stderr};

use anyhow::{Context, bail};
use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt};

use crate::cli::LogFormat;

pub fn start(format: LogFormat, level: &str) -> anyhow::Result<()> {
    let what = || {
        format!(
            "--log-level \"{level}\": write error, warn, info, debug or trace, or directives such as warn,manxd=debug"
        )
    };
    // A word alone that is no level names a module to the filter, and everything else falls silent.
    if let Some(word) = level.split(',').map(str::trim).find(|part| is_unknown(part)) {
        bail!("{}; \"{word}\" is no level", what());
    }
    let filter = EnvFilter::builder().parse(level).with_context(what)?;
    let lines = fmt().with_env_filter(filter).with_writer(stderr);
    let started = match format {
        LogFormat::Text => lines.with_ansi(stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))
}

fn is_unknown(part: &str) -> bool {
    !part.is_empty() && !part.contains(['=', '[']) && part.parse::<LevelFilter>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_does_not_exist_is_no_module_to_be_silent_about() {
        for good in ["info", "WARN", "off", "manxd=debug", "[span]", ""] {
            assert!(!is_unknown(good), "{good}");
        }
        for wrong in ["loud", "manxd", "warning"] {
            assert!(is_unknown(wrong), "{wrong}");
        }
    }
}
