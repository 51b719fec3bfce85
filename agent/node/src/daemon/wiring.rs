//! A node's plan in the words of the speaker and of the dataplane. Pure.

use std::{net::IpAddr, time::Duration};

use manx_bgp::{
    AddPath, Config, Dial, DynamicPeers, ExportRule, Family, GracefulRestart, MaxPrefixes, Multipath,
    NextHopMode, NormalPriority, Originated, OwnHost, Parting, PeerConfig, PoolRule, RemoteAs, Role,
    policy::NORMAL_PRIORITY,
};
use manx_dataplane::table::{Blackhole, Plan as RoutePlan, Pool, PoolWrite, Reply};
use manx_net::Prefix;
use manx_resources as resources;
use manx_resources::{NodePlan, PeerPlan, RangePlan};

use super::{
    filters::{export_rules, import_rules},
    protection::Protection,
};

/// Longer than peers may be gone before their routes are dropped (RFC 4724 §3); Calico and BIRD have the same.
const RESTART_TIME: Duration = Duration::from_secs(120);

/// `restarting`: the kernel holds routes of an earlier run. `seed`: for jitter, differs from node to node. `hosts`: see
/// [`borrowed`].
pub fn speaker_config(
    plan: &NodePlan,
    protection: &Protection,
    restarting: bool,
    seed: u64,
    hosts: Vec<OwnHost>,
    parting: Parting,
) -> Config {
    let speaker = &plan.speaker;
    let defaults = Config::new(plan.as_number, plan.router_id);
    Config {
        cluster_id: plan.cluster_id,
        client_to_client: speaker.client_to_client,
        next_hop_v4: plan.address.ipv4.map(|interface| interface.addr),
        next_hop_v6: plan.address.ipv6.map(|interface| interface.addr),
        graceful_restart: GracefulRestart {
            enabled: true,
            restart_time: RESTART_TIME.as_secs() as u16,
            restarting,
            after_notification: speaker.restart_after_notification,
            long_lived: speaker.long_lived_restart_time,
        },
        peers: plan
            .peers
            .iter()
            // What its resource asks for as protection must not be left out in silence: such a peer is none.
            .filter_map(|peer| {
                Some(PeerConfig { transport: protection.transport_of(peer)?, ..peer_config(plan, peer) })
            })
            .collect(),
        dynamic_peers: closed_addresses(plan, protection)
            .chain(plan.ranges.iter().map(|range| match protection.transport_of_range(range) {
                Some(transport) => dynamic_peers(plan, range, transport),
                None => closed(range.range, &range.settings),
            }))
            .collect(),
        originated: plan
            .blocks
            .iter()
            .filter(|block| exported(plan, **block))
            .map(|block| Originated { prefix: *block, communities: Vec::new() })
            .collect(),
        hosts,
        export: ExportRule {
            pools: plan
                .pools
                .iter()
                // Routes of a disabled pool are nobody's to pass on; a pool whose export is off says no even then.
                .filter(|pool| !pool.disabled || pool.disable_bgp_export)
                .map(|pool| PoolRule { prefix: pool.cidr, export: !pool.disable_bgp_export })
                .collect(),
            transit: false,
            services: plan.passed_services.clone(),
        },
        services: plan.announced_services.clone(),
        ebgp_requires_policy: speaker.ebgp_requires_policy,
        graceful_shutdown: speaker.graceful_shutdown,
        multipath: Multipath { ebgp: speaker.multipath.ebgp, ibgp: speaker.multipath.ibgp },
        normal_priority: NormalPriority {
            ipv4: speaker.ipv4_normal_route_priority,
            ipv6: speaker.ipv6_normal_route_priority,
        },
        parting,
        max_paths: speaker.max_paths.map_or(defaults.max_paths, u64::from),
        seed,
        ..defaults
    }
}

