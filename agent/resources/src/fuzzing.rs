//! What the fuzzer calls (`cargo xtask fuzz`), and with it a test that replays its corpus; nobody else has it.

use std::collections::BTreeMap;

use crate::{Kind, Selector, collect, lint, parse, plan_all, to_yaml};

/// A selector ends in an answer, whatever stands there, and its negation in the other one.
pub fn selectors(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(selector) = Selector::parse(&text) else { return };
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric() && !"-_./".contains(c)).collect();
    let labels = |step: usize| -> BTreeMap<String, String> {
        let some = words.chunks(2).step_by(step);
        some.filter_map(|pair| Some((pair.first()?.to_string(), pair.last()?.to_string()))).collect()
    };
    let negated = Selector::parse(&format!("!({text})"));
    for labels in [BTreeMap::new(), labels(1), labels(2)] {
        let is = selector.matches(&labels);
        // Nesting is bounded; the empty selector has no negation.
        if let Ok(negated) = &negated {
            assert_eq!(negated.matches(&labels), !is, "{text:?} {labels:?}");
        }
    }
}

/// Any text ends in resources and problems, those in plans and findings, and what was accepted is written and read again
/// without loss.
pub fn documents(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let collected = collect([("fuzzed.yaml", &*text)]);
    for kind in Kind::ALL {
        for resource in collected.snapshot.of_kind(kind) {
            let written = to_yaml(resource.document());
            let again = parse("again.yaml", &written);
            let read: Vec<_> = again.documents.iter().map(|document| document.resource.document()).collect();
            assert_eq!(read, [resource.document()], "{written}");
        }
    }
    let _ = plan_all(&collected.snapshot);
    let _ = lint(&collected.snapshot);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let files = fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
        let files: Vec<Vec<u8>> = files.collect();
        assert!(files.len() > 3);
        files
    }

    #[test]
    fn the_corpus_of_selectors_and_documents_ends_in_answers() {
        corpus("selectors").iter().for_each(|input| selectors(input));
        corpus("documents").iter().for_each(|input| documents(input));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        /// A piece of a good document is cut out, doubled, or changed.
        #[test]
        fn documents_that_somebody_has_edited_end_in_answers(
            at in any::<prop::sample::Index>(), from in any::<prop::sample::Index>(), length in 0usize..40,
            with in "[ -~\\n]{0,6}",
        ) {
            let all = corpus("documents");
            let text = at.get(&all);
            let start = from.index(text.len());
            let end = (start + length).min(text.len());
            documents(&[&text[..start], with.as_bytes(), &text[end..]].concat());
            documents(&[&text[..end], &text[start..]].concat());
        }

        #[test]
        fn selectors_that_somebody_has_typed_end_in_answers(text in "[a-c!&|(){}'\", =]{0,40}") {
            selectors(text.as_bytes());
        }
    }
}
