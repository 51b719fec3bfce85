//! What the fuzzer calls (`cargo xtask fuzz`); nobody else has it.

/// Messages of nftables, as netlink brings them.
pub fn netfilter(input: &[u8]) {
    crate::netfilter::judge(input);
}

/// Types of a kernel, and of a module.
pub fn types(input: &[u8]) {
    crate::ebpf::hostile::types(input);
}

/// What an earlier run, or somebody, left in the maps.
pub fn maps(input: &[u8]) {
    crate::ebpf::hostile::maps(input);
}
