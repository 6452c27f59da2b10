//! What every bus promises, asked of each adapter: memory, a real Kafka, and a real Kafka over TLS with users of least rights.
//! No server is a failure, never a reason to skip.

mod admin;
mod groups;
mod handling;
mod history;
mod publishing;
mod reading;
mod rig;
mod secure;

macro_rules! contract {
    ($adapter:ident, $rig:expr, $($module:ident :: { $($behaviour:ident),* $(,)? }),* $(,)?) => {
        mod $adapter {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    crate::$module::$behaviour(&$rig).await;
                }
            )*)*
        }
    };
}

macro_rules! every_contract {
    ($($adapter:ident: $rig:expr),* $(,)?) => {
        $(contract!(
            $adapter, $rig,
            publishing::{
                records_come_back_as_they_were_published,
                a_key_belongs_where_other_producers_put_it,
                records_of_a_key_keep_their_order_whatever_their_sizes,
                records_of_an_asked_partition_keep_their_order_whatever_their_keys,
                what_cannot_be_placed_is_told,
                a_flush_waits_for_everything,
            },
            reading::{
                a_reader_begins_where_it_is_told,
                a_reader_goes_back_and_forth,
                a_place_that_is_not_there_is_told,
                a_paused_reader_gets_nothing_new,
                many_readers_share_a_process,
                a_partition_is_open_once,
            },
            groups::{
                a_group_goes_on_where_it_committed,
                what_was_not_committed_is_read_again,
                members_share_partitions_and_take_over,
                a_group_may_begin_at_the_end,
                what_was_taken_is_committed_in_the_background,
                a_paused_partition_holds_up_no_other,
            },
            admin::{
                topics_are_created_once,
                topics_grow,
                offsets_are_found_by_time,
                lag_is_what_is_not_committed,
                offsets_are_reset,
                a_group_with_members_is_not_reset,
            },
            handling::{
                a_failing_dependency_uses_up_no_retry,
                what_fails_by_itself_becomes_a_dead_letter,
                a_waiting_partition_holds_up_no_other,
                dead_letters_are_found_and_replayed,
            },
            history::{ a_stream_finds_what_it_missed },
        );)*
    };
}

every_contract! {
    memory: crate::rig::memory(),
    kafka: crate::rig::kafka(),
    kafka_secure: crate::secure::rig(),
}
