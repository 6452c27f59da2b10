#![no_main]

use tidegate_control::checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::log_record(data));
