//! Plans, from the outside: the article's story, and each rule of peering.

mod common;
mod rules;
mod seed;
mod symmetry;
