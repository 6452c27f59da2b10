//! What every registry promises, asked of each adapter: memory, and real servers of etcd, Redis and Redis Cluster, which are
//! started if need be. No server is a failure, never a reason to skip.

mod config;
mod keys;
mod locks;
mod outages;
mod own_server;
mod proxy;
mod sessions;
mod site;
mod tls;
mod watches;
mod workers;

macro_rules! suite {
    ($backing:expr, [$($module:ident::$test:ident),* $(,)?]) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let site = crate::site::Site::open($backing).await;
                crate::$module::$test(&site).await;
                site.clean().await;
            }
        )*
    };
}

macro_rules! contract {
    ($backing:expr) => {
        suite!(
            $backing,
            [
                config::a_value_that_does_not_fit_leaves_the_last_good_one,
                config::without_a_value_the_default_holds,
                keys::a_prefix_lists_what_is_below_it_in_order,
                keys::create_is_for_the_first_one_only,
                keys::odd_names_are_names,
                keys::replace_is_compare_and_set,
                keys::what_is_no_key_is_refused,
                keys::what_is_put_is_found_until_it_is_deleted,
                locks::a_dead_holder_makes_way,
                locks::one_at_a_time_in_the_order_of_asking,
                locks::who_gives_up_waiting_holds_nobody_up,
                sessions::a_claim_of_ones_own_may_be_repeated,
                sessions::a_session_outlasts_its_term,
                sessions::keys_go_with_their_session,
                sessions::nobody_can_claim_while_the_owner_believes,
                sessions::one_of_eight_claims_succeeds,
                sessions::only_the_owner_can_release,
                watches::a_table_ends_where_the_keys_end,
                watches::a_watch_begins_with_what_is_there_and_tells_each_change,
                watches::a_watch_tells_that_a_process_is_gone,
                watches::other_prefixes_are_not_told,
                workers::a_released_id_is_free_at_once,
                workers::ids_are_unique,
                workers::what_was_lost_cools_down,
            ]
        );
    };
}

macro_rules! outages {
    ($backing:expr) => {
        suite!(
            $backing,
            [
                outages::a_deaf_connection_is_left_for_another,
                outages::a_request_without_an_answer_fails,
                outages::a_session_survives_a_cut,
                outages::a_session_survives_a_process_without_time,
                outages::a_watch_survives_a_cut_and_misses_nothing,
                outages::an_owner_that_is_cut_off_stops_before_others_begin,
            ]
        );
    };
}

mod memory {
    contract!(crate::site::Backing::Memory);
}

mod etcd {
    contract!(crate::site::Backing::Etcd);
    outages!(crate::site::Backing::Etcd);
}

mod redis {
    contract!(crate::site::Backing::Redis);
    outages!(crate::site::Backing::Redis);
}

/// Through a proxy its nodes would still tell their own addresses, so the outages are left to the single one.
mod redis_cluster {
    contract!(crate::site::Backing::RedisCluster);
}
