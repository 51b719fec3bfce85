//! The programs and their sink on the running kernel, in namespaces of their own. Needs root.

mod asymmetric;
mod changes;
mod flips;
mod forwarding;
mod frame;
mod guarded;
mod lifecycle;
mod maps;
mod namespace;
mod nodes;
mod paths;
mod rooms;
mod senders;
mod silent;
mod stale;
mod transit;
mod vacancies;
mod vectors;
mod world;
