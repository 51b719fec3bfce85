//! Creating, replacing, deleting and editing in a directory: what is asked of the object that is there, and what the
//! files look like afterwards.

use std::{fs, path::Path, time::Instant};

use manx_datastore::{Datastore, Manifest, Write, WriteError, Written};
use manx_resources::{Key, Kind, Resource, parse};
use proptest::prelude::*;

fn node(name: &str, address: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: {name}\nspec:\n  bgp:\n    ipv4Address: {address}/24\n"
    )
}

fn manifest(text: &str) -> Manifest {
    let parsed = parse("input.yaml", text);
    assert_eq!(parsed.problems, []);
    Manifest::of(text, &parsed).remove(0)
}

fn store(directory: &Path) -> Datastore {
    Datastore::Directory(directory.to_owned())
}

fn write(directory: &Path, write: Write) -> Result<Written, String> {
    let said =
        |refused: Vec<WriteError>| refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let written = store(directory).write(&[write]).map_err(said);
    written.map(|written| written[0]).map_err(|text| text.replace(&directory.display().to_string(), "DIR"))
}

fn key(name: &str) -> Key {
    Key::new(Kind::Node, name)
}

fn create(text: &str) -> Write {
    Write::Create { manifest: manifest(text), skip_existing: false }
}

fn delete(name: &str) -> Write {
    Write::Delete { key: key(name), version: None, skip_absent: false }
}

fn version(directory: &Path, name: &str) -> String {
    store(directory).read_versions(&Kind::ALL).versions[&key(name)].clone()
}

fn with_version(text: &str, version: &str) -> String {
    text.replace("metadata:\n", &format!("metadata:\n  resourceVersion: {version:?}\n"))
}

#[test]
fn create_fails_if_it_is_there_and_replace_if_it_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let a = node("a", "10.0.0.1");
    assert_eq!(
        write(dir.path(), Write::Replace(manifest(&a))).unwrap_err(),
        "resource does not exist: Node(a)"
    );
    assert_eq!(write(dir.path(), create(&a)), Ok(Written::Created));
    assert_eq!(
        write(dir.path(), create(&a)).unwrap_err(),
        "resource already exists: Node(a); it stands in DIR/node.a.yaml; apply or replace changes it"
    );
    let skipping = Write::Create { manifest: manifest(&node("a", "10.0.0.9")), skip_existing: true };
    assert_eq!(write(dir.path(), skipping), Ok(Written::Skipped));
    assert_eq!(fs::read_to_string(dir.path().join("node.a.yaml")).unwrap(), a);
    assert_eq!(write(dir.path(), Write::Replace(manifest(&node("a", "10.0.0.2")))), Ok(Written::Replaced));
    assert_eq!(write(dir.path(), Write::Replace(manifest(&node("a", "10.0.0.2")))), Ok(Written::Unchanged));
}

#[test]
fn two_writers_of_one_object_one_is_told_of_the_conflict() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), create(&node("a", "10.0.0.1"))).unwrap();
    let seen = version(dir.path(), "a");
    let mine = with_version(&node("a", "10.0.0.2"), &seen);
    assert_eq!(write(dir.path(), Write::Replace(manifest(&mine))), Ok(Written::Replaced));
    let text = fs::read_to_string(dir.path().join("node.a.yaml")).unwrap();
    assert_eq!(text, node("a", "10.0.0.2"), "a version is never written");
    let theirs = with_version(&node("a", "10.0.0.3"), &seen);
    let found = version(dir.path(), "a");
    let conflict = format!(
        "update conflict: Node(a); version {seen} was changed, and {found} is there now: read it again (manxctl get node a \
         -o yaml), make the change there, and write that"
    );
    assert_eq!(write(dir.path(), Write::Replace(manifest(&theirs))).unwrap_err(), conflict);
    assert_eq!(write(dir.path(), Write::Apply(manifest(&theirs))).unwrap_err(), conflict);
    let delete = Write::Delete { key: key("a"), version: Some(seen), skip_absent: false };
    assert_eq!(write(dir.path(), delete).unwrap_err(), conflict);
    assert_eq!(fs::read_to_string(dir.path().join("node.a.yaml")).unwrap(), node("a", "10.0.0.2"));
}

