//! The programs and their sink on the running kernel, in namespaces of their own. Needs root.

mod frame;
mod namespace;
mod tracking;
mod vectors;
mod world;
