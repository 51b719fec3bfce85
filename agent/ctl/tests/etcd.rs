//! Every verb against Debian's etcd, in a namespace of its own: the same words and exit codes as with a directory.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use manx_tests::{
    etcd::{self, Etcd},
    netns::Netns,
};

const PEER: &str = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata:
  name: rack-7
spec:
  asNumber: 64512
  peerIP: 10.0.0.1
";

struct Lab {
    ns: Netns,
    _etcd: Etcd,
    _directory: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        let directory = etcd::directory().unwrap();
        let ns = Netns::new("ctl-etcd").unwrap();
        ns.sh("ip link set lo up").unwrap();
        let etcd = Etcd::start(&ns, "127.0.0.1", directory.path()).unwrap();
        Lab { ns, _etcd: etcd, _directory: directory }
    }

    /// Exit code, and what is said on stdout and stderr.
    fn run(&self, args: &[&str], stdin: &str) -> (i32, String, String) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let stdin = stdin.to_owned();
        self.ns.run(move || {
            let mut child = Command::new(env!("CARGO_BIN_EXE_manxctl"))
                .args(args)
                .env_clear()
                .env("MANX_DATASTORE", "etcd://127.0.0.1:2379")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let _unread = child.stdin.take().unwrap().write_all(stdin.as_bytes());
            let output = child.wait_with_output().unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
        })
    }

    fn ok(&self, args: &[&str], stdin: &str) -> String {
        let (code, stdout, stderr) = self.run(args, stdin);
        assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
        stdout
    }

    fn fails(&self, args: &[&str], stdin: &str) -> String {
        let (code, stdout, stderr) = self.run(args, stdin);
        assert_eq!((code, stdout.as_str()), (1, ""), "{args:?}");
        stderr
    }
}

#[test]
fn every_verb_works_against_etcd_too() {
    let lab = Lab::new();
    assert_eq!(lab.ok(&["create", "-f", "-"], PEER), "Successfully created 1 'BGPPeer' resource(s)\n");
    let said = lab.fails(&["create", "-f", "-"], PEER);
    assert!(said.starts_with("error: Failed to create 'BGPPeer' resource: [resource already exists: BGPPeer(rack-7); it stands in etcd://"), "{said}");
    let seen = lab.ok(&["get", "bgppeer", "rack-7", "-o", "yaml"], "");
    assert!(seen.contains("  resourceVersion: '"), "{seen}");
    assert_eq!(
        lab.ok(&["patch", "bgppeer", "rack-7", "-p", "{spec: {asNumber: 64513}}"], ""),
        "Successfully patched 1 'BGPPeer' resource\n"
    );
    for verb in ["replace", "apply", "delete"] {
        let said = lab.fails(&[verb, "-f", "-"], &seen);
        assert!(said.contains("[update conflict: BGPPeer(rack-7); version "), "{said}");
    }
    assert_eq!(
        lab.ok(&["label", "bgppeer", "rack-7", "rack=7"], ""),
        "Successfully set label rack on bgppeer rack-7\n"
    );
    let seen = lab.ok(&["get", "bgppeer", "rack-7", "-o", "json"], "");
    let said: serde_json::Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(
        (&said["spec"]["asNumber"], &said["metadata"]["labels"]["rack"]),
        (&64513.into(), &"7".into())
    );
    assert_eq!(
        lab.ok(&["replace", "-f", "-"], &seen.replace("64513", "64514")),
        "Successfully replaced 1 'BGPPeer' resource(s)\n"
    );
    assert_eq!(
        lab.ok(&["get", "bgppeers", "-o", "custom-columns=NAME,ASN"], "").lines().nth(1),
        Some("rack-7   64514   ")
    );
    assert!(lab.ok(&["get", "bgppeers", "-o", "yaml"], "").contains("metadata:\n  resourceVersion: '"));
    assert!(lab.ok(&["ipam", "show"], "").contains("| GROUPING |"));
    assert!(lab.ok(&["version"], "").contains("Cluster Version:   unknown\n"));
    assert_eq!(
        lab.ok(&["delete", "bgppeer", "rack-7"], ""),
        "Successfully deleted 1 'BGPPeer' resource(s)\n"
    );
    assert_eq!(
        lab.fails(&["delete", "bgppeer", "rack-7"], ""),
        "error: Failed to delete 'BGPPeer' resource: [resource does not exist: BGPPeer(rack-7)]\n"
    );
    assert_eq!(
        lab.ok(&["delete", "bgppeer", "rack-7", "--skip-not-exists"], ""),
        "Successfully deleted 0 'BGPPeer' resource(s)\n"
    );
}