fn dynamic_peers(plan: &NodePlan, range: &RangePlan, transport: u64) -> DynamicPeers {
    DynamicPeers {
        range: range.range,
        remote_as: match &range.as_numbers {
            resources::RangeAs::External => RemoteAs::External,
            resources::RangeAs::OneOf(numbers) => RemoteAs::OneOf(numbers.clone()),
        },
        template: PeerConfig { transport, ..peer_config(plan, &range.settings) },
        limit: range.limit,
    }
}

/// Addresses of peers that have no session, for want of their protection. A range that holds them must not let them in
/// without it.
fn closed_addresses(plan: &NodePlan, protection: &Protection) -> impl Iterator<Item = DynamicPeers> {
    let none = plan.peers.iter().filter(|peer| protection.transport_of(peer).is_none());
    none.map(|peer| closed(Prefix::host(peer.address), peer))
}

/// A range from which nobody may connect. Of its peer's settings none counts.
fn closed(range: Prefix, peer: &PeerPlan) -> DynamicPeers {
    let template = PeerConfig::new(peer.address, peer.as_number);
    DynamicPeers { range, remote_as: RemoteAs::OneOf(Vec::new()), template, limit: 0 }
}

/// Calico's first export rule: nothing of a pool with `disableBGPExport` leaves, own blocks included.
fn exported(plan: &NodePlan, block: Prefix) -> bool {
    !plan.pools.iter().any(|pool| pool.disable_bgp_export && pool.cidr.covers(block))
}

/// What is usual for a prefix in LOCAL_PREF and in kernels, as Calico counts priorities.
pub fn normal_priority(config: &Config, prefix: Prefix) -> u32 {
    config.normal_priority.of(Family::of(prefix)).unwrap_or(NORMAL_PRIORITY)
}

/// Of the addresses of this node's pods those that others cannot know to be here: they lie in no block of its own, or the
/// kernel's route to them has a metric better than the usual one, which is how Felix says that a virtual machine is about
/// to run here. Calico announces them too, where they lie in a pool that may be announced; a pod borrows an address where
/// its node has no block left, and keeps it where it moves. Routes without a metric say nothing.
pub fn announced_hosts<'h>(
    plan: &NodePlan,
    hosted: impl IntoIterator<Item = (&'h Prefix, &'h u32)>,
) -> Vec<OwnHost> {
    let speaker = &plan.speaker;
    let (normal4, normal6) = (speaker.ipv4_normal_route_priority, speaker.ipv6_normal_route_priority);
    let elevated = |host: Prefix, metric: u32| {
        let normal = if host.is_v4() { normal4 } else { normal6 }.unwrap_or(NORMAL_PRIORITY);
        (metric != 0 && metric < normal).then_some(metric)
    };
    let in_pool = |host: Prefix| {
        let mut pools = plan.pools.iter();
        pools.any(|pool| !pool.disabled && pool.cidr.covers(host)) && exported(plan, host)
    };
    let in_own_block = |host: Prefix| plan.blocks.iter().any(|block| block.covers(host));
    hosted
        .into_iter()
        .map(|(host, metric)| OwnHost { prefix: *host, priority: elevated(*host, *metric) })
        .filter(|host| host.priority.is_some() || !in_own_block(host.prefix))
        .filter(|host| in_pool(host.prefix))
        .collect()
}

fn peer_config(plan: &NodePlan, peer: &PeerPlan) -> PeerConfig {
    // A session carries the family that it runs over, as Calico's two BIRDs do: a dual-stack pair has two.
    // With IPv6 next hops for IPv4 the IPv6 session carries both: there may be no other.
    let families = match peer.address {
        IpAddr::V4(_) => vec![Family::Ipv4Unicast],
        IpAddr::V6(_) if peer.extended_next_hop => Family::ALL.to_vec(),
        IpAddr::V6(_) => vec![Family::Ipv6Unicast],
    };
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
        extended_next_hop: peer.extended_next_hop,
        role: peer.local_role.map(role),
        strict_role: peer.strict_role,
        families,
        // Both are seconds in OPEN's or the timer's field; the resources' reader bounds them lower.
        keepalive_time: peer.keepalive_time.map(|seconds| u16::try_from(seconds).unwrap_or(u16::MAX)),
        restart_time: peer.restart_time.map(|seconds| seconds.min(4095) as u16),
        allow_local_as: u8::try_from(peer.allow_local_as).unwrap_or(u8::MAX),
        import: import_rules(plan, peer),
        export: export_rules(plan, peer),
        blackholes: peer.blackholes.clone(),
        add_path: AddPath { send: peer.add_path.send, receive: peer.add_path.receive },
        max_prefixes: peer.max_prefixes.map(|max| MaxPrefixes {
            limit: max.limit,
            warn_at: max.warn_at,
            accepted_only: max.accepted_only,
        }),
        ..PeerConfig::new(peer.address, peer.as_number)
    }
}

