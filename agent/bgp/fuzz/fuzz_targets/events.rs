#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| manx_sim::input::events(input));
