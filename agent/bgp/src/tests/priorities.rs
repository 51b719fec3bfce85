//! Calico's priorities in LOCAL_PREF, among nodes that send them and nodes that do not.

use super::{
    network::prefix,
    reflection::{Lab, address, block},
};
use crate::{
    NormalPriority, Originated, OwnHost, PathSource,
    policy::local_pref_of_priority,
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

/// A machine in node 0's block moves from node 1, which borrowed its address, to node 2.
#[test]
fn a_machine_that_moves_is_where_its_priority_is_better_though_its_block_and_an_own_route_say_otherwise() {
    const MACHINE: &str = "172.16.0.9/32";
    let mut lab = lab();
    let host = |priority| OwnHost { prefix: prefix(MACHINE), priority };
    let router = |lab: &Lab, node: usize| {
        let best = lab.network.nodes[node].best.get(&prefix(MACHINE))?;
        match best.source {
            PathSource::Own => Some(String::from("own")),
            PathSource::Peer(_) => Some(best.next_hops[0].address.to_string()),
        }
    };
    lab.configs[1].hosts = vec![host(None)];
    lab.apply();
    assert_eq!(router(&lab, 0), Some(address(1)));
    // Node 0's block has the address, and that is what others know of it.
    assert_eq!((router(&lab, 1), router(&lab, 2)), (Some("own".into()), None));

    lab.configs[2].hosts = vec![host(Some(512))];
    lab.apply();
    let there = Some(address(2));
    assert_eq!(
        lab.network.speaker(0).explain(prefix(MACHINE)).unwrap().paths[0].attributes.local_pref,
        Some(local_pref_of_priority(512))
    );
    // The reflector lets it through, and the node where the machine still is takes it for more than its own.
    assert_eq!((router(&lab, 0), router(&lab, 1)), (there.clone(), there));
    assert_eq!(router(&lab, 2), Some("own".into()));
    let own = lab.network.speaker(1).explain(prefix(MACHINE)).unwrap().paths;
    assert_eq!(own[1].standing, Standing::Lost(LostAt::LocalPref));

    // It is back to what is usual, and the old node's route has gone.
    lab.configs[1].hosts.clear();
    lab.configs[2].hosts = vec![host(None)];
    lab.apply();
    assert_eq!(router(&lab, 0), Some(address(2)));
    assert_eq!(router(&lab, 1), None, "as before: the block has it");
    // An operator's LOCAL_PREF is no priority, and takes nobody's own address away.
    lab.configs[1].hosts = vec![host(None)];
    lab.configs[2].hosts = vec![host(Some(1024))];
    lab.apply();
    assert_eq!(router(&lab, 1), Some("own".into()));
}

/// Own blocks, and prefixes of services, are ours whatever others say.
#[test]
fn a_better_priority_takes_no_block_away() {
    let mut lab = lab();
    lab.configs[2].originated.push(Originated { prefix: prefix(&block(1)), communities: Vec::new() });
    lab.configs[2].normal_priority = own(512);
    lab.apply();
    let view = lab.network.speaker(1).explain(prefix(&block(1))).unwrap();
    assert_eq!(view.paths[0].source, PathSource::Own);
    assert_eq!(view.paths[1].standing, Standing::Lost(LostAt::Own));
}