fn role(role: resources::Role) -> Role {
    match role {
        resources::Role::Provider => Role::Provider,
        resources::Role::RsServer => Role::RouteServer,
        resources::Role::RsClient => Role::RouteServerClient,
        resources::Role::Customer => Role::Customer,
        resources::Role::Peer => Role::Peer,
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
        own_blocks: plan
            .blocks
            .iter()
            .map(|block| {
                // Of pools inside one another the narrowest has made the block.
                let pools = plan.pools.iter().filter(|pool| pool.cidr.covers(*block));
                let pool = pools.max_by_key(|pool| pool.cidr.len());
                Blackhole {
                    prefix: *block,
                    reply: pool.map_or(Reply::Drop, |pool| reply(pool.unassigned_addresses)),
                }
            })
            .collect(),
        closed_pools: plan
            .pools
            .iter()
            .filter_map(|pool| Some(Blackhole { prefix: pool.cidr, reply: reply(pool.unallocated_blocks?) }))
            .collect(),
        services: plan.services.clone(),
        // Of two ports of an address the lower one's counts.
        routers: plan
            .peers
            .iter()
            .rev()
            .filter_map(|peer| Some((peer.address, peer.reachable_by?)))
            .collect(),
    }
}

pub fn reply(reply: resources::Reply) -> Reply {
    match reply {
        resources::Reply::Drop => Reply::Drop,
        resources::Reply::Reject => Reply::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, path::Path};

    use super::*;

    const CLUSTER: &str = "
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: a}
spec: {bgp: {ipv4Address: 10.0.0.1/24, ipv6Address: 'fd00::1/64'}}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: b}
spec: {bgp: {ipv4Address: 10.0.0.2/24, ipv6Address: 'fd00::2/64'}}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: open}
spec: {cidr: 172.16.0.0/16}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: kept}
spec: {cidr: 172.17.0.0/16, disableBGPExport: true}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: tunnelled}
spec: {cidr: 172.18.0.0/16, ipipMode: Always}
---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {name: a-open}
spec: {node: a, state: confirmed, cidr: 172.16.1.0/26}
---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {name: a-kept}
spec: {node: a, state: confirmed, cidr: 172.17.1.0/26}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: secret}
spec:
  peerIP: 10.0.0.9
  asNumber: 64512
  password: {secretKeyRef: {name: s, key: k}}
