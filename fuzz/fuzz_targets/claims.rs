#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bryo_agent::fuzzing::claims(data));
