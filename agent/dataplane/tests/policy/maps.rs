//! Maps of verdicts whose keys are more than one name, and sets that change without a word.

use manx_dataplane::netfilter::{Finding, Rules};

use crate::netfilter::{forward, found_with, meets, words};

/// Whatever refuses packets of flows that have begun.
fn refusing(rules: &Rules) -> Vec<Finding> {
    [rules.every_packet.clone(), rules.running.clone(), rules.closed.clone()].concat()
}

fn meets_what_comes_by(rules: &Rules, name: &str) -> bool {
    refusing(rules).iter().any(|finding| finding.reach.comes_by(7, name))
}

#[test]
fn the_star_of_a_map_of_interfaces_is_for_all_that_it_does_not_name() {
    for (map, named, others) in [
        ("{ \"cali1\" : accept, * : drop }", false, true),
        ("{ \"cali1\" : drop, * : accept }", true, false),
        ("{ \"cali1\" : drop }", true, false),
    ] {
        let found = forward(&format!("iifname vmap {map}")).rules;
        let met = |name| meets_what_comes_by(&found, name);
        assert_eq!((met("cali1"), met("cali2"), met("eth0")), (named, others, others), "{map}: {found:?}");
    }
    let found = forward("oifname vmap { \"cali1\" : accept, * : drop }").rules;
    let [drop] = found.running.as_slice() else { panic!("{found:?}") };
    assert!(!drop.reach.leaves_by(7, "cali1") && drop.reach.leaves_by(8, "cali2"), "{drop}");
}

#[test]
fn keys_of_several_interfaces_or_of_what_their_names_begin_with_are_no_names() {
    for rule in [
        "iifname . oifname vmap { \"cali1\" . \"eth0\" : drop }",
        "iifname . oifname vmap { \"cali*\" . \"eth0\" : drop }",
        "iifname . ip saddr vmap { \"cali1\" . 172.16.0.0/16 : drop }",
        "iifname vmap { \"cali*\" : drop }",
        "iifname vmap { \"cali*\" : drop, * : accept }",
        "iifname vmap { \"eth*\" : accept, * : drop }",
    ] {
        let found = forward(rule).rules;
        assert!(meets_what_comes_by(&found, "cali1"), "{rule}: {found:?}");
    }
}

#[test]
fn the_star_of_a_map_of_states_has_the_established_where_they_are_not_named() {
    for (rule, expected) in [
        ("ct state vmap { established : accept, * : drop }", 0),
        ("ct state vmap { new : accept, * : drop }", 1),
        ("ct state vmap { new : drop, * : accept }", 0),
        ("ct state . meta l4proto vmap { established . tcp : drop }", 1),
    ] {
        let found = forward(rule).rules;
        assert_eq!(refusing(&found).len(), expected, "{rule}: {found:?}");
    }
}

#[test]
fn what_hangs_on_a_set_that_changes_without_a_word_has_to_see_every_packet() {
    let with = |set: &str, rules: &str| -> Rules {
        let text = format!(
            "table ip t {{
                set s {{\n type ipv4_addr; {set}\n}}
                chain elsewhere {{\n {}\n}}
                chain forward {{\n type filter hook forward priority 0;\n {rules}\n}}
             }}\n",
            if set.starts_with("size") { "add @s { ip saddr }" } else { "" }
        );
        found_with(Box::leak(text.into_boxed_str())).rules
    };
    let drop = "tcp dport 80 ip saddr @s drop";
    for (set, what) in [
        ("flags dynamic;", "a verdict by the set s, which packets fill"),
        ("size 100;", "a verdict by the set s, which packets fill"),
        ("flags timeout;", "a verdict by the set s, whose elements expire"),
        ("flags interval, timeout;", "a verdict by the set s, whose elements expire"),
        (
            "limit rate 10/second; elements = { 10.0.0.1 }",
            "a verdict by the set s, whose elements have limits",
        ),
    ] {
        for rule in [drop, "ip saddr @s accept\ntcp dport 80 drop"] {
            let found = with(set, rule);
            assert_eq!(words(&found.every_packet), [what], "{set}: {rule}");
            // It may hold any address by the time that a packet comes.
            assert!(meets(&found.every_packet[0], "172.16.0.0/16", "172.16.0.0/16"), "{set}: {rule}");
        }
        let after = with(set, &format!("ct state established accept\n{drop}"));
        assert_eq!(words(&after.first_packets), [what], "{set}: only first packets come there");
    }
    let found = with("counter; elements = { 10.0.0.1 }", drop);
    assert!(found.every_packet.is_empty() && !meets(&found.running[0], "172.16.0.0/16", "10.0.0.0/8"));
}

#[test]
fn a_map_of_verdicts_whose_elements_expire_may_send_anybody_anywhere() {
    let found = found_with(
        "table ip t {
            map m {\n type ipv4_addr : verdict; flags timeout; elements = { 10.0.0.1 timeout 1h : accept }\n}
            chain forward {\n type filter hook forward priority 0;\n ip saddr vmap @m\n}
         }\n",
    );
    let [verdicts] = found.rules.every_packet.as_slice() else { panic!("{:?}", found.rules) };
    assert_eq!(verdicts.what, "verdicts by the set m, whose elements expire");
    assert!(meets(verdicts, "172.16.0.0/16", "172.16.0.0/16"));
}

#[test]
fn objects_by_what_a_packet_brings_are_of_the_kind_that_the_map_has() {
    for (kind, object, expected) in [
        ("limit", "limit o {\n rate 10/second\n}", vec!["limit"]),
        ("quota", "quota o {\n over 10 mbytes\n}", vec!["quota"]),
        ("counter", "counter o {\n packets 0 bytes 0\n}", vec![]),
    ] {
        let text = format!(
            "table ip t {{
                {object}
                map m {{\n type ipv4_addr : {kind}; elements = {{ 172.16.36.1 : \"o\" }}\n}}
                chain forward {{\n type filter hook forward priority 0;\n {kind} name ip saddr map @m drop\n}}
             }}\n"
        );
        let found = found_with(Box::leak(text.into_boxed_str())).rules;
        assert_eq!(words(&found.every_packet), expected, "{kind}: {found:?}");
    }
}
