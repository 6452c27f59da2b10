//! Every cache passes one suite: in memory, on a real Redis, and on a real cluster of three masters.

mod faults;
mod production;
mod redis_kit;

mod memory {
    use tidegate_control::adapters::memory::{MemoryCache, MemoryOptions};
    use tidegate_control_core::contract::cache::CacheFactory;
    use tidegate_control_core::ports::cache::Pending;

    struct Factory(tokio::runtime::Runtime);

    impl CacheFactory for Factory {
        type Cache = MemoryCache;

        fn open(&mut self) -> MemoryCache {
            MemoryCache::new(MemoryOptions {
                queue_messages_max: 20,
                message_bytes_max: 1_000,
                ..MemoryOptions::default()
            })
        }

        fn beside(&mut self, cache: &MemoryCache) -> MemoryCache {
            cache.clone()
        }

        fn flush(&mut self, cache: &MemoryCache) {
            cache.flush();
        }

        fn wait<T>(&mut self, pending: Pending<'_, T>) -> T {
            self.0.block_on(pending)
        }
    }

    tidegate_control_core::cache_contract!(Factory(crate::redis_kit::runtime()));
}

mod single {
    use crate::redis_kit::{Factory, Layout};

    tidegate_control_core::cache_contract!(Factory::new(Layout::Buckets, false));
}

mod cluster {
    use crate::redis_kit::{Factory, Layout};

    tidegate_control_core::cache_contract!(Factory::new(Layout::Buckets, true));
}

/// With the keys of the systems before us: one hash per user, and the plain name of the gateway.
mod names_per_user {
    use tidegate_control_core::contract::cache;

    use crate::redis_kit::{Factory, Layout};

    #[test]
    fn a_connection_goes_only_if_it_still_matches() {
        cache::a_connection_goes_only_if_it_still_matches(&mut Factory::new(Layout::Users, false));
        cache::a_connection_goes_only_if_it_still_matches(&mut Factory::new(Layout::Users, true));
    }

    #[test]
    fn connections_are_found_by_user() {
        cache::connections_are_found_by_user(&mut Factory::new(Layout::Users, false));
        cache::connections_are_found_by_user(&mut Factory::new(Layout::Users, true));
    }
}
