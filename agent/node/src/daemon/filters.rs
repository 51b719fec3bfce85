//! BGPFilters of a plan in the words of the speaker's rules. Pure.

use manx_bgp::policy::{
    Action, Change, Community, Match, Operator, PeerRules, PeerType, PrefixMatch, Rule, RuleName, Rules,
    local_pref_of_priority,
};
use manx_resources::{NodePlan, PeerPlan, spec};

pub fn import_rules(plan: &NodePlan, peer: &PeerPlan) -> PeerRules {
    PeerRules {
        ipv4: rules(plan, peer, "importV4", |filter| &filter.import_v4).into_iter().collect(),
        ipv6: rules(plan, peer, "importV6", |filter| &filter.import_v6).into_iter().collect(),
    }
}

pub fn export_rules(plan: &NodePlan, peer: &PeerPlan) -> PeerRules {
    PeerRules {
        ipv4: with_communities(plan, true, rules(plan, peer, "exportV4", |filter| &filter.export_v4)),
        ipv6: with_communities(plan, false, rules(plan, peer, "exportV6", |filter| &filter.export_v6)),
    }
}

/// Behind the peer's filters, and only where none of them decides. The longest prefix comes first, for it has the communities
/// of those around it.
fn with_communities(plan: &NodePlan, ipv4: bool, mut rules: Vec<Rule>) -> Rules {
    let mut communities: Vec<_> = plan.communities.iter().filter(|plan| plan.cidr.is_v4() == ipv4).collect();
    communities.sort_by_key(|plan| std::cmp::Reverse(plan.cidr.len()));
    rules.extend(communities.into_iter().map(|plan| Rule {
        name: RuleName::new(format!("prefixAdvertisements of {}", plan.cidr)),
        matches: Match {
            prefix: Some(PrefixMatch { prefix: plan.cidr, operator: Operator::In, lengths: None }),
            ..Match::default()
        },
        action: Action::Amend(
            plan.communities.iter().map(|community| Change::AddCommunity(community_of(*community))).collect(),
        ),
    }));
    rules.into_iter().collect()
}

/// The peer's filters one after the other: what none of the first one's rules matches goes on to the second. One
/// that does not exist has been named by the plan, and counts for nothing.
fn rules(
    plan: &NodePlan,
    peer: &PeerPlan,
    field: &str,
    list: impl Fn(&spec::BgpFilter) -> &[spec::FilterRule],
) -> Vec<Rule> {
    let mut rules = Vec::new();
    for filter in peer.filters.iter().filter_map(|name| plan.filters.get(name)) {
        for (n, rule) in list(&filter.spec).iter().enumerate() {
            let name = RuleName::new(format!("BGPFilter/{} {field}[{n}]", filter.name()));
            rules.push(Rule { name, matches: matches_of(rule), action: action_of(rule) });
        }
    }
    rules
}

fn matches_of(rule: &spec::FilterRule) -> Match {
    Match {
        prefix: rule.cidr.map(|cidr| PrefixMatch {
            prefix: cidr.prefix,
            operator: match cidr.operator {
                spec::MatchOperator::Equal => Operator::Equal,
                spec::MatchOperator::NotEqual => Operator::NotEqual,
                spec::MatchOperator::In => Operator::In,
                spec::MatchOperator::NotIn => Operator::NotIn,
            },
            lengths: cidr.lengths,
        }),
        learned: rule.remote_peers,
        interface: rule.interface.as_deref().map(Into::into),
        peer_type: rule.peer_type.map(|peer_type| match peer_type {
            spec::PeerType::Ebgp => PeerType::Ebgp,
            spec::PeerType::Ibgp => PeerType::Ibgp,
        }),
        community: rule.community.map(community_of),
        as_path_prefix: rule.as_path_prefix.as_slice().into(),
        local_pref: rule.priority.map(local_pref_of_priority),
    }
}

fn action_of(rule: &spec::FilterRule) -> Action {
    match rule.action {
        spec::FilterAction::Reject => Action::Reject,
        spec::FilterAction::Accept => Action::Accept(rule.operations.iter().map(change_of).collect()),
    }
}

fn change_of(operation: &spec::FilterOperation) -> Change {
    match operation {
        spec::FilterOperation::AddCommunity(community) => Change::AddCommunity(community_of(*community)),
        spec::FilterOperation::PrependAsPath(numbers) => Change::Prepend(numbers.as_slice().into()),
        spec::FilterOperation::SetPriority(priority) => {
            Change::SetLocalPref(local_pref_of_priority(*priority))
        }
    }
}

fn community_of(community: spec::Community) -> Community {
    match community {
        spec::Community::Standard(high, low) => Community::Standard(u32::from(high) << 16 | u32::from(low)),
        spec::Community::Large(a, b, c) => Community::Large([a, b, c]),
    }
}

#[cfg(test)]
mod tests {
    use manx_net::Asn;

    use super::*;

    const CLUSTER: &str = "
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: a}
spec: {bgp: {ipv4Address: 10.0.0.1/24}}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: p}
spec: {peerIP: 10.0.0.254, asNumber: 65000, filters: [one, gone, two]}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: two}
spec: {importV4: [{action: Reject}], exportV6: [{action: Reject}]}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: one}
spec:
  importV4:
  - {cidr: 10.0.0.0/8, matchOperator: NotIn, prefixLength: {max: 24}, action: Reject}
  - source: RemotePeers
    interface: eth*
    peerType: iBGP
    communities: {values: ['65535:666']}
    asPathPrefix: [65001]
    priority: 1024
    action: Accept
    operations:
    - addCommunity: {value: '1:2:3'}
    - prependASPath: {prefix: [65002, 65003]}
    - setPriority: {value: 512}
";

    #[test]
    fn a_peers_filters_become_rules_in_their_order_and_under_their_names() {
        let collected = manx_resources::collect([("f", CLUSTER)]);
        assert_eq!(collected.problems, []);
        let plan = manx_resources::plan(&collected.snapshot, "a").unwrap();
        let peer = &plan.peers[0];
        let asn = |number| Asn::new(number).unwrap();
        let rule = |name, matches, action| Rule { name: RuleName::new(name), matches, action };
        let not_in = PrefixMatch {
            prefix: "10.0.0.0/8".parse().unwrap(),
            operator: Operator::NotIn,
            lengths: Some((8, 24)),
        };
        let full = Match {
            prefix: None,
            learned: true,
            interface: Some("eth*".into()),
            peer_type: Some(PeerType::Ibgp),
            community: Some(Community::Standard(0xffff_029a)),
            as_path_prefix: [asn(65001)].into(),
            local_pref: Some(2_147_482_623),
        };
        let changes = [
            Change::AddCommunity(Community::Large([1, 2, 3])),
            Change::Prepend([asn(65002), asn(65003)].into()),
            Change::SetLocalPref(2_147_483_135),
        ];
        let expected = [
            rule(
                "BGPFilter/one importV4[0]",
                Match { prefix: Some(not_in), ..Match::default() },
                Action::Reject,
            ),
            rule("BGPFilter/one importV4[1]", full, Action::Accept(changes.into())),
            rule("BGPFilter/two importV4[0]", Match::default(), Action::Reject),
        ];
        let expected = PeerRules { ipv4: expected.into_iter().collect(), ipv6: Rules::default() };
        assert_eq!(import_rules(&plan, peer), expected);
        let out = rule("BGPFilter/two exportV6[0]", Match::default(), Action::Reject);
        let expected = PeerRules { ipv4: Rules::default(), ipv6: Rules::from_iter([out]) };
        assert_eq!(export_rules(&plan, peer), expected);
    }
}
