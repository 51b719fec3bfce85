//! Long-lived graceful restart (RFC 9494).

use super::{
    limits::{announce_many, two_peers},
    network::secs,
    script::{Script, attribute, config, mandatory, their_open, update, with},
};
use crate::{
    Config, ConnId, Event, Family, HoldTime,
    attr::flag::{OPTIONAL, TRANSITIVE},
    message::{
        Message, keepalive,
        open::{LongLived, Open},
        update::end_of_rib,
    },
    view::{Export, LostAt, SessionState, Standing},
};

const A: &str = "10.1.0.0/16";
const B: &str = "10.2.0.0/16";
const LLGR_STALE: [u8; 4] = [0xff, 0xff, 0, 6];
const NO_LLGR: [u8; 4] = [0xff, 0xff, 0, 7];

/// No keepalives to play, and a thousand seconds at most.
fn long_lived() -> Config {
    let mut config = config(64512);
    config.hold_time = HoldTime::new(0).unwrap();
    config.graceful_restart.long_lived = Some(1000);
    config.peers[0].rr_client = true;
    config
}

fn says(open: &mut Open, preserved: bool, time: u32) {
    open.capabilities.long_lived = vec![LongLived { family: Family::Ipv4Unicast, preserved, time }];
}

fn communities(value: &[u8]) -> Vec<u8> {
    attribute(OPTIONAL | TRANSITIVE, 8, value)
}

fn preferred(local_pref: u8) -> Vec<Vec<u8>> {
    with(mandatory(&[]), attribute(TRANSITIVE, 5, &[0, 0, 0, local_pref]))
}

fn lose(script: &mut Script, conn: ConnId) {
    script.speaker.handle(Event::Closed { conn, reason: "reset".into() }, script.now);
    script.drain();
}

/// A (plain) and B (NO_LLGR) announced by a peer that asks for 500 s, and the session lost.
fn lost() -> (Script, Open) {
    let config = long_lived();
    let mut open = their_open(&config);
    says(&mut open, true, 500);
    let mut script = Script::established_with(config, &open);
    script.give(&update(&[], &mandatory(&[]), &[A]));
    script.give(&update(&[], &with(mandatory(&[]), communities(&NO_LLGR)), &[B]));
    let conn = script.conn;
    lose(&mut script, conn);
    (script, open)
}

/// The communities of the best path.
fn marked(script: &Script, prefix: &str) -> Option<Vec<String>> {
    Some(script.speaker.best(prefix.parse().unwrap())?.best.attributes.communities)
}

/// Behaviour 46.
#[test]
fn after_the_restart_time_routes_stay_marked_for_the_long_lived_time_but_not_those_with_no_llgr() {
    let (mut script, _) = lost();
    script.wait(secs(119));
    assert_eq!(marked(&script, A), Some(vec![]));
    assert_eq!(marked(&script, B), Some(vec!["no-llgr".to_owned()]));
    script.wait(secs(2));
    assert_eq!((marked(&script, A), marked(&script, B)), (Some(vec!["llgr-stale".to_owned()]), None));
    script.wait(secs(498));
    assert!(marked(&script, A).is_some());
    script.wait(secs(2));
    assert_eq!(marked(&script, A), None);
    script.wait(secs(1));
    script.speaker.advance(script.now);
    script.drain();
    assert_eq!(script.speaker.sizes(), (0, 0, 0));
}

/// RFC 9494 §4.2: the operator's rules may say it, too.
#[test]
fn a_rule_may_attach_no_llgr() {
    let mut config = long_lived();
    let no = crate::policy::Change::AddCommunity(crate::policy::Community::Standard(0xffff_0007));
    let name = crate::policy::RuleName::new("not for long");
    let action = crate::policy::Action::Accept([no].into());
    let rule = crate::policy::Rule { name, matches: crate::policy::Match::default(), action };
    config.peers[0].import.ipv4 = crate::policy::Rules::from_iter([rule]);
    let mut open = their_open(&config);
    says(&mut open, true, 500);
    let mut script = Script::established_with(config, &open);
    script.give(&update(&[], &mandatory(&[]), &[A]));
    let conn = script.conn;
    lose(&mut script, conn);
    script.wait(secs(119));
    assert_eq!(marked(&script, A), Some(vec!["no-llgr".to_owned()]));
    script.wait(secs(2));
    assert_eq!(marked(&script, A), None);
}

