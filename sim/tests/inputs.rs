//! What fuzzing feeds, without the fuzzer: the corpus that is kept beside the fuzz targets, and random inputs.

use std::{fs, path::Path};

use manx_sim::input;
use proptest::prelude::*;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/bgp/fuzz/corpus").join(target);
    let mut inputs: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "there is a corpus in {}", folder.display());
    for path in inputs {
        println!("{}", path.display());
        run(&fs::read(path).unwrap());
    }
}

#[test]
fn the_corpus_of_messages_leaves_the_speaker_right() {
    replay("messages", input::messages);
}

#[test]
fn the_corpus_of_events_leaves_the_speaker_right() {
    replay("events", input::events);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_events_leave_the_speaker_right(input in prop::collection::vec(any::<u8>(), 0..500)) {
        input::events(&input);
    }

    #[test]
    fn any_messages_leave_the_speaker_right(input in prop::collection::vec(any::<u8>(), 0..300)) {
        input::messages(&input);
    }
}
