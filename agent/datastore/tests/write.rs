//! Writing resources into a directory: what is replaced, what stays, what is refused.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use manx_datastore::{Datastore, Manifest, WriteError};
use manx_resources::parse;
use proptest::prelude::*;

fn node(name: &str, address: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: {name}\nspec:\n  bgp:\n    ipv4Address: {address}/24\n"
    )
}

fn apply(directory: &Path, text: &str) -> Result<(), WriteError> {
    let parsed = parse("input.yaml", text);
    assert_eq!(parsed.problems, []);
    Datastore::Directory(directory.to_owned()).apply(&Manifest::of(text, &parsed))
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_new_resource_gets_a_file_of_its_own_with_the_comments_that_came_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("# who: the network team\n{}", node("a", "10.0.0.1"));
    apply(dir.path(), &text).unwrap();
    assert_eq!(names(dir.path()), ["node.a.yaml"]);
    assert_eq!(fs::read_to_string(dir.path().join("node.a.yaml")).unwrap(), text);
}

#[test]
fn several_documents_become_several_files() {
    let dir = tempfile::tempdir().unwrap();
    apply(dir.path(), &format!("{}---\n{}", node("a", "10.0.0.1"), node("b", "10.0.0.2"))).unwrap();
    assert_eq!(names(dir.path()), ["node.a.yaml", "node.b.yaml"]);
    assert_eq!(fs::read_to_string(dir.path().join("node.b.yaml")).unwrap(), node("b", "10.0.0.2"));
}

#[test]
fn a_document_is_replaced_where_it_stands_and_all_around_it_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.yaml");
    let around = |middle: &str| {
        format!(
            "# the cluster\n---\n# first\n{}# after the first\n---   # the second\n{middle}# after the second\n...\n---\n{}",
            node("a", "10.0.0.1"),
            node("c", "10.0.0.3").trim_end(),
        )
    };
    fs::write(&path, around(&node("b", "10.0.0.2"))).unwrap();
    let new = node("b", "10.9.9.9").replace("spec:", "# moved\nspec:");
    apply(dir.path(), &new).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), around(&new));
    assert_eq!(names(dir.path()), ["all.yaml"]);
}

#[test]
fn the_last_document_without_a_line_end_is_replaced_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.yml");
    fs::write(&path, node("a", "10.0.0.1").trim_end()).unwrap();
    apply(dir.path(), &node("a", "10.0.0.2")).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), node("a", "10.0.0.2"));
}

#[test]
fn a_document_in_json_stays_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    let json = |address: &str| {
        let text = node("a", address);
        serde_json::to_string_pretty(parse("x", &text).documents[0].resource.document()).unwrap() + "\n"
    };
    fs::write(&path, json("10.0.0.1")).unwrap();
    apply(dir.path(), &node("a", "10.0.0.2")).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), json("10.0.0.2"));
}

#[test]
fn a_document_on_the_line_of_its_separator_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    fs::write(&path, "--- {apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: a}}\n# end\n")
        .unwrap();
    apply(dir.path(), &node("a", "10.0.0.2")).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("--- \n{}# end\n", node("a", "10.0.0.2")));
}

#[test]
fn mode_and_link_of_a_file_stay() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("real.yaml");
    fs::write(&target, node("a", "10.0.0.1")).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&target, dir.path().join("link.yaml")).unwrap();
    apply(dir.path(), &node("a", "10.0.0.2")).unwrap();
    assert!(dir.path().join("link.yaml").is_symlink());
    assert_eq!(fs::read_to_string(&target).unwrap(), node("a", "10.0.0.2"));
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(names(elsewhere.path()), ["real.yaml"]);
}

