//! Clusters under random change. Bigger and longer ones: `cargo xtask sim`.

use manx_sim::cluster::{Cluster, Outcome, Scenario, Topology};

fn run(topology: Topology, nodes: usize, events: usize, seed: u64) -> Outcome {
    match Cluster::run(Scenario { nodes, topology, events, seed }) {
        Ok(outcome) => outcome,
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn whatever_befalls_a_mesh_every_node_ends_with_exactly_the_routes_that_exist() {
    for seed in 0..12 {
        let outcome = run(Topology::Mesh, 4 + seed as usize, 60, seed);
        assert!(outcome.routes > 0 && outcome.tally.connections > 6, "{outcome:?}");
    }
}

#[test]
fn whatever_befalls_reflectors_and_their_clients_every_node_ends_with_exactly_the_routes_that_exist() {
    for seed in 0..12 {
        run(Topology::Reflectors(1 + seed as usize % 4), 6 + 2 * seed as usize, 60, seed);
    }
}

#[test]
fn whatever_befalls_reflectors_of_meshed_clients_every_node_ends_with_exactly_the_routes_that_exist() {
    for seed in 0..8 {
        run(Topology::MeshedClients(1 + seed as usize % 3), 6 + seed as usize, 60, seed);
    }
}

#[test]
fn whatever_befalls_reflectors_of_reflectors_every_node_ends_with_exactly_the_routes_that_exist() {
    for seed in 0..12 {
        run(Topology::Sites(1 + seed as usize % 3), 12 + seed as usize, 60, seed);
    }
}

#[test]
fn whatever_befalls_racks_every_packet_finds_its_way() {
    for seed in 0..12 {
        run(Topology::Racks(1 + seed as usize % 4), 4 + seed as usize, 60, seed);
    }
}

#[test]
fn sixty_clients_of_two_reflectors_come_through() {
    let outcome = run(Topology::Reflectors(2), 62, 30, 7);
    assert!(outcome.up_after.as_secs() < 2, "{outcome:?}");
}

#[test]
fn equal_seeds_give_equal_runs_to_the_last_step() {
    for topology in [Topology::Mesh, Topology::Reflectors(2), Topology::Sites(1), Topology::Racks(2)] {
        let once = run(topology, 9, 40, 3);
        assert_eq!(run(topology, 9, 40, 3), once);
        assert_ne!(run(topology, 9, 40, 4).tally.digest, once.tally.digest);
    }
}
