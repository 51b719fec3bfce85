//! Calico's priorities in LOCAL_PREF, among nodes that send them and nodes that do not.

use super::{
    network::prefix,
    reflection::{Lab, block},
};
use crate::{
    NormalPriority, Originated,
    view::{LostAt, Standing},
};

const USUAL: u32 = 2_147_482_623;

/// 0 reflects, and knows nothing of priorities; 1 and 2 are clients, 3 is another AS.
fn lab() -> Lab {
    let mut lab = Lab::new(&[64512, 64512, 64512, 64999]);
    lab.link(0, 1, true).link(0, 2, true).link(0, 3, false);
    lab
}

fn own(ipv4: u32) -> NormalPriority {
    NormalPriority { ipv4: Some(ipv4), ipv6: None }
}

#[test]
fn a_priority_is_sent_within_the_as_and_reflected_unchanged() {
    let mut lab = lab();
    lab.configs[1].normal_priority = own(1024);
    lab.apply();
    assert_eq!(lab.path(0, 1).attributes.local_pref, Some(USUAL));
    assert_eq!(lab.path(2, 1).attributes.local_pref, Some(USUAL));
    assert_eq!(lab.path(3, 1).attributes.local_pref, None, "LOCAL_PREF stays within the AS");
    assert_eq!(lab.path(1, 2).attributes.local_pref, Some(100));
    // It is told anew when it is another, and when it is none.
    lab.configs[1].normal_priority = own(512);
    lab.apply();
    assert_eq!(lab.path(2, 1).attributes.local_pref, Some(USUAL + 512));
    lab.configs[1].normal_priority = NormalPriority::default();
    lab.apply();
    assert_eq!(lab.path(2, 1).attributes.local_pref, Some(100));
}

/// At the reflector, of a block that both clients announce: who wins, and where the other lost.
fn decided(lab: &mut Lab) -> (u8, LostAt) {
    let view = lab.network.speaker(0).explain(prefix(&block(1))).unwrap();
    let [best, other] = view.paths.as_slice() else { panic!("{:?}", view.paths) };
    assert_eq!(best.standing, Standing::Best);
    let Standing::Lost(at) = other.standing else { panic!("{other:?}") };
    let router = best.next_hop.unwrap().address.to_string();
    (router.rsplit('.').next().unwrap().parse().unwrap(), at)
}

#[test]
fn a_usual_priority_does_not_beat_an_old_nodes_route_and_an_elevated_one_does() {
    let mut lab = lab();
    lab.configs[2].originated.push(Originated { prefix: prefix(&block(1)), communities: Vec::new() });
    lab.configs[2].normal_priority = own(1024);
    lab.apply();
    // As if neither had said a thing: the lower identifier.
    assert_eq!(decided(&mut lab), (2, LostAt::RouterId));
    lab.configs[2].normal_priority = own(512);
    lab.apply();
    assert_eq!(decided(&mut lab), (3, LostAt::LocalPref));
    lab.configs[2].normal_priority = own(2048);
    lab.apply();
    assert_eq!(decided(&mut lab), (2, LostAt::LocalPref));
    // Where 2048 is what is usual it is no worse than the old one.
    lab.configs[0].normal_priority = own(2048);
    lab.apply();
    assert_eq!(decided(&mut lab), (2, LostAt::RouterId));
}

#[test]
fn whoever_is_about_to_leave_is_the_last_choice_among_priorities_too() {
    let mut lab = lab();
    lab.configs[2].originated.push(Originated { prefix: prefix(&block(1)), communities: Vec::new() });
    lab.configs[2].normal_priority = own(100_000);
    lab.configs[1].graceful_shutdown = true;
    lab.apply();
    assert_eq!(decided(&mut lab), (3, LostAt::LocalPref));
}
