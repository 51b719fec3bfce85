//! Map keys and values shared by the eBPF programs and the loader.
#![no_std]
#![forbid(unsafe_code)]