#[test]
fn who_comes_back_having_preserved_its_forwarding_loses_only_what_it_does_not_repeat() {
    for preserved in [true, false] {
        let (mut script, mut open) = lost();
        script.wait(secs(200));
        says(&mut open, preserved, 500);
        script.conn = script.accept();
        script.give(&open.encode());
        script.give(&keepalive());
        assert_eq!(script.state(), SessionState::Established);
        assert_eq!(marked(&script, A).is_some(), preserved);
        script.give(&update(&[], &mandatory(&[]), &[B]));
        script.give(&end_of_rib(Family::Ipv4Unicast));
        assert_eq!((marked(&script, A), marked(&script, B)), (None, Some(vec![])));
    }
}

/// Nothing long-lived where one side does not offer it; without a restart time it begins at once.
#[test]
fn it_takes_both_sides_and_no_restart_time_is_no_hindrance() {
    let mut plain = long_lived();
    plain.graceful_restart.long_lived = None;
    for (config, theirs) in [(plain, true), (long_lived(), false)] {
        let mut open = their_open(&config);
        if theirs {
            says(&mut open, true, 500);
        }
        let mut script = Script::established_with(config, &open);
        script.give(&update(&[], &mandatory(&[]), &[A]));
        let conn = script.conn;
        lose(&mut script, conn);
        script.wait(secs(121));
        assert_eq!(marked(&script, A), None);
    }
    let mut open = their_open(&long_lived());
    says(&mut open, true, 5000);
    open.capabilities.graceful_restart.as_mut().unwrap().restart_time = 0;
    let mut script = Script::established_with(long_lived(), &open);
    script.give(&update(&[], &mandatory(&[]), &[A]));
    let conn = script.conn;
    lose(&mut script, conn);
    script.wait(secs(1));
    assert_eq!(marked(&script, A), Some(vec!["llgr-stale".to_owned()]));
    // The peer asks for more than we would.
    script.wait(secs(1001));
    assert_eq!(marked(&script, A), None);
}

/// Behaviour 46.
#[test]
fn a_long_lived_route_loses_to_any_other_whatever_its_preference() {
    let (mut script, first, second) = two_peers(long_lived(), |_, open| says(open, true, 500));
    script.give_on(first, &update(&[], &preferred(200), &[A]));
    script.give_on(second, &update(&[], &preferred(50), &[A]));
    lose(&mut script, first);
    script.wait(secs(119));
    assert_eq!(script.speaker.best(A.parse().unwrap()).unwrap().best.attributes.local_pref, Some(200));
    script.wait(secs(2));
    let view = script.explain(A).unwrap();
    assert_eq!(view.paths[0].attributes.local_pref, Some(50));
    assert_eq!(view.paths[1].standing, Standing::Lost(LostAt::LongLivedStale));
    // One that was received with the mark is as old.
    script.give_on(second, &update(&[], &with(preferred(50), communities(&LLGR_STALE)), &[A]));
    assert_eq!(script.explain(A).unwrap().paths[0].attributes.local_pref, Some(200));
}

/// Behaviour 46.
#[test]
fn it_goes_marked_to_those_who_know_and_is_withdrawn_from_those_who_do_not() {
    for (knows, expected) in [(true, Export::Sent), (false, Export::LongLivedStale)] {
        let (mut script, first, second) = two_peers(long_lived(), |n, open| {
            if n == 0 || knows {
                says(open, true, 500);
            }
        });
        script.give_on(first, &update(&[], &mandatory(&[]), &[A]));
        script.take_on(second);
        lose(&mut script, first);
        script.wait(secs(121));
        let sent = script.take_on(second);
        let [Message::Update(body)] = &sent[..] else { panic!("{sent:?}") };
        let mark = communities(&LLGR_STALE);
        assert_eq!(body.windows(mark.len()).any(|part| part == mark), knows);
        assert_eq!(body[..2] == [0, 0], knows, "no withdrawal, or one");
        assert_eq!(script.explain(A).unwrap().sent[0].export, expected);
    }
}

/// The table is marked in pieces. Who comes back in between, and what it announces again, is not old.
#[test]
fn what_is_heard_again_while_the_table_is_being_marked_is_not_marked() {
    let names: Vec<String> = (0..20_000).map(|n| format!("10.{}.{}.0/24", n / 250, n % 250)).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let config = long_lived();
    let mut open = their_open(&config);
    says(&mut open, true, 500);
    let mut script = Script::established_with(config, &open);
    for some in all.chunks(900) {
        script.give(&update(&[], &mandatory(&[]), some));
    }
    let conn = script.conn;
    lose(&mut script, conn);
    script.wait(secs(119));
    script.now = script.now + secs(2);
    assert!(script.speaker.advance(script.now), "a piece of it, and more to do");
    let (local, remote) = ("10.0.0.1:179".parse().unwrap(), "10.0.0.2:40001".parse().unwrap());
    let conn = script.speaker.accept(local, remote, script.now).unwrap();
    let last = all[19_999];
    for bytes in [open.encode(), keepalive(), update(&[], &mandatory(&[]), &[last])] {
        script.speaker.handle(Event::Received { conn, bytes }, script.now);
    }
    script.drain();
    assert_eq!(marked(&script, last), Some(vec![]));
    assert_eq!(marked(&script, all[0]), Some(vec!["llgr-stale".to_owned()]));
    assert_eq!(marked(&script, all[19_998]), Some(vec!["llgr-stale".to_owned()]));
}

