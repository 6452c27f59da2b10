//! What every [`MessageStore`] must do. An adapter's tests say `store_contract!(factory)`, which makes one test of each
//! check here, so that a failure names what broke.

pub mod fixtures;
mod groups;
mod log;
mod marks;
mod remote;
mod streams;

pub use fixtures::{begin_group, body, chat, dismiss_group, end_group, group_begins, join, leave, mark, message};
pub use groups::{
    a_dismissed_group_has_no_members, a_group_begun_anew_starts_from_nothing, groups_begin_and_are_found,
    groups_of_a_user_come_most_recently_active_first, members_have_intervals, members_page_by_uid,
};
pub use log::{
    a_fresh_store_is_empty, a_reopened_store_continues, an_empty_commit_changes_nothing, everything_survives_reopening,
    lsns_are_contiguous, replay_is_bounded_and_in_order, replay_returns_what_was_committed, trimming_moves_first,
};
pub use marks::{devices_of_a_user_are_bounded, marks_are_per_device_and_stream, read_cursors_are_per_user};
pub use remote::{
    Loss, RemoteStoreFactory, a_commit_that_was_lost_is_made_once, a_commit_whose_answer_was_lost_makes_no_twin,
    an_older_owner_is_fenced, assert_log,
};
pub use streams::{
    a_commit_is_visible, a_page_is_bounded, a_page_never_splits_below_one_message, bodies_come_back_whole,
    dedup_finds_the_first_place, one_to_one_stands_in_three_streams, seq_before_finds_a_place_in_time,
    streams_do_not_mix,
};

use crate::domain::Lsn;
use crate::ports::MessageStore;

/// Makes stores of one kind for the suite.
pub trait StoreFactory {
    type Store: MessageStore;

    /// A fresh, empty store.
    fn open(&mut self) -> Self::Store;

    /// The same store after a crash: dropped without any farewell and opened again.
    fn reopen(&mut self, store: Self::Store) -> Self::Store;

    /// Drops records from the log's front, up to `upto` or as near below as the store can. False: it cannot.
    fn trim(&mut self, _store: &mut Self::Store, _upto: Lsn) -> bool {
        false
    }
}

/// As [`store_contract!`], and the checks of what a store on another machine adds; for a [`RemoteStoreFactory`].
#[macro_export]
macro_rules! remote_store_contract {
    ($factory:expr) => {
        $crate::store_contract!($factory);
        $crate::store_contract!(@tests $factory =>
            a_commit_that_was_lost_is_made_once
            a_commit_whose_answer_was_lost_makes_no_twin
            an_older_owner_is_fenced
        );
    };
}

/// One `#[test]` for each check of the suite; the expression makes a [`StoreFactory`] and is evaluated in each.
#[macro_export]
macro_rules! store_contract {
    ($factory:expr) => {
        $crate::store_contract!(@tests $factory =>
            a_commit_is_visible
            a_dismissed_group_has_no_members
            a_fresh_store_is_empty
            a_group_begun_anew_starts_from_nothing
            a_page_is_bounded
            a_page_never_splits_below_one_message
            a_reopened_store_continues
            an_empty_commit_changes_nothing
            bodies_come_back_whole
            dedup_finds_the_first_place
            devices_of_a_user_are_bounded
            everything_survives_reopening
            groups_begin_and_are_found
            groups_of_a_user_come_most_recently_active_first
            lsns_are_contiguous
            marks_are_per_device_and_stream
            members_have_intervals
            members_page_by_uid
            one_to_one_stands_in_three_streams
            read_cursors_are_per_user
            replay_is_bounded_and_in_order
            replay_returns_what_was_committed
            seq_before_finds_a_place_in_time
            streams_do_not_mix
            trimming_moves_first
        );
    };
    (@tests $factory:expr => $($check:ident)*) => {
        $(
            #[test]
            fn $check() {
                $crate::contract::store::$check(&mut $factory);
            }
        )*
    };
}
