//! What the history tells of the end of a session: every NOTIFICATION by its name, and who had dialled.

use super::{
    network::asn,
    script::{Script, config, their_open},
};
use crate::{
    Config, Event, SessionEvent,
    message::keepalive,
    view::{Cause, Direction, SessionState},
};

/// Routes outlive a NOTIFICATION where that is agreed on (RFC 8538).
fn established(outlives: bool) -> Script {
    let mut config = config(64512);
    config.graceful_restart.after_notification = outlives;
    let mut open = their_open(&config);
    let theirs = open.capabilities.graceful_restart.as_mut().unwrap();
    theirs.notifications = outlives;
    Script::established_with(config, &open)
}

fn last_word(event: &SessionEvent) -> (u8, u8, &str) {
    let sent = event.sent.as_ref().unwrap_or_else(|| panic!("no NOTIFICATION in {event:?}"));
    (sent.code, sent.subcode, &sent.name)
}

/// Behaviour 60.
#[test]
fn the_end_of_a_removed_peers_session_names_the_cease_and_who_had_dialled() {
    for (outlives, expected) in [
        (false, (6, 3, "Cease / Peer De-configured")),
        (true, (6, 9, "Cease / Hard Reset (Cease / Peer De-configured)")),
    ] {
        let mut script = established(outlives);
        let without = Config { peers: Vec::new(), ..config(64512) };
        script.speaker.configure(without, script.now);
        script.drain();
        let last = script.history.last().unwrap();
        assert_eq!((&last.cause, last.to), (&Cause::Removed, SessionState::Idle));
        assert_eq!(last_word(last), expected);
        assert_eq!(last.dialled_by, Some(Direction::Peer));
    }
}

/// Behaviour 60.
#[test]
fn the_end_of_a_changed_peers_session_names_the_cease_and_who_had_dialled() {
    let mut script = established(false);
    let mut changed = config(64512);
    changed.peers[0].remote_as = asn(64513);
    script.speaker.configure(changed, script.now);
    script.drain();
    let last = script.history.last().unwrap();
    assert_eq!((&last.cause, last.from), (&Cause::ConfigurationChanged, SessionState::Established));
    assert_eq!(last_word(last), (6, 6, "Cease / Other Configuration Change"));
    assert_eq!(last.dialled_by, Some(Direction::Peer));
    // What comes next has no part in it.
    let next = script.accept();
    script.give_on(next, &their_open(&config(64513)).encode());
    assert!(script.history.iter().rev().take(2).all(|event| event.sent.is_none()), "{:#?}", script.history);
}

#[test]
fn the_end_of_this_process_names_the_cease_with_its_text_unless_it_is_graceful() {
    for graceful in [false, true] {
        let mut script = established(false);
        let text = "new kernel".to_owned();
        script.speaker.handle(Event::Shutdown { graceful, text }, script.now);
        script.drain();
        let last = script.history.last().unwrap();
        assert_eq!(last.cause, Cause::ShuttingDown);
        assert_eq!(last.dialled_by, Some(Direction::Peer));
        let said = last.sent.as_ref().map(|sent| (sent.code, sent.subcode, sent.text.as_deref()));
        assert_eq!(said, (!graceful).then_some((6, 2, Some("new kernel"))));
    }
}

/// Behaviour 1: our own connection loses, as the peer's identifier is the higher one.
#[test]
fn the_event_at_which_one_of_two_connections_is_closed_names_the_cease() {
    let mut dialling = config(64512);
    dialling.peers[0].dial = crate::Dial::First;
    let mut script = Script::connected(dialling);
    let (ours, theirs) = (script.dials[0], script.conn);
    let end = |port| std::net::SocketAddr::new(super::network::ip("10.0.0.2"), port);
    script.speaker.handle(Event::Connected { conn: ours, local: end(1), remote: end(179) }, script.now);
    script.drain();
    script.give_on(theirs, &their_open(&config(64512)).encode());
    let last = script.history.last().unwrap();
    assert_eq!((&last.cause, last.to), (&Cause::OpenReceived, SessionState::OpenConfirm));
    assert_eq!(last_word(last), (6, 7, "Cease / Connection Collision Resolution"));
    assert_eq!(last.dialled_by, Some(Direction::Peer));
    script.give_on(theirs, &keepalive());
    assert_eq!(script.history.last().unwrap().sent, None);
}
