use super::*;

const FAST: Config = Config {
    desired_min_tx: Duration::from_millis(300),
    required_min_rx: Duration::from_millis(300),
    detect_multiplier: 3,
};

/// Two ends and a wire of 1 ms, which may be cut one way or both.
struct Wire {
    ends: [Session; 2],
    on_the_way: Vec<(Time, usize, Packet)>,
    cut: [bool; 2],
    now: Time,
    changes: Vec<(Time, usize, Change)>,
    sent: Vec<(Time, usize, Packet)>,
}

impl Wire {
    fn new(configs: [Config; 2]) -> Wire {
        let [a, b] = configs;
        Wire {
            ends: [Session::new(a, 11, 1, Time::ZERO), Session::new(b, 22, 2, Time::ZERO)],
            on_the_way: Vec::new(),
            cut: [false; 2],
            now: Time::ZERO,
            changes: Vec::new(),
            sent: Vec::new(),
        }
    }

    fn put(&mut self, from: usize, packet: Packet) {
        self.sent.push((self.now, from, packet));
        if !self.cut[from] {
            self.on_the_way.push((self.now + Duration::from_millis(1), 1 - from, packet));
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            for at in 0..2 {
                let (change, packet) = self.ends[at].advance(self.now);
                self.changes.extend(change.map(|change| (self.now, at, change)));
                if let Some(packet) = packet {
                    self.put(at, packet);
                }
            }
            let (due, later) = std::mem::take(&mut self.on_the_way)
                .into_iter()
                .partition(|(at, _, _): &(Time, usize, Packet)| *at <= self.now);
            self.on_the_way = later;
            for (_, to, packet) in due {
                let (change, answer) = self.ends[to].receive(&packet, self.now);
                self.changes.extend(change.map(|change| (self.now, to, change)));
                if let Some(answer) = answer {
                    self.put(to, answer);
                }
            }
            self.now += Duration::from_millis(1);
        }
    }

    fn are(&self, states: [State; 2]) {
        assert_eq!([self.ends[0].state(), self.ends[1].state()], states, "{:?}", self.changes);
    }

    fn up(configs: [Config; 2]) -> Wire {
        let mut wire = Wire::new(configs);
        wire.run(Duration::from_secs(5));
        wire.are([State::Up; 2]);
        wire
    }
}

#[test]
fn two_ends_come_up_at_once_and_then_send_fast() {
    let mut wire = Wire::new([FAST; 2]);
    wire.run(Duration::from_millis(50));
    wire.are([State::Up; 2]);
    wire.run(Duration::from_secs(2));
    wire.sent.clear();
    wire.run(Duration::from_secs(30));
    for end in 0..2 {
        let times: Vec<Time> =
            wire.sent.iter().filter(|(_, from, _)| *from == end).map(|(at, ..)| *at).collect();
        let gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
        assert!(*least >= Duration::from_millis(225) && *least < Duration::from_millis(240), "{least:?}");
        assert!(*most <= Duration::from_millis(301) && *most > Duration::from_millis(285), "{most:?}");
        assert_eq!(wire.ends[end].detection_time(), Some(Duration::from_millis(900)));
    }
    assert!(
        wire.sent.iter().all(|(_, _, packet)| packet.independent && !packet.poll),
        "no poll is left open"
    );
}

#[test]
fn a_cut_is_seen_within_the_detection_time_and_the_way_back_is_found() {
    let mut wire = Wire::up([FAST; 2]);
    wire.changes.clear();
    let cut = wire.now;
    wire.cut = [true; 2];
    wire.run(Duration::from_secs(3));
    wire.are([State::Down; 2]);
    for (at, _, change) in &wire.changes {
        assert!(*at - cut <= Duration::from_millis(902), "{:?}", *at - cut);
        assert_eq!((change.from, change.diagnostic), (State::Up, Diagnostic::TIME_EXPIRED));
        assert!(!change.by_administrator);
    }
    assert_eq!(wire.changes.len(), 2);
    // Nobody sends fast to one who does not answer.
    wire.sent.clear();
    wire.run(Duration::from_secs(10));
    assert!(wire.sent.len() <= 28, "{}", wire.sent.len());
    wire.cut = [false; 2];
    wire.run(Duration::from_secs(3));
    wire.are([State::Up; 2]);
}

#[test]
fn who_hears_nothing_tells_who_is_heard() {
    let mut wire = Wire::up([FAST; 2]);
    wire.changes.clear();
    wire.cut[1] = true;
    wire.run(Duration::from_secs(1));
    wire.are([State::Down; 2]);
    let said: Vec<(usize, Diagnostic)> =
        wire.changes.iter().map(|(_, end, change)| (*end, change.diagnostic)).collect();
    assert_eq!(said, [(0, Diagnostic::TIME_EXPIRED), (1, Diagnostic::NEIGHBOR_SAID)]);
    wire.run(Duration::from_secs(5));
    assert!(wire.ends.iter().all(|end| end.state() != State::Up), "one way is none");
}

#[test]
fn an_end_that_is_taken_down_is_not_taken_for_a_broken_path() {
    let mut wire = Wire::up([FAST; 2]);
    wire.changes.clear();
    let last = wire.ends[0].shut_down(wire.now);
    wire.put(0, last);
    wire.run(Duration::from_millis(20));
    wire.are([State::AdminDown, State::Down]);
    let [(_, 1, change)] = wire.changes[..] else { panic!("{:?}", wire.changes) };
    assert!(change.by_administrator);
    wire.run(Duration::from_secs(5));
    wire.are([State::AdminDown, State::Down]);
    // It starts anew.
    wire.ends[0] = Session::new(FAST, 33, 3, wire.now);
    wire.run(Duration::from_secs(3));
    wire.are([State::Up; 2]);
}

