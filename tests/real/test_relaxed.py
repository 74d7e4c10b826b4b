"""The main stories once more with durability="relaxed"."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.real import test_recall as recall
from tests.real import test_restart as restart
from tests.real import test_story as story
from tests.real.net import Net

STORIES: list[Callable[..., Any]] = [
    story.test_a_message_is_handled_with_all_that_was_said_of_it,
    story.test_states_come_in_order_and_waits_time_out,
    story.test_reject_ends_it_with_the_reason,
    story.test_attempts_run_out,
    story.test_receive_and_settle_by_hand,
    story.test_move_puts_it_into_another_queue,
    story.test_keys_are_handled_one_at_a_time_in_order_through_retries,
    story.test_delayed_messages_come_when_they_are_due_and_block_nothing,
    story.test_expiry_of_what_never_left_is_prompt,
    story.test_an_id_makes_sending_repeatable,
    story.test_a_repeated_send_nowait_learns_the_outcome,
    story.test_send_many_takes_all_or_none,
    story.test_send_nowait_and_flush,
    story.test_receipts_after_a_restart,
    story.test_recalls_and_their_verdicts,
    story.test_recall_where,
    story.test_both_may_dial_each_other,
    story.test_close_tells_what_stays,
    story.test_close_with_drain_waits_for_outcomes,
    story.test_what_a_handler_still_has_at_the_end_is_redelivered,
    recall.test_before_transmission,
    recall.test_in_the_inbox_without_a_handler,
    recall.test_in_the_handler,
    recall.test_between_attempts,
    recall.test_after_the_end,
    recall.test_pending_while_the_peer_is_down,
    restart.test_the_receiver_is_down_while_the_sender_restarts,
    restart.test_both_restart_many_times,
    restart.test_the_senders_store_is_gone,
    restart.test_the_receivers_store_is_gone,
    restart.test_an_old_copy_of_the_senders_store_does_not_know_what_ended,
    restart.test_an_old_copy_of_the_receivers_store,
    restart.test_both_stores_are_old_copies,
]


@pytest.fixture
def relaxed() -> Iterator[Net]:
    with Net("ipc", "relaxed") as net:
        yield net


@pytest.mark.parametrize("told", STORIES, ids=lambda told: told.__name__.removeprefix("test_"))
def test_relaxed(told: Callable[..., Any], relaxed: Net) -> None:
    told(relaxed)


@pytest.mark.parametrize("contact", ["at once", "after sends"])
def test_an_old_copy_of_the_senders_store(relaxed: Net, contact: str) -> None:
    restart.test_an_old_copy_of_the_senders_store(relaxed, contact)


def test_recalls_race_the_workers_of_a_full_buffer(relaxed: Net) -> None:
    recall.test_in_a_full_buffer_racing_its_workers(relaxed, 3)
