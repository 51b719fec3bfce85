//! Waiting for what has to come true, with a deadline and a message of what was awaited.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

const PAUSE: Duration = Duration::from_millis(5);
/// By how much everything takes longer here, as on an emulated processor: a number.
const SLOWER: &str = "MANX_SLOWER";

/// What limits and the rests between packets are multiplied by; 1 where nobody says otherwise.
pub fn slower() -> u32 {
    env::var(SLOWER).ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Looks again and again until `look` gives a value. After `limit` the last thing that was in the way is the error.
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let limit = limit * slower();
    let deadline = Instant::now() + limit;
    loop {
        let too_late = Instant::now() >= deadline;
        match look() {
            Ok(value) => return Ok(value),
            Err(e) if too_late => return Err(e).with_context(|| format!("waited {limit:?}: {what}")),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Looks again and again for `period`; the first time that `look` fails is the error.
pub fn throughout(what: &str, period: Duration, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < period {
        look().with_context(|| format!("after {:?}: {what}", started.elapsed()))?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[test]
    fn the_last_obstacle_and_what_was_awaited_are_named() {
        let mut looks = 0;
        let result: Result<()> = eventually("the moon", Duration::from_millis(30), || {
            looks += 1;
            anyhow::bail!("cloud {looks}")
        });
        let text = format!("{:#}", result.unwrap_err());
        assert!(text.starts_with("waited 30ms: the moon: cloud ") && looks > 1, "{text}");
    }

    #[test]
    fn it_returns_as_soon_as_it_is_true() {
        let started = Instant::now();
        let mut looks = 0;
        eventually("three looks", Duration::from_secs(60), || {
            looks += 1;
            ensure!(looks == 3);
            Ok(())
        })
        .unwrap();
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
