//! FelixConfiguration and CalicoNodeStatus: what is taken, what is refused, and that nothing of a document is lost.

use manx_resources::{Kind, Resource, parse, to_yaml};

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n{spec}")
}

fn problems(text: &str) -> Vec<String> {
    parse("f.yaml", text).problems.iter().map(ToString::to_string).collect()
}

#[test]
fn felixs_own_settings_are_known_by_name_and_kept_and_a_slip_is_told() {
    let text = document(
        "FelixConfiguration",
        "default",
        "  bpfEnabled: false\n  bpfLogLevel: ''\n  floatingIPs: Disabled\n  logSeverityScreen: Info\n  wireguardEnabled: true\n",
    );
    let parsed = parse("f.yaml", &text);
    assert_eq!(parsed.problems, []);
    let Resource::FelixConfiguration(object) = &parsed.documents[0].resource else { panic!("{parsed:?}") };
    assert_eq!(object.spec.bpf_enabled, Some(false));
    let again = parse("again.yaml", &to_yaml(&object.document));
    assert_eq!(again.documents[0].resource.document(), &object.document);
    let slip = problems(&text.replace("bpfEnabled", "bpfEnabeld"));
    assert!(slip.len() == 1 && slip[0].contains("did you mean bpfEnabled?"), "{slip:?}");
    for (wrong, said) in [
        ("  bpfEnabled: 1\n", "is neither true nor false"),
        (
            "  programClusterRoutes: On\n",
            "is not one of Enabled, Disabled, EnabledIPIPOnly, EnabledNoEncapOnly",
        ),
        ("  ipv4NormalRoutePriority: 0\n", "is not a number from 1 to 2147483646"),
        ("  serviceLoopPrevention: No\n", "is not one of Drop, Reject, Disabled"),
        ("  deviceRouteProtocol: 256\n", "is not a number from 0 to 255"),
    ] {
        let found = problems(&document("FelixConfiguration", "default", wrong));
        assert!(found.len() == 1 && found[0].contains(said), "{wrong}: {found:?}");
    }
    let found = problems(&document("FelixConfiguration", "other", "  bpfEnabled: true\n"));
    assert!(found.len() == 1 && found[0].contains("under the name default or node.NAME only"), "{found:?}");
}

#[test]
fn a_node_status_says_of_which_node_what_and_how_often() {
    let good = "  node: kw01\n  classes: [Agent, BGP, Routes]\n  updatePeriodSeconds: 10\n";
    let text = document("CalicoNodeStatus", "kw01", good);
    let parsed = parse("f.yaml", &text);
    assert_eq!(parsed.problems, []);
    let resource = &parsed.documents[0].resource;
    assert_eq!(resource.kind(), Kind::CalicoNodeStatus);
    // What Calico has written there stays.
    let with_status =
        format!("{text}status:\n  lastUpdated: '2026-01-01T00:00:00Z'\n  bgp: {{numberEstablishedV4: 2}}\n");
    let parsed = parse("f.yaml", &with_status);
    assert_eq!(parsed.problems, []);
    assert_eq!(parsed.documents[0].resource.document()["status"]["bgp"]["numberEstablishedV4"], 2);
    for (wrong, said) in [
        (good.replace("kw01", "''"), "spec.node"),
        (good.replace("Agent, BGP", "Agent, Agent"), "\"Agent\" is given twice"),
        (good.replace("Agent", "agents"), "is not one of Agent, BGP, Routes"),
        (good.replace("10", "86401"), "is not a number from 0 to 86400"),
        (good.replace("  updatePeriodSeconds: 10\n", ""), "spec.updatePeriodSeconds: is missing"),
    ] {
        let found = problems(&document("CalicoNodeStatus", "kw01", &wrong));
        assert!(!found.is_empty() && found.iter().any(|found| found.contains(said)), "{wrong}: {found:?}");
    }
}

#[test]
fn numbers_of_fields_that_nobody_here_knows_are_written_as_they_were() {
    for number in ["0", "-1", "9223372036854775807", "-9223372036854775808", "18446744073709551615", "1.5"] {
        let text = document("FelixConfiguration", "default", &format!("  future: {number}\n"));
        let parsed = parse("f.yaml", &text);
        let written = to_yaml(parsed.documents[0].resource.document());
        assert!(written.contains(&format!("future: {number}\n")), "{number}: {written}");
    }
}