/// What `calicoctl get -o yaml` printed of another cluster can be applied as it is, again and again.
#[test]
fn a_version_of_another_datastore_hinders_a_replacement_and_no_apply() {
    let dir = tempfile::tempdir().unwrap();
    let calicos = with_version(&node("a", "10.0.0.1"), "123456");
    let said = write(dir.path(), create(&calicos)).unwrap_err();
    assert!(
        said.starts_with("error with field Metadata.ResourceVersion = '123456' (field must not be set"),
        "{said}"
    );
    assert_eq!(write(dir.path(), Write::Apply(manifest(&calicos))), Ok(Written::Created));
    assert_eq!(write(dir.path(), Write::Apply(manifest(&calicos))), Ok(Written::Unchanged));
    let said = write(dir.path(), Write::Replace(manifest(&calicos))).unwrap_err();
    assert!(said.starts_with("update conflict: Node(a); version 123456 is of another datastore"), "{said}");
}

#[test]
fn what_is_deleted_goes_with_its_separator_and_its_file_if_that_is_empty_then() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.yaml");
    let [a, b, c] = ["a", "b", "c"].map(|name| node(name, "10.0.0.1"));
    fs::write(&path, format!("# the cluster\n{a}---\n{b}# after b\n---\n# before c\n{c}")).unwrap();
    assert_eq!(
        write(dir.path(), delete("bb")).unwrap_err(),
        "resource does not exist: Node(bb); did you mean b?"
    );
    let skipping = Write::Delete { key: key("x"), version: None, skip_absent: true };
    assert_eq!(write(dir.path(), skipping), Ok(Written::Skipped));
    assert_eq!(write(dir.path(), delete("b")), Ok(Written::Deleted));
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, format!("# the cluster\n{a}# after b\n---\n# before c\n{c}"));
    assert_eq!(write(dir.path(), delete("c")), Ok(Written::Deleted));
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("# the cluster\n{a}# after b\n---\n# before c\n"));
    write(dir.path(), create(&node("d", "10.0.0.4"))).unwrap();
    assert_eq!(write(dir.path(), delete("d")), Ok(Written::Deleted));
    assert!(!dir.path().join("node.d.yaml").exists(), "nothing was left in it");
    assert_eq!(write(dir.path(), delete("a")), Ok(Written::Deleted));
    assert!(path.exists(), "comments are worth keeping");
    assert!(store(dir.path()).read().snapshot.is_empty());
}

#[test]
fn several_changes_are_all_made_or_none_and_all_faults_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.yaml");
    let before = format!("{}---\n{}", node("a", "10.0.0.1"), node("b", "10.0.0.2"));
    fs::write(&path, &before).unwrap();
    let writes = [delete("a"), create(&node("b", "10.0.0.3")), delete("x"), create(&node("c", "10.0.0.4"))];
    let refused = store(dir.path()).write(&writes).unwrap_err();
    assert!(
        matches!(refused.as_slice(), [WriteError::Exists { .. }, WriteError::Absent { .. }]),
        "{refused:?}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let writes =
        [delete("a"), create(&node("c", "10.0.0.4")), Write::Apply(manifest(&node("b", "10.0.0.3")))];
    let written = store(dir.path()).write(&writes).unwrap();
    assert_eq!(written, [Written::Deleted, Written::Created, Written::Replaced]);
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("---\n{}", node("b", "10.0.0.3")));
}

#[test]
fn a_file_that_cannot_take_its_place_puts_the_others_back() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("1.yaml"), node("a", "10.0.0.1")).unwrap();
    // A directory of that name lets nothing be renamed over it, and is no file that counts.
    fs::create_dir(dir.path().join("node.b.yaml")).unwrap();
    let writes = [Write::Apply(manifest(&node("a", "10.0.0.9"))), create(&node("b", "10.0.0.2"))];
    let refused = store(dir.path()).write(&writes).unwrap_err();
    assert!(matches!(refused.as_slice(), [WriteError::Io { .. }]), "{refused:?}");
    assert_eq!(fs::read_to_string(dir.path().join("1.yaml")).unwrap(), node("a", "10.0.0.1"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside them");
}

#[test]
fn a_pool_is_not_written_over_another_or_as_another() {
    let dir = tempfile::tempdir().unwrap();
    let pool = |name: &str, cidr: &str| {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: {cidr}}}\n"
        );
        Write::Apply(manifest(&text))
    };
    assert_eq!(write(dir.path(), pool("a", "10.0.0.0/16")), Ok(Written::Created));
    let said = write(dir.path(), pool("a", "10.1.0.0/16")).unwrap_err();
    assert!(
        said.starts_with("DIR: IPPool \"a\": spec.cidr: IPPool CIDR cannot be modified; it is 10.0.0.0/16"),
        "{said}"
    );
    let said = write(dir.path(), pool("b", "10.0.7.0/24")).unwrap_err();
    assert_eq!(said, "DIR: IPPool \"b\": spec.cidr: IPPool(b) CIDR overlaps with IPPool(a) CIDR 10.0.0.0/16");
    // Two at once that overlap each other.
    let refused = store(dir.path()).write(&[pool("c", "10.2.0.0/16"), pool("d", "10.2.0.0/17")]).unwrap_err();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