";

    fn plan_of_a() -> NodePlan {
        let collected = manx_resources::collect([("cluster.yaml", CLUSTER)]);
        let errors: Vec<_> = collected.problems.iter().filter(|problem| problem.is_error()).collect();
        assert!(errors.is_empty(), "{errors:?}");
        manx_resources::plan(&collected.snapshot, "a").unwrap()
    }

    fn protection(plan: &NodePlan, secrets: &Path) -> Protection {
        let mut protection = Protection::new(secrets);
        protection.read_secrets(plan, &manx_resources::Snapshot::default());
        protection.follow(plan);
        protection
    }

    fn config_of_a(secrets: &Path) -> Config {
        let plan = plan_of_a();
        speaker_config(&plan, &protection(&plan, secrets), false, 0, Vec::new(), Parting::default())
    }

    #[test]
    fn a_block_of_a_pool_that_is_not_exported_is_a_blackhole_and_is_not_announced() {
        let plan = plan_of_a();
        let config = speaker_config(
            &plan,
            &protection(&plan, Path::new("/nonexistent")),
            false,
            0,
            Vec::new(),
            Parting::default(),
        );
        let announced: Vec<String> = config.originated.iter().map(|own| own.prefix.to_string()).collect();
        assert_eq!(announced, ["172.16.1.0/26"]);
        assert_eq!(route_plan(&plan).own_blocks.len(), 2);
        let rule = |pool: &str| config.export.pools.iter().find(|rule| rule.prefix == pool.parse().unwrap());
        assert!(rule("172.16.0.0/16").unwrap().export);
        assert!(!rule("172.17.0.0/16").unwrap().export);
    }

    #[test]
    fn of_pods_addresses_those_are_announced_that_lie_in_a_pool_and_in_no_own_block() {
        let plan = plan_of_a();
        let hosts = ["172.16.1.7/32", "172.16.9.7/32", "172.17.9.7/32", "10.0.0.7/32", "fd00::7/128"];
        let hosted =
            |metric: u32| -> Vec<(Prefix, u32)> { hosts.map(|host| (host.parse().unwrap(), metric)).into() };
        let announced = |plan: &NodePlan, metric| {
            let hosted = hosted(metric);
            let hosts = announced_hosts(plan, hosted.iter().map(|(host, metric)| (host, metric)));
            hosts.iter().map(|host| (host.prefix.to_string(), host.priority)).collect::<Vec<_>>()
        };
        let borrowed = String::from("172.16.9.7/32");
        for usual in [0, 1024, 2000] {
            assert_eq!(announced(&plan, usual), [(borrowed.clone(), None)], "{usual}");
        }
        // Where a machine is about to run its address is told though its block is; but never of a pool that must not leave.
        let own = String::from("172.16.1.7/32");
        assert_eq!(announced(&plan, 512), [(own.clone(), Some(512)), (borrowed.clone(), Some(512))]);
        let mut other = plan.clone();
        other.speaker.ipv4_normal_route_priority = Some(2001);
        assert_eq!(announced(&other, 2000), [(own, Some(2000)), (borrowed.clone(), Some(2000))]);
        let mut disabled = plan;
        disabled.pools.iter_mut().for_each(|pool| pool.disabled = true);
        assert_eq!(announced(&disabled, 512), []);
    }

    #[test]
    fn a_dual_stack_pair_has_a_session_for_each_family() {
        let config = config_of_a(Path::new("/nonexistent"));
        let families: Vec<_> =
            config.peers.iter().map(|peer| (peer.address.is_ipv4(), &*peer.families)).collect();
        assert_eq!(families, [(true, &[Family::Ipv4Unicast][..]), (false, &[Family::Ipv6Unicast])]);
    }

    #[test]
    fn a_peer_whose_password_is_missing_is_none_and_with_the_password_it_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let plan = plan_of_a();
        let secret = plan.peers.iter().find(|peer| peer.password_from.is_some()).unwrap();
        let is_peer =
            |config: &Config| config.peers.iter().find(|peer| peer.address == secret.address).cloned();
        assert!(is_peer(&config_of_a(directory.path())).is_none());
        let file = directory.path().join("s/k");
        let without = protection(&plan, directory.path());
        assert!(
            without
                .why_closed(secret)
                .unwrap()
                .contains(&format!("{} does not exist, and the datastore has no Secret/s", file.display()))
        );
        assert!(without.is_closed_to(secret.address).is_some());
        std::fs::create_dir(directory.path().join("s")).unwrap();
        std::fs::write(&file, "password").unwrap();
        assert_ne!(is_peer(&config_of_a(directory.path())).unwrap().transport, 0);
        let with = protection(&plan, directory.path());
        assert!(with.is_closed_to(secret.address).is_none());
        assert!(with.guards().of(secret.address).password.is_some());
    }

    /// An address or a range without its password is none of a wider, open range (decision 011).
    #[test]
    fn what_is_closed_is_told_to_the_speaker_as_closed() {
        let rest = "
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: wide, annotations: {manx.dev/peerRange: 10.0.0.0/16}}
spec: {asNumber: 64512}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: narrow, annotations: {manx.dev/peerRange: 10.0.7.0/24}}
spec: {asNumber: 64512, password: {secretKeyRef: {name: s, key: k}}}
";
        let text = format!("{CLUSTER}{rest}");
        let collected = manx_resources::collect([("cluster.yaml", &*text)]);
        assert_eq!(collected.problems, []);
        let plan = manx_resources::plan(&collected.snapshot, "a").unwrap();
        let closed = |secrets: &Path| {
            let config =
                speaker_config(&plan, &protection(&plan, secrets), false, 0, Vec::new(), Parting::default());
            let closed = config.dynamic_peers.into_iter().filter(|peers| peers.limit == 0);
            closed.map(|peers| (peers.range.to_string(), peers.remote_as)).collect::<Vec<_>>()
        };
        let nobody = RemoteAs::OneOf(Vec::new());
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(
            closed(directory.path()),
            [("10.0.0.9/32".to_owned(), nobody.clone()), ("10.0.7.0/24".to_owned(), nobody)]
        );
        std::fs::create_dir(directory.path().join("s")).unwrap();
        std::fs::write(directory.path().join("s/k"), "password").unwrap();
        assert_eq!(closed(directory.path()), []);
    }

    #[test]
    fn the_fast_path_stays_out_of_pools_that_are_encapsulated() {
        let routes = route_plan(&plan_of_a());
        let pool = |name: &str| routes.pools.iter().find(|pool| pool.name == name).unwrap();
        assert!(pool("open").fast_path);
        assert_eq!((pool("tunnelled").write, pool("tunnelled").fast_path), (PoolWrite::Never, false));
    }

    #[test]
    fn what_annotations_say_reaches_the_speaker() {
        let text = CLUSTER.to_owned()
            + "---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata:
  name: default
  annotations:
    manx.dev/longLivedRestartTime: 1h
    manx.dev/restartAfterNotification: 'true'
    manx.dev/ebgpRequiresPolicy: 'true'
    manx.dev/maxPaths: '1000'
    manx.dev/multipath: 'ebgp=4, ibgp=2'
    manx.dev/nodeMeshAddPath: both=3
    manx.dev/nodeMeshMaxPrefixes: '64'
    manx.dev/nodeMeshBlackholes: 172.16.0.0/16
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: a, annotations: {manx.dev/gracefulShutdown: 'true'}}
spec: {bgp: {ipv4Address: 10.0.0.1/24}}
";
        let text = text.replacen(
            "metadata: {name: a}\nspec: {bgp: {ipv4Address: 10.0.0.1/24, ipv6Address: 'fd00::1/64'}}",
            "metadata: {name: z}\nspec: {bgp: {ipv4Address: 10.0.0.7/24}}",
            1,
        );
        let collected = manx_resources::collect([("cluster.yaml", &*text)]);
        assert_eq!(collected.problems, []);
        let plan = manx_resources::plan(&collected.snapshot, "a").unwrap();
        let config = speaker_config(
            &plan,
            &protection(&plan, Path::new("/nonexistent")),
            false,
            0,
            Vec::new(),
            Parting::default(),
        );
        assert_eq!(config.graceful_restart.long_lived, Some(3600));
        assert!(config.graceful_restart.after_notification);
        assert!(config.ebgp_requires_policy && config.graceful_shutdown);
        assert_eq!(config.max_paths, 1000);
        assert_eq!(config.multipath, Multipath { ebgp: 4, ibgp: 2 });
        let peer = config.peers.iter().find(|peer| peer.address == IpAddr::from([10, 0, 0, 2])).unwrap();
        assert_eq!(peer.max_prefixes, Some(MaxPrefixes::new(64)));
        assert_eq!(peer.add_path, AddPath { send: 3, receive: true });
        assert_eq!(peer.blackholes, ["172.16.0.0/16".parse().unwrap()]);
    }
}
