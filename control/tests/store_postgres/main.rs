//! The PostgreSQL store passes the suite that every store must pass, on a real server.

mod factory;
mod faults;
mod places;
mod proxy;
mod retention;
mod tail;

use factory::Factory;

tidegate_control_core::remote_store_contract!(Factory::new());
