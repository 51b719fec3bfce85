//! A node's plan in the words of the speaker and of the dataplane. Pure.

use std::time::Duration;

use manx_bgp::{
    Config, Dial, ExportRule, Family, GracefulRestart, NextHopMode, Originated, PeerConfig, PoolRule,
};
use manx_dataplane::table::{Plan as RoutePlan, Pool, PoolWrite};
use manx_net::Prefix;
use manx_resources as resources;
use manx_resources::{NodePlan, PeerPlan};

/// Longer than peers may be gone before their routes are dropped (RFC 4724 §3); Calico and BIRD have the same.
const RESTART_TIME: Duration = Duration::from_secs(120);

/// `restarting`: the kernel holds routes of an earlier run. `seed`: for jitter, differs from node to node.
pub fn speaker_config(plan: &NodePlan, restarting: bool, seed: u64) -> Config {
    Config {
        cluster_id: plan.cluster_id,
        next_hop_v4: plan.address.ipv4.map(|interface| interface.addr),
        next_hop_v6: plan.address.ipv6.map(|interface| interface.addr),
        graceful_restart: GracefulRestart {
            enabled: true,
            restart_time: RESTART_TIME.as_secs() as u16,
            restarting,
        },
        peers: plan.peers.iter().map(peer_config).collect(),
        originated: plan
            .blocks
            .iter()
            .filter(|block| exported(plan, **block))
            .map(|block| Originated { prefix: *block, communities: Vec::new() })
            .collect(),
        export: ExportRule {
            pools: plan
                .pools
                .iter()
                // Routes of a disabled pool are nobody's to pass on; a pool whose export is off says no even then.
                .filter(|pool| !pool.disabled || pool.disable_bgp_export)
                .map(|pool| PoolRule { prefix: pool.cidr, export: !pool.disable_bgp_export })
                .collect(),
            transit: false,
        },
        seed,
        ..Config::new(plan.as_number, plan.router_id)
    }
}

/// Calico's first export rule: nothing of a pool with `disableBGPExport` leaves, own blocks included.
fn exported(plan: &NodePlan, block: Prefix) -> bool {
    !plan.pools.iter().any(|pool| pool.disable_bgp_export && pool.cidr.covers(block))
}

fn peer_config(peer: &PeerPlan) -> PeerConfig {
    // A session carries the family that it runs over, as Calico's two BIRDs do: a dual-stack pair has two.
    let family = if peer.address.is_ipv4() { Family::Ipv4Unicast } else { Family::Ipv6Unicast };
    PeerConfig {
        port: peer.port,
        local_address: peer.source_address,
        local_as: peer.local_as_number,
        rr_client: peer.rr_client,
        cluster_id: peer.cluster_id,
        dial: match peer.dial {
            resources::Dial::First => Dial::First,
            resources::Dial::Later => Dial::Later,
            resources::Dial::Never => Dial::Never,
        },
        next_hop: match peer.next_hop {
            resources::NextHopMode::Auto => NextHopMode::Auto,
            resources::NextHopMode::SelfAddress => NextHopMode::Self_,
            resources::NextHopMode::Keep => NextHopMode::Keep,
        },
        families: vec![family],
        // Both are seconds in OPEN's or the timer's field; the resources' reader bounds them lower.
        keepalive_time: peer.keepalive_time.map(|seconds| u16::try_from(seconds).unwrap_or(u16::MAX)),
        restart_time: peer.restart_time.map(|seconds| seconds.min(4095) as u16),
        allow_local_as: u8::try_from(peer.allow_local_as).unwrap_or(u8::MAX),
        ..PeerConfig::new(peer.address, peer.as_number)
    }
}

pub fn route_plan(plan: &NodePlan) -> RoutePlan {
    RoutePlan {
        pools: plan
            .pools
            .iter()
            .map(|pool| Pool {
                name: pool.name.clone(),
                prefix: pool.cidr,
                write: match pool.write {
                    resources::PoolWrite::Always => PoolWrite::Always,
                    resources::PoolWrite::OnLinkOnly => PoolWrite::OnLinkOnly,
                    resources::PoolWrite::Never => PoolWrite::Never,
                },
                // Where a pool is encapsulated elsewhere its packets are not ours to carry plain.
                fast_path: pool.write != resources::PoolWrite::Never,
            })
            .collect(),
        own_blocks: plan.blocks.clone(),
    }
}
