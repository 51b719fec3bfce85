//! What is planned again after a change is what planning all of it gives.

use std::sync::Arc;

use manx_resources::{Kind, Planner, Snapshot, collect, lint, plan};
use proptest::{collection::vec, prelude::*, sample::select};

fn document(kind: &str, name: &str, metadata: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: projectcalico.org/v3, kind: {kind}, metadata: {{name: {name}{metadata}}}, spec: {{{spec}}}}}"
    )
}

/// Some of these lines.
fn some(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::subsequence(of, 0..=of.len()).prop_map(|lines| lines.join(", "))
}

fn name(prefix: &'static str, count: u8) -> impl Strategy<Value = String> {
    (0..count).prop_map(move |number| format!("{prefix}{number}"))
}

fn selector() -> impl Strategy<Value = &'static str> {
    select(vec!["all()", "has(rr)", "!has(rr)", "rack == '1'", "rack in {'0', '2'}", "rack == '7'"])
}

fn node() -> impl Strategy<Value = String> {
    let labels = (0..3_u8, any::<bool>(), 0..3_u8).prop_map(|(rack, rr, unasked)| {
        format!("rack: '{rack}', unasked: '{unasked}'{}", if rr { ", rr: 'true'" } else { "" })
    });
    // Few addresses, so that some nodes share one.
    let v4 = prop::option::weighted(0.9, 1..8_u8)
        .prop_map(|last| last.map(|last| format!("ipv4Address: 10.0.0.{last}/24")));
    let v6 = prop::option::weighted(0.4, 1..8_u8)
        .prop_map(|last| last.map(|last| format!("ipv6Address: 'fd00::{last}/64'")));
    let rest = some(&["asNumber: 65001", "routeReflectorClusterID: 1.1.1.1"]);
    let annotation = select(vec!["", ", annotations: {manx.dev/gracefulShutdown: 'true'}"]);
    (name("n", 6), labels, v4, v6, rest, annotation).prop_map(|(name, labels, v4, v6, rest, annotation)| {
        let bgp: Vec<String> =
            [v4, v6, Some(rest)].into_iter().flatten().filter(|text| !text.is_empty()).collect();
        let bgp = format!("bgp: {{{}}}", bgp.join(", "));
        document("Node", &name, &format!(", labels: {{{labels}}}{annotation}"), &bgp)
    })
}

fn peer() -> impl Strategy<Value = String> {
    let local = prop_oneof![
        Just(None),
        selector().prop_map(|text| Some(format!("nodeSelector: \"{text}\""))),
        name("n", 7).prop_map(|node| Some(format!("node: {node}"))),
    ];
    let remote = prop_oneof![
        3 => selector().prop_map(|text| format!("peerSelector: \"{text}\"")),
        3 => (1..10_u8, select(vec!["", ":179", ":1790"]), select(vec!["", ", asNumber: 65001", ", asNumber: 64512"]))
            .prop_map(|(last, port, asn)| format!("peerIP: '10.0.0.{last}{port}'{asn}")),
        1 => (1..10_u8).prop_map(|last| format!("peerIP: 'fd00::{last}'")),
    ];
    let rest = some(&[
        "filters: [f0, f1]",
        "localASNumber: 65009",
        "reversePeering: Manual",
        "keepOriginalNextHop: true",
        "maxRestartTime: 60s",
    ]);
    (name("p", 5), local, remote, rest, select(vec!["", ", annotations: {manx.dev/localRole: provider}"]))
        .prop_map(|(name, local, remote, rest, annotation)| {
            let spec: Vec<String> = [local, Some(remote), Some(rest)]
                .into_iter()
                .flatten()
                .filter(|text| !text.is_empty())
                .collect();
            document("BGPPeer", &name, annotation, &spec.join(", "))
        })
}

fn configuration() -> impl Strategy<Value = String> {
    let wide = some(&[
        "asNumber: 64999",
        "nodeToNodeMeshEnabled: false",
        "listenPort: 1790",
        "serviceClusterIPs: [{cidr: 172.16.8.0/24}]",
    ]);
    let annotation = select(vec!["", ", annotations: {manx.dev/ebgpRequiresPolicy: 'true'}"]);
    prop_oneof![
        (wide, annotation).prop_map(|(spec, annotation)| document(
            "BGPConfiguration",
            "default",
            annotation,
            &spec
        )),
        (name("node.n", 6), select(vec!["", "listenPort: 1791"])).prop_map(|(name, spec)| document(
            "BGPConfiguration",
            &name,
            "",
            spec
        )),
    ]
}

