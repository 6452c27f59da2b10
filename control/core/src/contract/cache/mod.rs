//! What every [`Cache`] must do. An adapter's tests say `cache_contract!(factory)`, which makes one test of each check here.

mod fixtures;
mod notices;
mod routes;
mod runs;
mod streams;

pub use fixtures::{connection, entry, gateway, head, live, offline, online, query, run, stream, uid};
pub use notices::{a_ring_is_published_once_per_version, notices_reach_whoever_listens, the_downstream_has_channels};
pub use routes::{
    a_connection_goes_only_if_it_still_matches, a_sweep_removes_what_is_void_and_nothing_else,
    a_user_has_a_bounded_number_of_connections, connections_are_found_by_user, routes_of_a_dead_incarnation_are_void,
    routes_written_again_after_a_flush_are_found, users_do_not_mix,
};
pub use runs::{
    a_hot_list_answers_only_what_it_has_whole, a_hot_list_keeps_the_newest,
    a_large_message_is_not_kept_and_leaves_no_hole, a_queue_begins_anew_after_a_hole,
    a_queue_covers_from_where_it_reaches_back_to, a_queue_pages, a_queue_that_was_trimmed_says_so,
    runs_of_an_older_epoch_or_owner_do_not_come_back, what_is_written_twice_stands_once,
};
pub use streams::{
    a_flush_is_a_miss, a_forgotten_stream_is_not_known, an_older_owner_writes_nothing,
    cursors_are_per_device_and_stream, dedup_keys_are_found, heads_move_forward_only_within_an_epoch,
    two_nodes_see_the_same,
};

use crate::ports::cache::{Cache, Pending};

/// Makes caches of one kind for the suite.
pub trait CacheFactory {
    type Cache: Cache;

    /// A fresh, empty cache.
    fn open(&mut self) -> Self::Cache;

    /// The same cache as another node sees it.
    fn beside(&mut self, cache: &Self::Cache) -> Self::Cache;

    /// Deletes everything that the cache wrote.
    fn flush(&mut self, cache: &Self::Cache);

    fn wait<T>(&mut self, pending: Pending<'_, T>) -> T;
}

/// One `#[test]` for each check of the suite; the expression makes a [`CacheFactory`] and is evaluated in each.
#[macro_export]
macro_rules! cache_contract {
    ($factory:expr) => {
        $crate::cache_contract!(@tests $factory =>
            a_connection_goes_only_if_it_still_matches
            a_flush_is_a_miss
            a_forgotten_stream_is_not_known
            a_hot_list_answers_only_what_it_has_whole
            a_hot_list_keeps_the_newest
            a_large_message_is_not_kept_and_leaves_no_hole
            a_queue_begins_anew_after_a_hole
            a_queue_covers_from_where_it_reaches_back_to
            a_queue_pages
            a_queue_that_was_trimmed_says_so
            a_ring_is_published_once_per_version
            a_sweep_removes_what_is_void_and_nothing_else
            a_user_has_a_bounded_number_of_connections
            an_older_owner_writes_nothing
            connections_are_found_by_user
            cursors_are_per_device_and_stream
            dedup_keys_are_found
            heads_move_forward_only_within_an_epoch
            notices_reach_whoever_listens
            routes_of_a_dead_incarnation_are_void
            routes_written_again_after_a_flush_are_found
            runs_of_an_older_epoch_or_owner_do_not_come_back
            the_downstream_has_channels
            two_nodes_see_the_same
            users_do_not_mix
            what_is_written_twice_stands_once
        );
    };
    (@tests $factory:expr => $($check:ident)*) => {
        $(
            #[test]
            fn $check() {
                $crate::contract::cache::$check(&mut $factory);
            }
        )*
    };
}

/// Writes, and waits until it is there.
fn write<F: CacheFactory>(factory: &mut F, cache: &F::Cache, facts: Vec<crate::ports::cache::Fact>) {
    cache.write(facts);
    factory.wait(cache.settled());
}
