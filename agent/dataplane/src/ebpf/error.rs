//! Why the fast path cannot be had, or why a call of the sink failed. Messages say what to do.

use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the fast path needs Linux 6.6 or newer (TCX); this is {release}. Routes still go into the kernel's FIB"
    )]
    KernelTooOld { release: String },
    #[error(
        "{path} is not on a BPF filesystem and none can be mounted there: {source}; \
             mount one with `mount -t bpf bpf /sys/fs/bpf`, or name another with --bpf-dir"
    )]
    NoBpfFs { path: PathBuf, source: io::Error },
    #[error(
        "not permitted to load eBPF programs: {source}; run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    NotPermitted { source: io::Error },
    #[error("the kernel refused program {program}: {reason}")]
    Program { program: &'static str, reason: String },
    #[error("the eBPF object does not load: {reason}")]
    Load { reason: String },
    #[error("map {map}: {action} failed: {reason}")]
    Map { map: &'static str, action: &'static str, reason: String },
    #[error("cannot read the interfaces: {source}")]
    Interfaces { source: io::Error },
    #[error("no interface with index {ifindex}")]
    NoInterface { ifindex: u32 },
    #[error("interface {ifindex} carries no Ethernet frames; the programs can read nothing else")]
    NotEthernet { ifindex: u32 },
    #[error("{program} cannot be attached to interface {ifindex}: {reason}")]
    Attach { program: &'static str, ifindex: u32, reason: String },
    #[error(
        "no place for interface {ifindex} among {places}: its packets go by the stack; raise --map-size interfaces=N"
    )]
    NoPlace { ifindex: u32, places: u32 },
    #[error("{path}: {source}")]
    Pin { path: PathBuf, source: io::Error },
}
