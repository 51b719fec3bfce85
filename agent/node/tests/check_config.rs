//! `manxd --check-config` against directories of its own: what it says, and how it ends.

use std::{fs, path::Path, process::Command};

const CLUSTER: &str = "\
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: kw01}
spec: {bgp: {ipv4Address: 10.0.0.1/24}}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 10.0.0.250, asNumber: 65001, password: {secretKeyRef: {name: tor, key: password}}}
";

struct Run {
    code: i32,
    out: String,
    err: String,
}

fn check(dir: &Path, flags: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_manxd"))
        .args(["--check-config", "--node-name", "kw01"])
        .args(flags)
        .env_clear()
        .env("MANX_DATASTORE", format!("dir:{}", dir.join("store").display()))
        .env("MANX_SECRETS", dir.join("secrets"))
        .env("MANX_STATE_DIR", dir.join("state"))
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&dir.display().to_string(), "DIR");
    Run { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn lab() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("store")).unwrap();
    fs::create_dir_all(dir.path().join("secrets/tor")).unwrap();
    fs::write(dir.path().join("store/cluster.yaml"), CLUSTER).unwrap();
    fs::write(dir.path().join("secrets/tor/password"), "a-password-that-nobody-sees\n").unwrap();
    dir
}

#[test]
fn what_is_good_is_said_to_be_and_changes_nothing() {
    let dir = lab();
    let run = check(dir.path(), &[]);
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{}", run.out);
    assert_eq!(run.out, "Node kw01: AS 64512, 1 peers, 0 own blocks, 0 pools\nthe configuration is good\n");
    assert!(!dir.path().join("state").exists());
}

#[test]
fn all_that_is_wrong_is_said_at_once_and_no_password_is() {
    let dir = lab();
    fs::write(
        dir.path().join("store/bad.yaml"),
        "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: p}\nspec: {peerIP: 10.0.0.300}\n",
    )
    .unwrap();
    fs::remove_file(dir.path().join("secrets/tor/password")).unwrap();
    fs::write(dir.path().join("state"), "").unwrap();
    let run = check(dir.path(), &["--log-level", "loud", "--uplink", "("]);
    assert_eq!(run.code, 1);
    for expected in [
        "error: the log level \"loud\": write error, warn, info",
        "error: --uplink \"(\" is no regular expression: ",
        "error: --state-dir DIR/state: is there, and is no directory",
        "error: DIR/store/bad.yaml:4:16: BGPPeer \"p\": spec.peerIP: ",
        "error: BGPPeer/tor: the password for 10.0.0.250 (DIR/secrets/tor/password does not exist, and the datastore has no Secret/tor): there would be no session",
    ] {
        assert!(run.out.contains(expected), "{expected}\n{}", run.out);
    }
    assert!(run.err.starts_with("error: manxd would not do all that is asked for: 5 errors"), "{}", run.err);
    fs::write(dir.path().join("secrets/tor/password"), "x".repeat(200)).unwrap();
    let long = check(dir.path(), &[]);
    assert!(long.code == 1 && !long.out.contains("xxxx"), "{}", long.out);
}

#[test]
fn a_node_that_does_not_exist_and_a_store_that_is_none_are_errors() {
    let dir = lab();
    let run = check(dir.path(), &["--node-name", "kw02"]);
    assert_eq!(run.code, 2, "a flag given twice");
    fs::write(dir.path().join("store/cluster.yaml"), CLUSTER.replace("kw01", "kw02")).unwrap();
    let run = check(dir.path(), &[]);
    assert!(
        run.code == 1 && run.out.contains("error: there is no Node \"kw01\"; did you mean kw02?"),
        "{}",
        run.out
    );
    let run = check(dir.path(), &["--datastore", "/etc/manx"]);
    assert!(run.code == 1 && run.out.contains("is a path alone; write dir:/etc/manx"), "{}", run.out);
    // One that is not there yet the daemon waits for; here somebody asks now.
    fs::remove_dir_all(dir.path().join("store")).unwrap();
    let run = check(dir.path(), &[]);
    assert!(run.code == 1 && run.out.contains("DIR/store"), "{}", run.out);
}
