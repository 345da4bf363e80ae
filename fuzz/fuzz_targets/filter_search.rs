#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bryo_sandbox::fuzzing::filter_search(data));