#[test]
fn a_file_with_an_error_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.yaml");
    let text = format!("{}---\nkind: Nodde\n", node("a", "10.0.0.1"));
    fs::write(&path, &text).unwrap();
    let error = apply(dir.path(), &node("a", "10.0.0.2")).unwrap_err();
    assert!(matches!(error, WriteError::Wrong(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn an_error_in_another_file_hinders_nobody() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad.yaml"), "kind: Nodde\n").unwrap();
    apply(dir.path(), &node("a", "10.0.0.2")).unwrap();
    assert_eq!(names(dir.path()), ["bad.yaml", "node.a.yaml"]);
}

#[test]
fn a_resource_that_stands_twice_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("1.yaml"), node("a", "10.0.0.1")).unwrap();
    fs::write(dir.path().join("2.yaml"), node("a", "10.0.0.1")).unwrap();
    let error = apply(dir.path(), &node("a", "10.0.0.2")).unwrap_err().to_string();
    assert_eq!(error.replace(&dir.path().display().to_string(), "DIR"), {
        "Node/a stands in DIR/1.yaml and in DIR/2.yaml; remove one of them first"
    });
}

#[test]
fn a_directory_that_does_not_exist_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let error = apply(&missing, &node("a", "10.0.0.2")).unwrap_err();
    assert!(matches!(error, WriteError::NoDirectory(_)), "{error}");
    assert!(!missing.exists());
}

#[test]
fn writers_take_turns_and_none_loses_what_another_wrote() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("all.yaml"),
        (0..8).map(|n| format!("---\n{}", node(&format!("n{n}"), "10.0.0.1"))).collect::<String>(),
    )
    .unwrap();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let dir = dir.path();
            scope.spawn(move || apply(dir, &node(&format!("n{n}"), &format!("10.1.0.{}", n + 1))).unwrap());
        }
    });
    let text = fs::read_to_string(dir.path().join("all.yaml")).unwrap();
    for n in 0..8 {
        assert!(text.contains(&format!("10.1.0.{}/24", n + 1)), "{text}");
    }
    assert_eq!(names(dir.path()), ["all.yaml"]);
}

/// A document in one of the forms that people write.
fn styled(style: usize, name: &str, address: &str) -> String {
    match style {
        0 => node(name, address),
        1 => node(name, address).replace("spec:", "# inside\nspec: # here too"),
        2 => format!(
            "{{\"apiVersion\": \"projectcalico.org/v3\", \"kind\": \"Node\",\n \"metadata\": {{\"name\": \"{name}\"}},\n\
             \"spec\": {{\"bgp\": {{\"ipv4Address\": \"{address}/24\"}}}}}}\n"
        ),
        3 => node(name, address).lines().map(|line| format!("  {line}\n")).collect(),
        4 => node(name, address).replace('\n', "\r\n"),
        5 => node(name, address)
            .replace("metadata:\n", "metadata:\n  annotations:\n    text: |\n      one\n\n      two\n"),
        _ => node(name, address) + "  orchRefs:\n  - nodeName: x\n    orchestrator: |\n      k8s\n",
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_stands_around_a_document_stays_byte_for_byte(
        parts in prop::collection::vec((0..5_usize, 0..7_usize, 0..5_usize), 1..5),
        which in any::<prop::sample::Index>(),
        style in 0..7_usize,
        first_has_separator: bool,
    ) {
        let before = ["", "# before\n", "\n\n", "# a\n\n# b: c\n", "\t\n"];
        let after = ["", "# after\n", "\n# x\n\n", "...\n# after the end\n", "...\n"];
        let which = which.index(parts.len());
        let text = |replaced: Option<&str>| {
            let mut text = String::new();
            for (index, (lead, style, tail)) in parts.iter().enumerate() {
                if index > 0 || first_has_separator {
                    text.push_str("---\n");
                }
                text.push_str(before[*lead]);
                match replaced {
                    Some(body) if index == which => text.push_str(body),
                    _ => text.push_str(&styled(*style, &format!("n{index}"), "10.0.0.1")),
                }
                text.push_str(after[*tail]);
            }
            text
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("all.yaml");
        let old = text(None);
        // What is no valid file is another test's matter.
        prop_assume!(parse("x", &old).problems.is_empty() && parse("x", &old).documents.len() == parts.len());
        fs::write(&path, &old).unwrap();
        let new = styled(style, &format!("n{which}"), "10.0.0.99");
        apply(dir.path(), &new).unwrap();
        prop_assert_eq!(fs::read_to_string(&path).unwrap(), text(Some(&new)));
    }
}
