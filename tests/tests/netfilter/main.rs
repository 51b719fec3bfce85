//! What netfilter does is not undone: Services, masquerading and policies as kube-proxy and Calico write them into
//! nftables, under connections whose every answer is checked. Each scenario runs by the stack alone, which shows that
//! the scenario is right, and with the fast path as Auto chooses it, which is guarded; there the programs' counters
//! say what they carried and what they left alone. Where a scenario counts, `MANX_RUNS` makes it count ten times further.

use std::env;

/// Every scenario of a module, in both modes.
macro_rules! both_ways {
    ($($scenario:ident),+ $(,)?) => {
        mod by_the_stack_alone {
            $(#[test]
            fn $scenario() -> anyhow::Result<()> {
                super::$scenario(crate::lab::Mode::Stack)
            })+
        }

        mod with_the_fast_path {
            $(#[test]
            fn $scenario() -> anyhow::Result<()> {
                super::$scenario(crate::lab::Mode::Auto)
            })+
        }
    };
}

mod churn;
mod errors;
mod hooks;
mod lab;
mod lifetimes;
mod policies;
mod rules;
mod services;
mod sets;
mod shapes;
mod switches;
mod tracking;
mod unguarded;

/// This many, or ten times as many where time does not matter.
fn scaled(count: usize) -> usize {
    if env::var_os("MANX_RUNS").is_some() { count * 10 } else { count }
}
