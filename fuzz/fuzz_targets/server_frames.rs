#![no_main]

use tidegate_gateway_core::checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::server_frames(data));
