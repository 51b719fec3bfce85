//! Speakers against each other over a simulated network in virtual time ([`network`]), and one speaker against a
//! peer that a test plays message by message ([`script`]).

mod add_path;
mod add_path_histories;
mod add_path_wire;
mod any_bytes;
mod attribute_changes;
mod attribute_errors;
mod collision;
mod convergence;
mod dynamic;
mod export_by_group;
mod extended_next_hop;
mod hand_over;
mod hierarchy;
mod history;
mod hub;
mod interfaces;
mod limits;
mod long_lived;
mod multipath;
mod network;
mod outputs;
mod pace;
mod parting;
mod policy;
mod priorities;
mod reflection;
mod restart;
mod roles;
mod script;
mod seed_story;
mod state_machine;
mod transport;
mod updates;
