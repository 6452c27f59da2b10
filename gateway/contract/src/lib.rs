//! The contract of [`tidegate_gateway_core::driver`] as a suite that every driver runs, over real sockets:
//! `driver_contract!(factory)` in a file of the driver's tests.
//!
//! What it does not do: facts about one kernel interface; they stand with the driver that relies on them.

#![forbid(unsafe_code)]

pub mod close;
pub mod receive;
mod rig;
pub mod send;
mod sockets;
pub mod wake;

pub use rig::{Factory, Rig, Seen, Shape};
pub use sockets::{Listener, PATIENCE, narrow, pair, read_exactly, read_now, read_to_end};

/// One test for each property.
#[macro_export]
macro_rules! driver_contract {
    ($factory:expr) => {
        $crate::driver_contract!(@tests $factory =>
            close [
                a_graceful_close_delivers_everything_and_then_fin
                a_graceful_close_survives_a_peer_that_talks_on
                a_peer_that_never_finishes_is_closed_when_its_time_is_over
                without_linger_a_close_is_at_once
                an_abort_resets_the_peer_whatever_is_armed
                after_close_nothing_is_told_but_closed
                ten_thousand_closes_with_sends_in_flight_mix_nothing_up
                a_dropped_driver_ends_its_connections
                one_flush_ends_all_that_were_aborted
                a_mass_close_ends_each_socket_once
            ]
            receive [
                what_came_before_registration_arrives_too
                bytes_are_lent_in_place_and_may_be_changed
                many_sockets_share_little_memory
                big_streams_arrive_whole_while_a_quiet_socket_is_not_starved
                one_turn_reads_a_bounded_share_of_a_flood
                a_half_closed_peer_still_gets_its_answer_and_is_closed_without_lingering
                after_the_end_of_input_not_even_a_reset_is_told
                a_reset_is_one_failure_and_nothing_after_it
            ]
            send [
                two_thousand_sockets_get_every_frame_in_order
                a_send_begins_where_it_was_told_to
                every_one_of_many_refused_sends_is_told
                a_slow_reader_gets_every_byte_by_short_sends_and_writable
                the_driver_holds_nothing_of_a_refused_send
            ]
            wake [
                a_doorbell_from_another_thread_wakes_the_driver_every_time
                rings_between_two_turns_count_as_one
                a_turn_without_events_ends_at_its_deadline_and_not_before
                a_full_table_gives_the_socket_back_and_takes_it_when_one_has_gone
                a_busy_driver_loses_nothing
            ]
        );
    };
    (@tests $factory:expr => $($module:ident [$($check:ident)*])*) => {
        $(mod $module {
            use super::*;

            $(#[test]
            fn $check() {
                $crate::$module::$check(&$factory);
            })*
        })*
    };
}
