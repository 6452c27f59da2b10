//! What every index must do.

mod merging;
mod querying;
mod searching;
mod texts;

pub use merging::*;
pub use querying::*;
pub use searching::*;
pub use texts::*;

/// One test for each check; the expression makes a [`Factory`](crate::kit::Factory) and is evaluated in each.
macro_rules! index_contract {
    ($factory:expr) => {
        $crate::contract::index_contract!(@tests $factory =>
            a_batch_may_hold_a_record_twice
            a_group_begun_anew_does_not_show_its_past
            a_hostile_query_is_only_words
            a_record_is_found_by_each_of_its_fields
            a_repeated_record_changes_nothing
            a_status_out_of_order_does_no_harm
            all_that_is_asked_must_hold
            attempts_that_were_refused_are_kept
            control_characters_split_nothing
            events_of_a_push_gather
            huge_texts_are_cut
            many_streams_are_searched_at_once
            messages_are_found_in_the_readable_part
            nothing_is_found_in_an_empty_index
            pages_of_a_search_follow_each_other
            pages_stay_while_records_arrive
            records_of_one_moment_have_an_order
            text_is_found_in_any_script
            texts_of_a_message_stand_once
            times_begin_at_from_and_end_before_to
            two_writers_lose_nothing
            what_is_beyond_time_is_refused
            what_is_sealed_is_neither_kept_nor_found
            what_is_too_old_goes
        );
    };
    (@tests $factory:expr => $($check:ident)*) => {
        $(
            #[tokio::test]
            async fn $check() {
                let factory = $factory;
                $crate::contract::$check(&factory).await;
            }
        )*
    };
}

pub(crate) use index_contract;
