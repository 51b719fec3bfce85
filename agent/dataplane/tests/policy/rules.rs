//! Policy rules, and which of them may send forwarded packets elsewhere.

use std::time::{Duration, Instant};

use manx_dataplane::{Config, Dataplane, kernel::PolicyRule};
use manx_net::Prefix;

use crate::namespace::{Namespace, ip};

/// The rules that divert, after `commands` of `ip rule`.
fn diverting(commands: &'static [&'static str]) -> Vec<PolicyRule> {
    Namespace::new().run(move || {
        for command in commands {
            ip(command);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let dataplane = Dataplane::open(Config::default()).unwrap();
        let rules = dataplane.kernel().rules().iter();
        rules.filter(|rule| rule.diverts(dataplane.table()).is_some()).cloned().collect()
    })
}

fn meets(rule: &PolicyRule, source: &str, destination: &str) -> bool {
    let p = |text: &str| text.parse::<Prefix>().unwrap();
    rule.reach.as_ref().is_some_and(|reach| reach.meets(p(source), p(destination)))
}

#[test]
fn the_rules_that_every_host_has_divert_nothing() {
    assert_eq!(diverting(&[]), []);
    assert_eq!(diverting(&["rule add from 10.0.0.0/8 lookup main", "rule add from all nop"]), []);
}

#[test]
fn a_lookup_in_another_table_diverts_those_that_it_is_for() {
    let found = diverting(&["rule add from 172.16.36.0/24 to 10.0.0.0/8 lookup 52 pref 100"]);
    let [rule] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(rule.text, "100: from 172.16.36.0/24 to 10.0.0.0/8 lookup 52");
    assert!(meets(rule, "172.16.0.0/16", "10.1.0.0/16"));
    assert!(!meets(rule, "172.16.0.0/16", "172.16.0.0/16") && !meets(rule, "fd00::/16", "fd00::/16"));
    let found = diverting(&["-6 rule add from all lookup 52"]);
    assert!(meets(&found[0], "fd00::/16", "fd00::/16") && !meets(&found[0], "10.0.0.0/8", "10.0.0.0/8"));
}

#[test]
fn what_only_the_hosts_own_packets_meet_diverts_nothing() {
    assert_eq!(diverting(&["rule add oif eth0 lookup 52", "rule add iif lo lookup 52"]), []);
}

#[test]
fn a_rule_that_refuses_or_jumps_or_is_turned_round_may_divert_anything() {
    for command in [
        &["rule add from 10.0.0.0/8 prohibit"][..],
        &["rule add from 10.0.0.0/8 unreachable"],
        &["rule add from 10.0.0.0/8 goto 32767"],
        &["rule add not from 10.0.0.0/8 lookup 52"],
        &["rule add uidrange 0-100 lookup 52"],
        &["rule add ipproto tcp dport 80 lookup 52"],
    ] {
        let found = diverting(command);
        assert_eq!(found.len(), 1, "{command:?}");
        assert!(meets(&found[0], "10.0.0.0/8", "10.0.0.0/8"), "{found:?}");
    }
}

#[test]
fn a_rule_for_a_mark_says_that_it_needs_one() {
    let found = diverting(&["rule add fwmark 0x80000/0xff0000 lookup 52 pref 7"]);
    assert_eq!(
        (found[0].needs_mark, found[0].text.as_str()),
        (true, "7: from all fwmark 0x80000/0xff0000 lookup 52")
    );
    assert!(!diverting(&["rule add fwmark 0/0xff lookup 52"])[0].needs_mark);
}

#[test]
fn a_rule_that_comes_and_goes_is_told_by_the_next_step() {
    Namespace::new().run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut dataplane = Dataplane::open(Config::default()).unwrap();
            dataplane.step(Instant::now());
            let soon = Duration::from_secs(2);
            for (command, count) in [("add", 1), ("del", 0)] {
                ip(&format!("rule {command} from 10.0.0.0/8 lookup 52 pref 100"));
                tokio::time::timeout(soon, dataplane.changed()).await.expect("an event").unwrap();
                assert!(dataplane.step(Instant::now()).policy_rules, "{command}");
                let diverting = dataplane.kernel().rules().iter().filter(|rule| rule.diverts(254).is_some());
                assert_eq!(diverting.count(), count, "{command}");
            }
            assert!(!dataplane.step(Instant::now()).policy_rules);
        });
    });
}
