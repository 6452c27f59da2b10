//! What a run costs, read from outside: processes, kernel memory, the gateway's own counters, the machine.

pub mod counters;
pub mod discover;
pub mod kernel;
pub mod machine;
pub mod process;
