//! What every record promises, written once and run on each adapter.

mod accept;
mod claim;
mod contention;
mod env;
mod fences;
mod finish;
mod life;
mod lists;
mod log;
mod models;
mod nodes;
mod on_postgres;
mod on_sqlite;
mod pages;
mod reading;
mod retention;
mod search;
mod sweeps;

pub use contention::contender;
pub use env::{
    Env, Fixture, append, claim_of, claimed, direct, failed, fence, finish, lines, new_execution, node,
    requeue_of, succeeded, text,
};
pub use on_postgres::{OnPostgres, connect};

/// Runs each named test of the contract on each adapter.
macro_rules! contract {
    ($($module:ident: $($name:ident,)*;)*) => {
        mod postgres {
            $($(
                #[tokio::test]
                async fn $name() {
                    super::$module::$name(super::Env::new(super::on_postgres::OnPostgres::new().await)).await;
                }
            )*)*
        }
        mod sqlite {
            $($(
                #[tokio::test]
                async fn $name() {
                    super::$module::$name(super::Env::new(super::on_sqlite::OnSqlite::new().await)).await;
                }
            )*)*
        }
    };
}

contract! {
    accept:
        an_execution_is_recorded_once_and_its_repeat_says_the_same,
        a_known_id_attaches_and_another_input_or_tenant_is_refused,
        a_new_id_is_dated_within_the_window_and_a_known_one_need_not_be,
        a_key_is_one_execution_and_with_another_input_an_error,
        a_key_belongs_to_its_tenant_and_model_and_is_forgotten_after_a_day,
        many_callers_at_once_with_one_key_are_one_execution,
        a_batch_answers_in_its_order,
        a_row_that_cannot_be_stored_spoils_its_batch_for_good,
    ;
    claim:
        a_claim_begins_the_next_attempt_and_its_repeat_is_the_same_claim,
        of_many_claims_exactly_one_wins,
        a_direct_message_makes_its_row_and_a_recorded_one_does_not,
        a_message_under_a_live_lease_starts_nothing_and_leaves_its_reply_address,
        a_redelivery_and_our_own_dispatch_leave_no_second_address,
        the_reply_addresses_of_one_execution_are_bounded,
        what_has_ended_is_answered_with_its_ending,
        another_model_or_input_under_a_known_id_is_refused,
        an_id_outside_the_window_is_refused,
        a_passed_deadline_ends_it_at_the_claim,
        a_claim_of_an_unknown_version_makes_a_row_without_one,
        what_has_run_already_ends_at_its_claim_recorded_before_or_not,
        what_has_run_already_ends_as_the_record_says_if_it_says_anything,
        what_ran_in_another_version_than_its_row_names_is_claimed,
        a_chunk_is_claimed_in_its_order_whatever_its_parts_are,
    ;
    log:
        lines_are_numbered_without_gaps_over_batches_and_attempts,
        a_repeated_batch_is_stored_once,
        a_batch_of_thousands_of_lines_is_stored_like_a_small_one,
        a_batch_with_another_base_is_stale,
        the_log_guard_refuses_a_stale_attempt,
        the_log_guard_refuses_what_no_longer_runs,
        one_stale_batch_leaves_the_others_alone,
        followers_get_what_they_have_not_seen,
    ;
    finish:
        an_ending_is_stored_with_its_last_lines_and_everybody_who_waits,
        a_repeated_finish_says_the_same,
        the_finish_guard_refuses_a_stale_attempt,
        the_finish_guard_refuses_what_another_ending_settled,
        the_finish_guard_refuses_a_base_it_does_not_know,
        a_failure_keeps_its_class_words_exit_code_and_signal,
        a_yield_spends_nothing_and_is_due_at_once,
        a_yield_while_waiting_counts_on_and_any_other_settlement_ends_that,
        a_retry_waits_and_counts,
        our_own_failures_count_and_the_last_is_death,
        a_cancel_turns_a_settlement_that_is_no_ending_into_cancelled,
        the_timeline_keeps_what_happened_in_each_attempt,
        a_batch_of_settlements_answers_in_its_order,
    ;
    fences:
        a_fence_is_taken_once_and_only_a_higher_one_replaces_it,
        a_repeated_fence_stands_and_the_same_number_of_another_attempt_does_not,
        a_fence_is_taken_only_for_an_attempt_that_runs,
        a_raised_generation_is_higher_than_any_number,
        keys_and_tenants_have_fences_of_their_own,
        a_stale_holder_writes_no_line_and_no_ending,
        a_batch_with_and_without_fences_answers_in_its_order,
        a_settlement_that_was_stored_is_repeated_whatever_its_fence_is_now,
        fences_of_long_ago_are_forgotten_except_for_the_highest,
    ;
    life:
        a_queued_execution_is_cancelled_at_once_and_never_runs,
        a_running_execution_is_asked_and_its_renewal_says_so,
        a_cancel_is_final_and_belongs_to_its_tenant,
        a_delayed_execution_is_cancelled_at_once,
        a_renewal_returns_only_what_is_still_held,
        a_lease_that_ran_out_and_was_not_taken_is_renewed,
        a_delivery_given_back_waits_for_its_dispatch,
        a_delivery_given_back_under_a_lease_changes_only_its_reply_addresses,
        a_dead_letter_ends_what_is_queued_and_nothing_else,
        a_message_of_another_time_is_neither_run_nor_lost,
    ;
    sweeps:
        what_nobody_published_is_taken_at_growing_distances,
        what_was_dispatched_is_not_taken_as_undispatched,
        a_dispatch_says_what_the_row_says,
        what_was_overtaken_in_its_queue_is_taken_again,
        what_was_dispatched_to_an_empty_queue_is_taken_again,
        what_is_due_is_queued_and_taken_once,
        a_lost_lease_is_rescued_after_it_ran_out_and_the_third_time_is_death,
        who_only_waited_for_a_lock_spends_no_failure_when_its_node_is_lost,
        a_node_that_is_gone_is_rescued_from_early_but_not_before_two_renewals_were_missed,
        a_rescued_execution_whose_cancel_was_asked_for_is_cancelled,
        what_is_overdue_expires,
        many_sweepers_take_each_execution_once,
    ;
    reading:
        a_row_reads_back_as_it_was_written,
        endings_are_looked_up_for_all_who_wait,
        the_record_answers_a_ping,
    ;
    retention:
        a_day_of_the_log_goes_when_it_is_old_and_all_its_executions_have_ended,
        the_oldest_days_go_until_the_log_is_small_enough,
        what_may_still_be_written_stays_however_old_or_large_it_is,
        a_stale_fence_seals_drops_and_forgets_nothing,
        executions_that_ended_long_ago_are_forgotten_some_at_a_time,
    ;
    lists:
        executions_are_listed_youngest_first_in_pages,
        a_list_holds_what_every_filter_lets_through,
        what_came_meanwhile_shifts_no_page,
        a_list_that_finds_little_says_how_far_it_got,
        executions_are_found_by_the_attributes_their_callers_gave_them,
    ;
    pages:
        a_page_of_a_log_and_its_tail_are_in_order,
        pages_lead_forwards_and_backwards_over_every_line_once,
        lines_are_found_by_level_text_and_time,
        a_page_that_finds_little_says_how_far_it_got,
    ;
    search:
        a_search_finds_lines_of_one_model_the_youngest_execution_first,
        pages_of_a_search_hold_every_line_once,
        a_search_keeps_to_its_range_of_ids_and_its_tenant,
        a_search_that_finds_little_says_how_far_it_got,
    ;
    models:
        versions_are_numbered_and_latest_moves,
        a_bundle_that_is_known_is_the_version_it_has,
        versions_are_listed_by_model_and_youngest_first,
        versions_pushed_at_once_get_different_numbers,
        an_alias_moves_only_from_where_it_is_expected,
        of_many_who_move_an_alias_from_one_place_one_does,
        a_version_is_noted_as_wanted,
    ;
    nodes:
        an_announcement_runs_out_unless_it_is_renewed,
        a_restarted_node_is_another_one,
        one_holder_leads_at_a_time_and_each_change_raises_the_fence,
        upkeep_is_refused_to_a_stale_fence,
        what_happens_to_a_node_is_recorded_once_whoever_sees_it,
        an_operator_is_to_be_told_of_losses_and_of_who_is_back_until_it_is_settled,
        old_events_of_nodes_are_forgotten_and_who_is_there_is_not,
        what_waits_and_how_long_it_takes_is_known_by_queue,
        the_running_are_counted_by_node,
    ;
    contention:
        who_comes_first_has_the_lock_first,
        who_enters_again_attaches,
        more_than_may_wait_are_turned_away,
        a_lease_that_runs_out_makes_way_unless_it_was_extended,
        who_enters_passes_what_ran_out,
        a_limit_is_had_by_so_many,
        queues_of_other_tenants_kinds_and_names_are_others,
        what_is_asked_of_nodes_is_kept_until_it_is_nothing,
        what_nodes_have_of_bundles_lasts_as_long_as_the_lease_of_who_said_so,
    ;
}
