//! Manx on a node of the benchmark: the sink that the daemon drives, with every check on.

use anyhow::{Result, anyhow, bail, ensure};
use manx_abi::{Disposition, VERDICTS};
use manx_dataplane::{
    ebpf::{EbpfSink, Guard, InterfaceSettings, KeepAlive, Mode, Options, PoolSpec, SourceCheck},
    route::Route,
};

use super::ground::Ground;

/// The pools of all blocks in these tests.
const POOL4: &str = "172.16.0.0/15";
const POOL6: &str = "fd00::/16";

/// In the namespace of this thread.
pub fn start(routes: &[Route], pods: &[String], uplinks: &[&str], ground: Ground) -> Result<EbpfSink> {
    let (mut sink, _) = EbpfSink::open(&Options::default())?;
    let mode = if ground.tracks() { Mode::Guarded } else { Mode::Unguarded };
    if let (Mode::Guarded, Guard::Absent(why)) = (mode, sink.guard()) {
        bail!("no guard on this kernel: {why}");
    }
    let pool = |name: &str, prefix: &str, block_len| -> Result<PoolSpec> {
        let prefix = prefix.parse().map_err(|error| anyhow!("{prefix}: {error:?}"))?;
        Ok(PoolSpec { name: name.to_owned(), prefix, block_len, mode })
    };
    let not_indexed = sink.set_pools(&[pool("v4", POOL4, 26)?, pool("v6", POOL6, 122)?])?;
    ensure!(not_indexed.is_empty(), "not indexed: {not_indexed:?}");
    let applied = sink.reconcile(routes)?;
    ensure!(applied.refused.is_empty(), "refused by the maps: {:?}", applied.refused);
    sink.set_keep_alive(KeepAlive::default());
    sink.set_whole_mode(mode);
    sink.set_vacancy(true);
    sink.pulse()?;
    for uplink in uplinks {
        let ifindex = nix::net::if_::if_nametoindex(*uplink)?;
        sink.set_interface(ifindex, InterfaceSettings::default());
        sink.attach_uplink(ifindex)?;
    }
    for pod in pods {
        let ifindex = nix::net::if_::if_nametoindex(pod.as_str())?;
        sink.set_interface(
            ifindex,
            InterfaceSettings {
                mode: None,
                source_check: SourceCheck::Strict,
                ..InterfaceSettings::default()
            },
        );
        sink.attach_pod(ifindex)?;
    }
    Ok(sink)
}

/// Packets that a program has redirected or dropped so far; the rest was the stack's.
pub fn decided(sink: &EbpfSink) -> Result<u64> {
    let counters = sink.counters()?;
    let decided = VERDICTS.iter().filter(|verdict| verdict.disposition() != Disposition::Passed);
    Ok(decided.map(|verdict| counters.total(*verdict)).sum())
}
