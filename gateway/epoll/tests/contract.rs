//! The epoll driver keeps the contract of drivers.

use tidegate_gateway_contract::{Factory, Shape};
use tidegate_gateway_epoll::{EpollConfig, EpollDriver};

struct Epoll;

impl Factory for Epoll {
    type Driver = EpollDriver;

    /// It has no buffers or queues to be short of, but for the share of a turn.
    fn open(&self, shape: &Shape) -> EpollDriver {
        let config = EpollConfig {
            slots: shape.slots,
            buffer_bytes: shape.buffer_bytes,
            reads_per_turn: if shape.tight { 1 } else { EpollConfig::default().reads_per_turn },
            linger_ms: shape.linger_ms,
        };
        EpollDriver::open(&config).expect("an epoll instance")
    }

    fn bell(driver: &EpollDriver) -> impl Fn() + Clone + Send + 'static {
        let bell = driver.doorbell();
        move || bell.ring()
    }

    fn sockets(driver: &EpollDriver) -> u32 {
        driver.sockets()
    }
}

tidegate_gateway_contract::driver_contract!(Epoll);