#[test]
fn a_neighbour_that_starts_anew_without_a_word_is_seen() {
    let mut wire = Wire::up([FAST; 2]);
    wire.changes.clear();
    wire.ends[0] = Session::new(FAST, 33, 3, wire.now);
    wire.run(Duration::from_secs(5));
    wire.are([State::Up; 2]);
    assert!(wire.changes.iter().any(|(_, end, change)| *end == 1 && change.to == State::Down));
    assert_eq!(wire.ends[1].remote().map(|remote| remote.discriminator), Some(33));
}

#[test]
fn the_slower_of_two_decides_how_fast_the_other_sends() {
    let slow = Config { required_min_rx: Duration::from_secs(2), detect_multiplier: 5, ..FAST };
    let mut wire = Wire::up([FAST, slow]);
    wire.run(Duration::from_secs(5));
    assert_eq!(wire.ends[0].transmit_interval(), Some(Duration::from_secs(2)));
    assert_eq!(wire.ends[1].transmit_interval(), Some(Duration::from_millis(300)));
    assert_eq!(wire.ends[1].detection_time(), Some(Duration::from_secs(6)));
    assert_eq!(wire.ends[0].detection_time(), Some(Duration::from_millis(1500)));
}

/// RFC 5880 §6.8.3: in whichever direction, nobody is taken for dead meanwhile.
#[test]
fn intervals_change_by_poll_and_the_session_stays() {
    let mut wire = Wire::up([FAST; 2]);
    wire.changes.clear();
    let with = |millis| Config {
        desired_min_tx: Duration::from_millis(millis),
        required_min_rx: Duration::from_millis(millis),
        ..FAST
    };
    for millis in [2000, 100, 5000, 50, 300] {
        wire.sent.clear();
        wire.ends[0].configure(with(millis), wire.now);
        wire.run(Duration::from_millis(3));
        let polls = wire.sent.iter().filter(|(_, end, packet)| *end == 0 && packet.poll).count();
        let finals = wire.sent.iter().filter(|(_, end, packet)| *end == 1 && packet.is_final).count();
        wire.run(Duration::from_secs(12));
        let all = wire.sent.iter().filter(|(_, end, packet)| *end == 1 && packet.is_final).count();
        assert!(all >= 1 && finals <= all && polls <= 1, "{polls} {finals} {all}");
        let interval = Duration::from_millis(millis);
        assert_eq!(wire.ends[0].detection_time(), Some(interval.max(Duration::from_millis(300)) * 3));
        assert_eq!(wire.ends[1].detection_time(), Some(interval.max(Duration::from_millis(300)) * 3));
        wire.are([State::Up; 2]);
    }
    assert!(wire.changes.is_empty(), "{:?}", wire.changes);
}

#[test]
fn who_wants_nothing_is_sent_nothing_but_answers() {
    let mut wire = Wire::up([FAST; 2]);
    let hello = |poll, demand, required| Packet {
        poll,
        is_final: false,
        demand,
        required_min_rx: Duration::from_millis(required),
        ..wire_packet(&wire.ends[1])
    };
    let (rests, wants_none, polls) =
        (hello(false, true, 300), hello(false, false, 0), hello(true, true, 300));
    let now = wire.now;
    let end = &mut wire.ends[0];
    end.receive(&rests, now);
    assert_eq!(end.transmit_interval(), None, "demand mode");
    end.receive(&wants_none, now);
    assert_eq!(end.transmit_interval(), None);
    let (_, answer) = end.receive(&polls, now);
    assert!(answer.is_some_and(|answer| answer.is_final && !answer.poll));
    // It still has to be heard.
    let (change, _) = end.advance(now + Duration::from_secs(1));
    assert!(change.is_some_and(|change| change.to == State::Down));
    assert!(end.transmit_interval().is_some());
}

fn wire_packet(of: &Session) -> Packet {
    of.packet()
}

#[test]
fn with_a_multiplier_of_one_there_is_room_for_the_way() {
    let one = Config { detect_multiplier: 1, ..FAST };
    let mut wire = Wire::up([one; 2]);
    wire.changes.clear();
    wire.run(Duration::from_secs(60));
    assert!(wire.changes.is_empty(), "{:?}", wire.changes);
}

/// RFC 5880 §6.8.6, each pair of states.
#[test]
fn the_state_machine_is_that_of_the_rfc() {
    use State::{AdminDown, Down, Init, Up};
    let table = [
        (Down, [Down, Init, Up, Down]),
        (Init, [Down, Init, Up, Up]),
        (Up, [Down, Down, Up, Up]),
        (AdminDown, [AdminDown; 4]),
    ];
    for (state, after) in table {
        for (received, expected) in State::ALL.into_iter().zip(after) {
            let mut end = Session::new(FAST, 7, 1, Time::ZERO);
            end.state = state;
            let mut other = Session::new(FAST, 8, 1, Time::ZERO);
            other.state = received;
            let mut packet = wire_packet(&other);
            packet.your_discriminator = 7;
            end.receive(&packet, Time::ZERO);
            assert_eq!(end.state(), expected, "{state} receives {received}");
        }
    }
}
