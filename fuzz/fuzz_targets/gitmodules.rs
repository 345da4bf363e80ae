#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bryo_source::fuzzing::gitmodules(data));
