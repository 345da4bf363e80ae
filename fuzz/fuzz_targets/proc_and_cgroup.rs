#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bryo_sandbox::fuzzing::proc_and_cgroup(data));
