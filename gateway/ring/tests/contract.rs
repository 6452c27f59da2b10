//! The io_uring driver keeps the contract of drivers.

mod support;

use support::Rings;

tidegate_gateway_contract::driver_contract!(Rings);