fn rest() -> impl Strategy<Value = String> {
    let pool = (
        name("pool", 3),
        select(vec!["172.16.0.0/16", "172.16.8.0/21", "10.0.0.0/24"]),
        some(&["ipipMode: Always", "disabled: true"]),
        select(vec!["", ", annotations: {manx.dev/unallocatedBlocks: Drop}"]),
    )
        .prop_map(|(name, cidr, rest, annotation)| {
            document(
                "IPPool",
                &name,
                annotation,
                &format!("cidr: {cidr}{}{rest}", if rest.is_empty() { "" } else { ", " }),
            )
        });
    let affinity = (name("a", 6), name("n", 3), 0..4_u8, select(vec!["confirmed", "pending"])).prop_map(
        |(name, node, block, state)| {
            document(
                "BlockAffinity",
                &name,
                "",
                &format!("node: {node}, cidr: 172.16.8.{}/26, state: {state}, deleted: 'false'", block * 64),
            )
        },
    );
    let filter = (name("f", 2), some(&["importV4: [{action: Accept}]", "exportV4: [{action: Reject}]"]))
        .prop_map(|(name, spec)| document("BGPFilter", &name, "", &spec));
    prop_oneof![pool, affinity, filter]
}

#[derive(Clone, Debug)]
enum Step {
    Put(String),
    Remove(prop::sample::Index),
    /// A BGPPeer that leads where it did, with other settings.
    Settings(prop::sample::Index, u8),
    /// What a datastore does that reads everything anew: equal objects, none of them shared.
    ReadAnew,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => node().prop_map(Step::Put),
        4 => peer().prop_map(Step::Put),
        1 => configuration().prop_map(Step::Put),
        3 => rest().prop_map(Step::Put),
        3 => any::<prop::sample::Index>().prop_map(Step::Remove),
        3 => (any::<prop::sample::Index>(), 0..8_u8).prop_map(|(which, what)| Step::Settings(which, what)),
        1 => Just(Step::ReadAnew),
    ]
}

fn put(snapshot: &mut Snapshot, text: &str) {
    // What a file may not say nobody plans.
    let collected = collect([("step.yaml", text)]);
    for kind in Kind::ALL {
        collected.snapshot.of_kind(kind).into_iter().for_each(|resource| snapshot.insert(resource));
    }
}

proptest! {
    #[test]
    fn a_planner_says_what_the_plan_says_after_any_history_of_changes(
        start in vec(prop_oneof![3 => node(), 2 => peer(), 1 => rest()], 0..12),
        steps in vec((vec(step(), 1..4), any::<bool>()), 1..12),
    ) {
        let mut snapshot = Snapshot::default();
        start.iter().for_each(|text| put(&mut snapshot, text));
        let mut planners: Vec<(String, Planner)> =
            (0..6).map(|number| format!("n{number}")).map(|name| (name.clone(), Planner::new(name))).collect();
        for (steps, all_ask) in &steps {
            for step in steps {
                match step {
                    Step::Put(text) => put(&mut snapshot, text),
                    Step::Remove(index) => {
                        let keys: Vec<_> = Kind::ALL.into_iter().flat_map(|kind| snapshot.of_kind(kind)).map(|one| one.key()).collect();
                        if !keys.is_empty() {
                            snapshot.remove(index.get(&keys));
                        }
                    }
                    Step::Settings(index, what) => {
                        let peers = snapshot.of_kind(Kind::BgpPeer);
                        if !peers.is_empty() {
                            let mut document = index.get(&peers).document().clone();
                            document["spec"]["maxRestartTime"] = format!("{}s", 30 + what % 2).into();
                            document["spec"]["keepOriginalNextHop"] = (what & 2 != 0).into();
                            document["spec"]["filters"] = if what & 4 == 0 { vec!["f0"] } else { vec!["f1", "f9"] }.into();
                            put(&mut snapshot, &document.to_string());
                        }
                    }
                    Step::ReadAnew => {
                        let all: Vec<_> = Kind::ALL.into_iter().flat_map(|kind| snapshot.of_kind(kind)).collect();
                        snapshot = Snapshot::default();
                        all.iter().for_each(|one| put(&mut snapshot, &one.document().to_string()));
                    }
                }
            }
            let now = Arc::new(snapshot.clone());
            prop_assert_eq!(lint(&now), lint(&now));
            // Some nodes hear of several changes at once.
            for (name, planner) in planners.iter_mut().step_by(if *all_ask { 1 } else { 2 }) {
                let planned = planner.plan(&now).map(|plan| (*plan).clone());
                prop_assert_eq!(planned, plan(&now, name));
            }
        }
    }
}
