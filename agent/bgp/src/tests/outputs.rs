//! What the driver is told.

use super::{
    network::ip,
    script::{Script, config, mandatory, update},
};
use crate::{Event, Output, Speaker};

fn outputs(speaker: &mut Speaker) -> Vec<Output> {
    std::iter::from_fn(|| speaker.poll_output()).collect()
}

#[test]
fn a_driver_that_wants_no_best_paths_is_told_of_none_and_they_are_chosen_all_the_same() {
    for best_paths in [true, false] {
        let mut config = config(64512);
        config.best_paths = best_paths;
        let mut script = Script::established(config);
        let (conn, bytes) = (script.conn, update(&[], &mandatory(&[]), &["10.1.0.0/16"]));
        script.speaker.handle(Event::Received { conn, bytes }, script.now);
        let asked = outputs(&mut script.speaker);
        let Some(Output::Watch { next_hop }) = asked.iter().find(|o| matches!(o, Output::Watch { .. }))
        else {
            panic!("{asked:?}")
        };
        script.speaker.handle(Event::NextHop { next_hop: *next_hop, metric: Some(0) }, script.now);
        let told = outputs(&mut script.speaker);
        assert_eq!(told.iter().any(|o| matches!(o, Output::Best { best: Some(_), .. })), best_paths);
        let best = script.speaker.best("10.1.0.0/16".parse().unwrap()).unwrap().best;
        assert_eq!(best.next_hop.map(|hop| hop.address), Some(ip("10.0.0.2")));

        // And a route that goes leaves nothing behind.
        let before = script.speaker.sizes();
        script.give(&update(&["10.1.0.0/16"], &[], &[]));
        script.speaker.advance(script.now);
        assert!(script.speaker.sizes().0 < before.0);
    }
}