fn changed(directory: &Path, name: &str, change: impl FnOnce(&mut serde_json::Value)) -> Write {
    let reading = store(directory).read_versions(&Kind::ALL);
    let mut document = reading.update.snapshot.get(&key(name)).unwrap().document().clone();
    change(&mut document);
    let resource: Resource = parse("edited", &document.to_string()).documents.remove(0).resource;
    Write::Edit { resource, version: reading.versions[&key(name)].clone() }
}

#[test]
fn an_edit_keeps_every_comment_and_says_where_it_could_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.yaml");
    let text = format!(
        "# all\n{}---\n{}",
        node("a", "10.0.0.1").replace("spec:", "# here\nspec: # too"),
        node("b", "10.0.0.2")
    );
    fs::write(&path, &text).unwrap();
    let edit = changed(dir.path(), "a", |node| node["spec"]["bgp"]["asNumber"] = 65000.into());
    let again = edit.clone();
    assert_eq!(write(dir.path(), edit), Ok(Written::Replaced));
    let edited = text.replacen("10.0.0.1/24\n", "10.0.0.1/24\n    asNumber: 65000\n", 1);
    assert_eq!(fs::read_to_string(&path).unwrap(), edited);
    assert!(write(dir.path(), again).unwrap_err().starts_with("update conflict: Node(a)"));
    fs::write(
        &path,
        "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: &n a, labels: {x: *n}}\n",
    )
    .unwrap();
    let edit = changed(dir.path(), "a", |node| node["spec"]["bgp"]["asNumber"] = 65000.into());
    assert_eq!(write(dir.path(), edit), Ok(Written::Rewritten));
    assert_eq!(store(dir.path()).read().snapshot.node("a").unwrap().metadata.labels["x"], "a");
}

/// In one file, all changed at once: once in a minute if each were parsed anew.
#[test]
fn ten_thousand_documents_of_one_file_are_changed_in_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let text = |third: usize| -> String {
        let one = |n: usize| node(&format!("n{n}"), &format!("10.{third}.{}.{}", n >> 8, n & 255)) + "---\n";
        (0..10_000).map(one).collect()
    };
    fs::write(dir.path().join("all.yaml"), text(0)).unwrap();
    let new = text(1);
    let manifests = Manifest::of(&new, &parse("new", &new));
    let started = Instant::now();
    let writes: Vec<Write> = manifests.into_iter().map(Write::Apply).collect();
    let written = store(dir.path()).write(&writes).unwrap();
    println!("took {:?}", started.elapsed());
    assert!(written.iter().all(|written| *written == Written::Replaced));
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
    assert_eq!(fs::read_to_string(dir.path().join("all.yaml")).unwrap(), new);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_deletion_leaves_the_other_documents_and_every_comment(
        parts in prop::collection::vec((0..4_usize, 0..3_usize, 0..4_usize), 1..5),
        which in any::<prop::sample::Index>(),
        first_has_separator: bool,
    ) {
        let before = ["", "# before\n", "\n\n", "# a\n\n# b: c\n"];
        let after = ["", "# after\n", "\n# x\n\n", "...\n# after the end\n"];
        let which = which.index(parts.len());
        let mut text = String::new();
        for (index, (lead, style, tail)) in parts.iter().enumerate() {
            if index > 0 || first_has_separator {
                text.push_str("---\n");
            }
            let body = node(&format!("n{index}"), "10.0.0.1");
            let body = match style {
                0 => body,
                1 => body.replace('\n', "\r\n"),
                _ => format!("{{apiVersion: projectcalico.org/v3, kind: Node, metadata: {{name: n{index}}}}}\n"),
            };
            text.push_str(&format!("{}{body}{}", before[*lead], after[*tail]));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("all.yaml");
        prop_assume!(parse("x", &text).problems.is_empty() && parse("x", &text).documents.len() == parts.len());
        fs::write(&path, &text).unwrap();
        let gone = key(&format!("n{which}"));
        let mut expected = store(dir.path()).read().snapshot.as_ref().clone();
        expected.remove(&gone);
        let deletion = Write::Delete { key: gone, version: None, skip_absent: false };
        prop_assert_eq!(write(dir.path(), deletion), Ok(Written::Deleted));
        let left = fs::read_to_string(&path).unwrap_or_default();
        let comments = |text: &str| text.lines().filter(|line| line.starts_with('#')).count();
        prop_assert_eq!(comments(&left), comments(&text));
        let now = store(dir.path()).read();
        prop_assert!(!now.has_errors());
        prop_assert_eq!(now.snapshot.as_ref(), &expected);
    }
}
