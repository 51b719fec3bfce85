//! The sixty behaviours that the speaker has to get right: each is named by its number beside a test that shows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Where tests are.
const FOLDERS: [&str; 3] = ["agent", "sim", "tests"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The numbers in "Behaviours 8, 13 and 29 to 31: ...", anywhere in a comment.
fn numbers(comment: &str) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let lower = comment.to_lowercase();
    for after in lower.split("behaviour").skip(1) {
        let words = after.trim_start_matches('s').split_whitespace();
        let mut range = None;
        for word in words {
            let ends = word.ends_with([':', '.', ';']);
            match (word.trim_end_matches([',', ':', '.', ';', ')']).parse::<u32>(), word) {
                (Ok(number), _) => found.extend(range.take().unwrap_or(number)..=number),
                (_, "to") => range = found.last().copied(),
                (_, "and") => {}
                _ => break,
            }
            if ends {
                break;
            }
        }
    }
    found
}

/// Each test of a file by its name, with the behaviours in the comment above it.
fn tests(source: &str) -> Vec<(String, BTreeSet<u32>)> {
    let mut found = Vec::new();
    let (mut comment, mut is_test) = (String::new(), false);
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("//") {
            comment.push_str(text.trim_start_matches('/'));
        } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if line.starts_with("#[") {
        } else {
            if let Some((_, after)) = line.split_once("fn ").filter(|_| is_test) {
                let name = after.split('(').next().unwrap_or_default().to_owned();
                found.push((name, numbers(&comment)));
            }
            (comment, is_test) = (String::new(), false);
        }
    }
    found
}

#[test]
fn each_of_the_sixty_behaviours_is_named_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    FOLDERS.iter().for_each(|folder| sources(&root.join(folder), &mut files));
    let mut shown: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for file in files {
        for (test, behaviours) in tests(&fs::read_to_string(&file).unwrap()) {
            for number in behaviours {
                shown.entry(number).or_default().push(test.clone());
            }
        }
    }
    for (number, tests) in &shown {
        println!("{number}: {}", tests.join(", "));
    }
    let missing: Vec<u32> = (1..=60).filter(|number| !shown.contains_key(number)).collect();
    assert!(missing.is_empty(), "no test names these behaviours: {missing:?}");
    assert_eq!(shown.keys().max(), Some(&60), "there are sixty");
}

#[test]
fn numbers_are_read_from_comments_as_people_write_them() {
    for (comment, expected) in [
        ("Behaviour 44: the classic case", &[44][..]),
        ("Behaviours 8, 13 and 29 to 31, from iBGP", &[8, 13, 29, 30, 31]),
        ("Behaviour 2 and RFC 4724 §4.2: the peer", &[2]),
        ("its change (behaviour 56).", &[56]),
        ("its behaviour in 3 cases", &[]),
        ("Behaviour 12. 13 peers", &[12]),
    ] {
        assert_eq!(numbers(comment), expected.iter().copied().collect(), "{comment}");
    }
    let source = "/// Behaviour 7.\n#[test]\nfn a() {}\n/// Behaviour 8.\nfn b() {}\n#[test]\nfn c() {}";
    assert_eq!(tests(source), [("a".to_owned(), BTreeSet::from([7])), ("c".to_owned(), BTreeSet::new())]);
}
