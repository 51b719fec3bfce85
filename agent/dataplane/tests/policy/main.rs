//! What of the host's rules concerns packets that would be carried past them: nftables and policy rules as people have
//! them, loaded for real into namespaces.

mod maps;
#[allow(dead_code, reason = "the tests of the programs need more of it")]
#[path = "../ebpf/namespace.rs"]
mod namespace;
mod netfilter;
mod refusals;
mod rules;
mod switches;
