#![no_main]

use tidegate_gateway::checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::proxy_header(data));
