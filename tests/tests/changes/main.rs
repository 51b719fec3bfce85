//! Whatever the resources make of the topology, no packet between pods that live is lost: the article's walk to the
//! reflector and back to the mesh, and thirty nodes that change reflectors, under steady traffic. `MANX_RUNS` says how
//! often; every second time no step waits for the one before. BIRD walks the same way, and what it loses is shown.

mod soak;
mod thirty;
mod three;
mod watched;

use std::env;

use anyhow::{Context, Result};

/// How often a walk is walked.
fn runs(otherwise: usize) -> Result<usize> {
    match env::var("MANX_RUNS") {
        Ok(text) => text.parse().context("MANX_RUNS is a number"),
        Err(_) => Ok(otherwise),
    }
}
