//! Manx on a node of the benchmark: the sink that the daemon drives, with every check on.

use anyhow::{Result, anyhow, ensure};
use manx_abi::{Disposition, VERDICTS};
use manx_dataplane::{
    ebpf::{EbpfSink, Mode, Options, PoolSpec},
    route::Route,
};

use super::ground::Ground;

/// In the namespace of this thread.
pub fn start(routes: &[Route], pods: &[String], uplinks: &[&str], _ground: Ground) -> Result<EbpfSink> {
    let (mut sink, _) = EbpfSink::open(&Options::default())?;
    sink.set_pools(&pools()?)?;
    let applied = sink.reconcile(routes)?;
    ensure!(applied.refused.is_empty(), "refused by the maps: {:?}", applied.refused);
    for uplink in uplinks {
        sink.attach_uplink(nix::net::if_::if_nametoindex(*uplink)?)?;
    }
    for pod in pods {
        sink.attach_pod(nix::net::if_::if_nametoindex(pod.as_str())?)?;
    }
    sink.set_whole_mode(Mode::Unguarded);
    Ok(sink)
}

/// Where the benchmark's pods have their addresses from.
fn pools() -> Result<Vec<PoolSpec>> {
    let pool = |(prefix, block_len): (&str, u8)| {
        let prefix = prefix.parse().map_err(|error| anyhow!("{prefix}: {error:?}"))?;
        Ok(PoolSpec { name: String::new(), prefix, block_len, mode: Mode::Unguarded })
    };
    [("172.16.0.0/16", 26), ("fd00::/16", 122)].into_iter().map(pool).collect()
}

/// Packets that a program has redirected or dropped so far; the rest was the stack's.
pub fn decided(sink: &EbpfSink) -> Result<u64> {
    let counters = sink.counters()?;
    let decided = VERDICTS.iter().filter(|verdict| verdict.disposition() != Disposition::Passed);
    Ok(decided.map(|verdict| counters.total(*verdict)).sum())
}