const C: &str = "10.3.0.0/16";

fn again(script: &mut Script, open: &Open) {
    script.conn = script.accept();
    script.give(&open.encode());
    script.give(&keepalive());
    assert_eq!(script.state(), SessionState::Established);
}

/// RFC 9494 §4.2: who comes back and goes again before it has sent everything neither prolongs the long-lived time nor
/// ends it, however often.
#[test]
fn a_loss_during_the_long_lived_time_neither_takes_its_routes_nor_winds_it_up_again() {
    let (mut script, open) = lost();
    script.wait(secs(200));
    assert_eq!(marked(&script, A), Some(vec!["llgr-stale".to_owned()]));
    for loss in 0..3 {
        again(&mut script, &open);
        if loss == 0 {
            script.give(&update(&[], &mandatory(&[]), &[C]));
        }
        script.wait(secs(10));
        let conn = script.conn;
        lose(&mut script, conn);
        assert_eq!(marked(&script, A), Some(vec!["llgr-stale".to_owned()]), "loss {loss}");
    }
    // 230 s after the first loss. What was heard at 200 s has the restart time of the last loss.
    assert_eq!(marked(&script, C), Some(vec![]));
    script.wait(secs(119));
    assert_eq!(marked(&script, C), Some(vec![]));
    script.wait(secs(2));
    assert_eq!(marked(&script, C), Some(vec!["llgr-stale".to_owned()]));
    // The long-lived time began at 120 s.
    script.wait(secs(619 - 351));
    assert!(marked(&script, A).is_some() && marked(&script, C).is_some());
    script.wait(secs(2));
    assert_eq!((marked(&script, A), marked(&script, C)), (None, None));
    assert_eq!(script.view().stale_until, None);
}

/// RFC 9494 §4.2: the time passes while the peer is back and has yet to send everything.
#[test]
fn a_loss_after_the_long_lived_time_takes_what_it_was_for_at_once() {
    let (mut script, open) = lost();
    script.wait(secs(600));
    again(&mut script, &open);
    script.give(&update(&[], &mandatory(&[]), &[C]));
    script.wait(secs(40));
    assert_eq!(marked(&script, A), Some(vec!["llgr-stale".to_owned()]), "there is a session");
    let conn = script.conn;
    lose(&mut script, conn);
    assert_eq!((marked(&script, A), marked(&script, C)), (None, Some(vec![])));
    // And once it has sent everything, all begins anew.
    again(&mut script, &open);
    script.give(&update(&[], &mandatory(&[]), &[A]));
    script.give(&end_of_rib(Family::Ipv4Unicast));
    let conn = script.conn;
    lose(&mut script, conn);
    script.wait(secs(618));
    assert_eq!(marked(&script, A), Some(vec!["llgr-stale".to_owned()]));
    script.wait(secs(3));
    assert_eq!(marked(&script, A), None);
}

/// What the bound of all paths took has no long-lived time any more: what is announced later has its own.
#[test]
fn routes_of_a_peer_that_the_bound_of_all_had_taken_away_are_kept_as_if_for_the_first_time() {
    let config = Config { max_paths: 60_000, ..long_lived() };
    let mut open = their_open(&config);
    says(&mut open, true, 500);
    let (mut script, first, second) = two_peers(config, |_, open| says(open, true, 500));
    announce_many(&mut script, first, 0, 40_000);
    lose(&mut script, first);
    script.wait(secs(121));
    assert_eq!(marked(&script, "10.0.0.0/24"), Some(vec!["llgr-stale".to_owned()]));
    for count in [38_000, 30_000] {
        announce_many(&mut script, second, 0, count);
    }
    assert_eq!(script.view().stale_until, None);
    again(&mut script, &open);
    script.give(&update(&[], &mandatory(&[]), &[C]));
    script.wait(secs(480));
    let conn = script.conn;
    lose(&mut script, conn);
    // The earlier long-lived time would be over at 620 s.
    script.wait(secs(30));
    assert_eq!(marked(&script, C), Some(vec![]));
}
