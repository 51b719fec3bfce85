#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| manx_resources::fuzzing::selectors(input));
