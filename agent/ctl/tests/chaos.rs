//! Any command line and any input end in an answer and a documented exit code.

mod program;

use program::{Lab, cluster};
use proptest::prelude::*;

/// Words that command lines are made of, right ones and wrong ones.
const WORDS: &[&str] = &[
    "ipam",
    "get",
    "apply",
    "create",
    "replace",
    "delete",
    "patch",
    "label",
    "validate",
    "plan",
    "lint",
    "version",
    "completion",
    "node",
    "status",
    "nodes",
    "bgppeer",
    "pool",
    "bgpconfig",
    "affinity",
    "show",
    "--show-blocks",
    "--show-borrowed",
    "--ip",
    "10.0.0.1",
    "ipamblock",
    "nothing",
    "k8s-worker-01",
    "default",
    "",
    "-",
    "-f",
    "-R",
    "-o",
    "-p",
    "-n",
    "-A",
    "--type",
    "json",
    "yaml",
    "yml",
    "wide",
    "name",
    "merge",
    "strategic",
    "bash",
    "zsh",
    "--export",
    "--overwrite",
    "--remove",
    "--skip-exists",
    "--skip-not-exists",
    "--skip-empty",
    "-s",
    "--node",
    "--client",
    "a=b",
    "rack",
    "a.b/c=d",
    "=",
    "custom-columns=NAME",
    "custom-columns=A:.metadata.name,B:.spec..",
    "custom-columns=A:",
    "jsonpath={..*}",
    "jsonpath={range .items[*]}{.metadata}{end}",
    "jsonpath={",
    "{}",
    "[]",
    "null",
    "{spec: {asNumber: 7}}",
    "{\"spec\": null}",
    "{\"metadata\": {\"name\": null}}",
    "{\"$patch\": \"delete\"}",
    "{\"$patch\": 1}",
    "[{\"op\": \"remove\", \"path\": \"\"}]",
    "[{\"op\": \"remove\", \"path\": \"/spec\"}]",
    "[{\"op\": \"add\", \"path\": \"/metadata/labels/x\", \"value\": [1]}]",
    "{kind: &a x, spec: *a}",
    "store",
    "in.yaml",
    "--help",
    "-h",
    "--version",
    "--datastore",
    "dir:store",
    "dir:/nothing/here",
    "etcd://127.0.0.1:1",
    "x:y",
    "--socket",
    "no.sock",
];

const TEXTS: &[&str] = &[
    "",
    "{}",
    "[]",
    "---\n---\n",
    "kind: Node\n",
    "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: a\n",
    "apiVersion: projectcalico.org/v3\nkind: NodeList\nitems:\n- apiVersion: projectcalico.org/v3\n  kind: Node\n  metadata: {name: b, resourceVersion: '7'}\n",
    "{\"apiVersion\": \"projectcalico.org/v3\", \"kind\": \"BGPPeer\", \"metadata\": {\"name\": \"p\", \"resourceVersion\": 1e400}, \"spec\": {\"peerIP\": \"10.0.0.1\"}}",
    "a: &a [*a]\n",
    "- - - -\n",
    "? [x]: y\n",
    "\u{feff}%YAML 1.1\n---\n",
    "key: |+\n\n\n",
    "\0",
];

fn ends_well(lab: &Lab, args: &[&str], stdin: &str) -> Result<(), TestCaseError> {
    let run = lab.run_with(args, stdin);
    prop_assert!([0, 1, 2, 3].contains(&run.code), "{args:?} ended in {}: {}", run.code, run.stderr);
    let said = format!("{}{}", run.stdout, run.stderr);
    prop_assert!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "{args:?}: {said}");
    // Whoever is refused is told why.
    prop_assert!(run.code == 0 || !said.is_empty(), "{args:?} ended in {} without a word", run.code);
    Ok(())
}

#[test]
fn no_command_line_and_no_input_makes_manxctl_panic() {
    let lab = cluster();
    lab.file("in.yaml", TEXTS[5]);
    let word = || prop_oneof![8 => prop::sample::select(WORDS).prop_map(str::to_owned), 1 => "[^\0]{0,12}"];
    let text = prop_oneof![
        3 => prop::sample::select(TEXTS).prop_map(str::to_owned),
        1 => "\\PC{0,80}|[-a:#&*!|>'\"%@`{}\\[\\],?~ \n\t\r0-9.]{0,80}",
    ];
    let verb = prop::sample::select(&WORDS[..14]).prop_map(str::to_owned);
    let line = (verb, prop::collection::vec(word(), 0..7), text);
    let config = ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |((verb, mut args, text) in line)| {
        args.insert(0, verb);
        // One that would wait for changes is not asked here.
        let args: Vec<&str> = args.iter().map(String::as_str).filter(|word| *word != "top").collect();
        ends_well(&lab, &args, &text)?;
    });
}
