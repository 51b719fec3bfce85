//! Reflectors of reflectors, each level doubled (RFC 4456 §6, §7): whoever lives knows every route that exists, by paths
//! that no router passes twice, and no route outlives its origin.

use std::{collections::BTreeSet, net::Ipv4Addr};

use super::{
    network::{ip, secs},
    reflection::{Lab, address, block},
};

/// At the top 0 and 1; below them the reflectors of two sites, 2 and 3, 4 and 5; below those the leaves, 6 and 7, 8 and
/// 9. Each is a client of both above it.
const ABOVE: [(usize, [usize; 2]); 8] =
    [(2, [0, 1]), (3, [0, 1]), (4, [0, 1]), (5, [0, 1]), (6, [2, 3]), (7, [2, 3]), (8, [4, 5]), (9, [4, 5])];
const NODES: usize = 10;

/// `shared`: both reflectors of a level and site have one cluster id.
fn hierarchy(shared: bool) -> Lab {
    let mut lab = Lab::new(&[64512; NODES]);
    lab.link(0, 1, false);
    for (below, above) in ABOVE {
        for reflector in above {
            lab.link(reflector, below, true);
        }
    }
    if shared {
        for (cluster, reflectors) in [[0, 1], [2, 3], [4, 5]].into_iter().enumerate() {
            for reflector in reflectors {
                lab.configs[reflector].cluster_id = Some(Ipv4Addr::new(244, 0, 0, cluster as u8));
            }
        }
    }
    lab.apply();
    lab
}

/// Every node has each living node's block by that node itself, and no other.
fn is_whole(lab: &mut Lab, living: &BTreeSet<usize>) {
    for &node in living {
        for of in 0..NODES {
            let expected = living.contains(&of);
            assert_eq!(lab.knows(node, of), expected, "{node} knows {of}'s block");
            if !expected || node == of {
                continue;
            }
            let path = lab.path(node, of);
            assert_eq!(path.next_hop.unwrap().address, ip(&address(of)), "{node}: {}", block(of));
            let list = &path.attributes.cluster_list;
            assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), list.len(), "{node}: {of} by {list:?}");
            assert!(list.len() <= 3, "{node}: {of} by {list:?}");
        }
    }
}

#[test]
fn every_leaf_knows_every_other_by_the_shortest_list_and_survives_a_reflector_of_each_level() {
    for shared in [false, true] {
        let mut lab = hierarchy(shared);
        let mut living: BTreeSet<usize> = (0..NODES).collect();
        is_whole(&mut lab, &living);
        let across = lab.path(8, 6);
        assert_eq!(across.attributes.cluster_list.len(), 3, "up, over the top and down");
        assert_eq!(across.attributes.originator_id, Some(Ipv4Addr::new(10, 0, 0, 7)));
        assert_eq!(lab.path(7, 6).attributes.cluster_list.len(), 1, "within the site");
        for gone in [0, 3, 5] {
            lab.network.kill(gone, false);
            living.remove(&gone);
            // Hold time, restart time and a little more.
            lab.network.run(secs(300));
            is_whole(&mut lab, &living);
        }
        // They come back as strangers.
        for back in [0, 3, 5] {
            let config = lab.configs[back].clone();
            lab.network.nodes[back].best.clear();
            lab.network.nodes[back].watched.clear();
            lab.network.start(back, config);
            living.insert(back);
        }
        lab.network.run(secs(90));
        is_whole(&mut lab, &living);
    }
}

/// A leaf whose route goes away: no reflector keeps the others' copies of it alive (path hunting ends).
#[test]
fn a_route_that_its_origin_withdraws_is_nowhere_afterwards() {
    for shared in [false, true] {
        let mut lab = hierarchy(shared);
        lab.configs[6].originated.clear();
        lab.apply();
        for node in 0..NODES {
            assert!(!lab.knows(node, 6), "{node}, shared {shared}");
            assert!(lab.network.speaker(node).explain(block(6).parse().unwrap()).is_none(), "{node}");
        }
    }
}
