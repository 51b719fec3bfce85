//! The programs and their sink on the running kernel, in namespaces of their own. Needs root.

mod frame;
mod namespace;
mod vectors;
mod world;
