//! Plans, from the outside: the article's story, and each rule of peering.

mod again;
mod blackholes;
mod calico;
mod change;
mod common;
mod communities;
mod extensions;
mod ranges;
mod rules;
mod seed;
mod services;
mod symmetry;
