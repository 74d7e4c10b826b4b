"""The double of a Peer: the calls and handlers of an application, on the simulated network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import zmqrel
from zmqrel import Outcome, State, Verdict
from zmqrel.testing import Network, Peer


@pytest.fixture
def network() -> Iterator[Network]:
    before = threading.active_count()
    with Network(seed=3) as network:
        yield network
    assert threading.active_count() == before


@pytest.fixture
def shop(network: Network) -> Peer:
    return network.peer("shop", {"bank": True, "mint": True})


@pytest.fixture
def bank(network: Network) -> Peer:
    return network.peer("bank", {"shop": "tcp://127.0.0.1:1", "mint": None})


class Seen:
    """A handler that notes what it was given."""

    def __init__(self) -> None:
        self.messages: list[zmqrel.Message] = []

    def __call__(self, message: zmqrel.Message) -> None:
        self.messages.append(message)

    @property
    def bodies(self) -> list[Any]:
        return [message.body for message in self.messages]


def test_a_handler_gets_the_message_that_was_sent(network: Network, shop: Peer, bank: Peer) -> None:
    seen = Seen()
    bank.handler("loans", workers=2)(seen)
    receipt = shop.send("bank", {"a": [1]}, queue="loans", key="k", headers={"n": 1}, ttl=30)
    assert receipt.state is not State.QUEUED
    assert receipt.wait(timeout=5) is Outcome.HANDLED
    [message] = seen.messages
    assert isinstance(message, zmqrel.Message)
    assert (message.sender, message.queue, message.key, message.body) == ("shop", "loans", "k", {"a": [1]})
    assert (message.headers, message.attempt, message.redelivered, message.id) == ({"n": 1}, 1, False, receipt.id)
    assert message.deadline is not None
    assert (message.deadline - message.sent_at).total_seconds() == 30
    assert [event.what for event in receipt.history][-1] == "settled"


def test_what_handlers_raise_means_what_it_means(network: Network, shop: Peer, bank: Peer) -> None:
    attempts: list[int] = []

    @bank.handler(retry=zmqrel.Retry.fixed(10, max_attempts=3))
    def judge(message: zmqrel.Message) -> None:
        attempts.append(message.attempt)
        if message.body == "refuse":
            raise zmqrel.Reject("no")
        if message.body == "later" and message.attempt == 1:
            raise zmqrel.RetryLater(7)
        if message.body == "fail":
            raise ValueError("broken")
        if message.body == "move":
            message.move("elsewhere")

    refused, later, failed, moved = (shop.send("bank", body) for body in ("refuse", "later", "fail", "move"))
    network.advance(1)
    assert (refused.outcome, refused.reason) == (Outcome.REJECTED, "no")
    network.advance(7)
    assert later.outcome is Outcome.HANDLED
    assert failed.outcome is None
    assert failed.wait(timeout=20) is Outcome.EXHAUSTED
    assert failed.attempts == 3
    assert sorted(letter.body for letter in bank.dead_letters()) == ["fail", "refuse"]
    assert [message.body for message in bank.inbox("elsewhere")] == ["move"]
    with pytest.raises(zmqrel.NotHandled):
        failed.result(timeout=0)
    message = bank.receive("elsewhere", timeout=1)
    assert message is not None
    message.ack()
    assert moved.wait(timeout=1) is Outcome.HANDLED
    with pytest.raises(zmqrel.AlreadySettled):
        message.ack()


def test_a_handler_sends_and_waits_while_others_go_on(network: Network, shop: Peer, bank: Peer) -> None:
    mint = network.peer("mint", {"bank": True, "shop": False})
    order: list[str] = []

    @mint.handler()
    def coin(message: zmqrel.Message) -> None:
        network.advance(message.body)

    @bank.handler(workers=2)
    def relay(message: zmqrel.Message) -> None:
        receipt = bank.send("mint", message.body, id=f"coin-{message.id}")
        assert receipt.wait(timeout=60) is Outcome.HANDLED
        order.append(f"{message.body} done at {network.now:.0f}")

    zmqrel.wait_all([shop.send("bank", 5), shop.send("bank", 3)], timeout=20)
    assert order == ["5 done at 5", "3 done at 8"]
    done = [receipt.queue for receipt in zmqrel.as_completed([shop.send("bank", 1), shop.send("bank", 0)], timeout=20)]
    assert len(done) == 2


def test_a_process_that_dies_in_its_handler_gets_the_message_again(network: Network, shop: Peer, bank: Peer) -> None:
    seen: list[tuple[int, bool]] = []
    cleaned_up: list[int] = []

    @bank.handler()
    def fragile(message: zmqrel.Message) -> None:
        seen.append((message.attempt, message.redelivered))
        try:
            if message.attempt == 1:
                network.crash("bank")
                seen.append((0, False))
        finally:
            cleaned_up.append(message.attempt)

    receipt = shop.send("bank", 1)
    network.advance(5)
    assert seen == [(1, False)]
    assert cleaned_up == [1]
    with pytest.raises(zmqrel.PeerClosed):
        bank.send("shop", 1)
    network.restart("bank")
    assert receipt.wait(timeout=30) is Outcome.HANDLED
    assert seen == [(1, False), (2, True)]


def test_a_handler_that_waits_ends_with_its_process(network: Network, shop: Peer, bank: Peer) -> None:
    reached: list[str] = []

    @bank.handler()
    def slow(message: zmqrel.Message) -> None:
        network.advance(10)
        reached.append("end")

    receipt = shop.send("bank", 1)
    network.advance(5)
    network.crash("bank")
    network.advance(20)
    assert reached == []
    network.restart("bank")
    network.advance(11)
    assert reached == ["end"]
    assert receipt.outcome is Outcome.HANDLED


def test_each_life_is_set_up_as_a_program_is(network: Network, shop: Peer) -> None:
    lives: list[list[Any]] = []

    def program(peer: Peer) -> None:
        handled: list[Any] = []
        lives.append(handled)

        @peer.handler()
        def note(message: zmqrel.Message) -> None:
            handled.append(message.body)

    network.peer("bank", {"shop": False}, setup=program)
    shop.send("bank", 1).wait(timeout=5)
    network.crash("bank")
    network.restart("bank")
    shop.send("bank", 2).wait(timeout=30)
    assert lives == [[1], [2]]


def test_listeners_are_told_outcomes_also_in_a_later_life(network: Network, bank: Peer) -> None:
    bank.handler()(Seen())
    told: list[tuple[Any, Outcome]] = []

    def program(peer: Peer) -> None:
        @peer.on_outcome(Outcome.HANDLED, to="bank")
        def hear(receipt: zmqrel.Receipt) -> None:
            assert receipt.outcome is not None
            told.append((receipt.key, receipt.outcome))
            if len(told) == 1:
                network.crash("shop")
            if len(told) == 2:
                raise ValueError("again, please")

    shop = network.peer("shop", {"bank": True}, setup=program)
    shop.send("bank", 1, key="one")
    network.advance(5)
    assert told == [("one", Outcome.HANDLED)]
    network.restart("shop")
    network.advance(5)
    assert told == [("one", Outcome.HANDLED)] * 3


def test_callbacks_may_call_the_peer(network: Network, shop: Peer, bank: Peer) -> None:
    bank.handler()(Seen())
    bank.handler("second")(Seen())
    answered: list[Outcome] = []

    def send_next(receipt: zmqrel.Receipt) -> None:
        answered.append(shop.send("bank", "next", queue="second").wait(timeout=5))

    shop.send("bank", "first").add_done_callback(send_next)
    network.advance(5)
    assert answered == [Outcome.HANDLED]


def test_recalls_in_a_partition(network: Network, shop: Peer, bank: Peer) -> None:
    bank.handler()(Seen())
    network.advance(1)
    network.partition("shop", "bank")
    unsent = shop.send("bank", 1)
    recall = unsent.recall(timeout=1)
    assert recall.verdict in (Verdict.PENDING, Verdict.RECALLED)
    network.heal()
    assert recall.wait(timeout=30) in (Verdict.RECALLED, Verdict.TOO_LATE)
    delayed = shop.send_many("bank", [1, 2, 3], key="order-1", delay=60)
    network.advance(1)
    assert all(receipt.state is State.RECEIVED for receipt in delayed)
    recalls = shop.recall_where(key="order-1", where=lambda receipt: receipt.id != delayed[1].id, timeout=5)
    assert [each.verdict for each in recalls] == [Verdict.RECALLED] * 2
    assert shop.recall_where(all=True, timeout=5)[0].receipt.id == delayed[1].id
    network.settle()


def test_a_deadline_that_passes_in_a_partition(network: Network, shop: Peer, bank: Peer) -> None:
    seen = Seen()
    bank.handler()(seen)
    network.partition("shop", "bank")
    receipt = shop.send("bank", 1, ttl=5)
    network.advance(60)
    network.heal("shop", "bank")
    assert receipt.wait(timeout=60) is Outcome.EXPIRED
    assert seen.bodies == []


def test_conditions_limits_and_late_acknowledgements(network: Network, shop: Peer, bank: Peer) -> None:
    late: list[zmqrel.Message] = []
    withdrawn: list[bool] = []

    @bank.handler("manual", ack="manual")
    def keep(message: zmqrel.Message) -> None:
        late.append(message)

    @bank.handler("limited", time_limit=2)
    def stall(message: zmqrel.Message) -> None:
        network.advance(3)
        withdrawn.append(message.withdrawn)

    @bank.handler("choosy", workers=2, admit=lambda message: message.body != "no")
    def admitted(message: zmqrel.Message) -> None:
        pass

    kept = shop.send("bank", 1, queue="manual")
    limited = shop.send("bank", 1, queue="limited")
    refused, taken = shop.send("bank", "no", queue="choosy"), shop.send("bank", "yes", queue="choosy")
    network.advance(1)
    assert (refused.outcome, refused.reason, taken.outcome) == (Outcome.REJECTED, "condition", Outcome.HANDLED)
    assert bank.stats()["in_hand"] == 2
    network.advance(4)
    assert (limited.outcome, withdrawn) == (Outcome.HANDLED, [True])
    assert kept.outcome is None
    late[0].ack()
    assert kept.wait(timeout=5) is Outcome.HANDLED


def test_sends_that_are_refused_and_sends_that_wait_for_room(network: Network, bank: Peer) -> None:
    shop = network.peer("shop", {"bank": True}, outbox_max_messages=2)
    network.partition("shop", "bank")
    shop.send_many("bank", [1, 2])
    with pytest.raises(zmqrel.OutboxFull):
        shop.send("bank", 3)
    with pytest.raises(zmqrel.UnknownPeer):
        shop.send("mint", 3)
    with pytest.raises(zmqrel.OutboxFull):
        shop.send("bank", 3, room_timeout=5)
    assert network.now == pytest.approx(5, abs=0.1)
    waiting, impatient = (shop.send_nowait("bank", body, room_timeout=s) for body, s in ((4, 60), (5, 2)))
    with pytest.raises(zmqrel.OutboxFull):
        impatient.wait(timeout=10)
    bank.handler()(Seen())
    network.heal()
    assert waiting.wait(timeout=60) is Outcome.HANDLED
    with pytest.raises(zmqrel.OutboxFull):
        shop.flush()


def test_a_store_that_is_put_back_and_one_that_is_lost(network: Network, shop: Peer, bank: Peer) -> None:
    bank.handler()(Seen())
    copy = network.backup("bank")
    receipt = shop.send("bank", 1)
    network.advance(0.001)
    network.crash("bank")
    network.restore("bank", copy)
    network.restart("bank")
    network.settle()
    assert receipt.outcome is not None
    network.power_loss("bank")
    network.delete_store("bank")
    network.restart("bank")
    assert shop.send("bank", 2).wait(timeout=60) is Outcome.HANDLED


def test_receipts_of_an_earlier_life(network: Network, shop: Peer, bank: Peer) -> None:
    network.partition("shop", "bank")
    receipt = shop.send("bank", 1, id="order-1")
    network.crash("shop")
    with pytest.raises(zmqrel.PeerClosed):
        receipt.wait(timeout=1)
    network.restart("shop")
    again = shop.receipt("order-1")
    assert shop.send("bank", 1, id="order-1").id == again.id
    with pytest.raises(zmqrel.DuplicateId):
        shop.send("bank", 2, id="order-1")
    network.heal()
    bank.handler()(Seen())
    assert again.wait(timeout=60) is Outcome.HANDLED


def test_closing_lets_handlers_return_and_can_wait_for_outcomes(network: Network, shop: Peer, bank: Peer) -> None:
    @bank.handler()
    def slow(message: zmqrel.Message) -> None:
        network.advance(4)

    receipt = shop.send("bank", 1)
    network.advance(1)
    assert bank.close(timeout=10).inbox == 0
    assert receipt.wait(timeout=5) is Outcome.HANDLED
    unsettled = shop.send("bank", 2)
    assert shop.close(timeout=1, drain=True).unsettled == 1
    with pytest.raises(zmqrel.PeerClosed):
        shop.send("bank", 3)
    bank.start()
    with shop:
        assert shop.receipt(unsettled.id).wait(timeout=60) is Outcome.HANDLED


def test_forgetting_and_connecting(network: Network, shop: Peer, bank: Peer) -> None:
    network.partition("shop", "bank")
    receipt = shop.send("bank", 1)
    assert shop.forget("bank") == 1
    assert receipt.outcome in (Outcome.RECALLED, Outcome.UNCERTAIN)
    with pytest.raises(zmqrel.UnknownPeer):
        shop.send("bank", 1)
    network.heal()
    shop.connect("bank", "tcp://anything:1")
    bank.handler()(Seen())
    assert shop.send("bank", 1).wait(timeout=60) is Outcome.HANDLED


def test_a_wait_without_an_end_is_an_error(network: Network, shop: Peer, bank: Peer) -> None:
    receipt = shop.send("bank", 1)
    with pytest.raises(TimeoutError):
        receipt.wait(timeout=5)
    with pytest.raises(AssertionError, match="give the call a time-out"):
        receipt.wait()
    with pytest.raises(AssertionError, match=f"{receipt.id} of shop to bank/default"):
        network.settle(5)


def test_names_that_nobody_has(network: Network, shop: Peer) -> None:
    for wrong in (
        lambda: network.partition("shop", "bnk"),
        lambda: network.crash("bnk"),
        lambda: network.restart("bnk"),
        lambda: network.heal("shop", "bnk"),
        lambda: network.reconnect("shop", "bnk"),
        lambda: network.half_open("shop", "bnk"),
        lambda: network.close("bnk"),
        lambda: network.power_loss("bnk"),
        lambda: network.suspend("bnk", 1),
        lambda: network.backup("bnk"),
        lambda: network.delete_store("bnk"),
        lambda: network.fill_disk("bnk"),
    ):
        with pytest.raises(zmqrel.UnknownPeer, match=r"'bnk'.*'shop'"):
            wrong()
    with pytest.raises(zmqrel.ConfigError, match="shop"):
        network.peer("shop")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda network: network.crash("shop", "sometime"), "at takes 'before commit' or 'after commit' or"),
        (lambda network: network.crash("shop", "before commit", -1), "commits takes a whole number of at least 0"),
        (lambda network: network.advance(-1), "seconds takes seconds, from 0"),
        (lambda network: network.advance("1"), "seconds takes seconds, from 0"),
        (lambda network: network.until(bool, -1), "timeout takes seconds, from 0"),
        (lambda network: network.settle(-1), "timeout takes seconds, from 0"),
        (lambda network: network.suspend("shop", -1), "seconds takes seconds, from 0"),
        (lambda network: network.delete_store("shop"), "'shop' runs, and its store is open: crash or close it first"),
        (lambda network: network.restore("shop", network.backup("shop")), "'shop' runs"),
        (lambda network: network.peer("bank", ["shop"]), "peers takes a dict of names"),
        (lambda network: network.peer("bank", setup=1), "setup takes a function or None"),
        (lambda network: Network("1"), "seed takes a whole number"),
        (lambda network: Network(faults={"loss": 0.1}), "faults takes a LinkFaults or None"),
    ],
)
def test_what_a_network_does_not_take(
    network: Network, shop: Peer, call: Callable[[Network], object], said: str
) -> None:
    with pytest.raises(zmqrel.ConfigError, match=said):
        call(network)
    assert network.now == 0
    shop.send("bank", 1)  # and it runs as before


def test_a_copy_is_what_backup_returned(network: Network, shop: Peer) -> None:
    network.crash("shop")
    with pytest.raises(zmqrel.ConfigError, match="copy takes what `backup` returned"):
        network.restore("shop", None)  # type: ignore[arg-type]


def test_a_setup_that_raises_leaves_a_peer_that_does_not_run(network: Network, shop: Peer) -> None:
    lives: list[Peer] = []

    def setup(peer: Peer) -> None:
        lives.append(peer)
        peer.handler()(Seen())
        if len(lives) in (1, 3):
            raise KeyError("a mistake of the program")

    with pytest.raises(KeyError):
        network.peer("bank", {"shop": False}, setup=setup)
    [bank] = lives
    with pytest.raises(zmqrel.PeerClosed, match="'bank' is not started"):
        bank.send("shop", 1)
    network.restart("bank")
    assert shop.send("bank", 1).wait(timeout=60) is Outcome.HANDLED
    network.crash("bank")
    with pytest.raises(KeyError):
        network.restart("bank")
    waiting = shop.send("bank", 2)
    network.advance(60)
    assert waiting.outcome is None
    network.restart("bank")
    assert waiting.wait(timeout=60) is Outcome.HANDLED


def test_a_peer_may_be_made_after_what_was_sent_to_it(network: Network, shop: Peer) -> None:
    sent, stale, unwanted = shop.send("bank", 1), shop.send("bank", 2, ttl=30), shop.send("bank", 3)
    network.advance(3600)
    assert stale.wait(timeout=1) is Outcome.EXPIRED
    assert unwanted.recall(timeout=1).verdict is Verdict.RECALLED
    assert sent.outcome is None
    seen = Seen()
    network.peer("bank", {"shop": False}, setup=lambda bank: bank.handler()(seen))
    assert sent.wait(timeout=60) is Outcome.HANDLED
    assert seen.bodies == [1]


def test_threads_of_ones_own_are_refused(network: Network, shop: Peer, bank: Peer) -> None:
    errors: list[BaseException] = []

    def call() -> None:
        try:
            shop.send("bank", 1)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "one thread" in str(errors[0])


def run_of(seed: int) -> list[Any]:
    """Everything that happens in a run with a relay, crashes and retries."""
    seen: list[Any] = []
    with Network(seed) as network:
        network.watch(lambda what, *details: seen.append((network.now, what)))
        shop = network.peer("shop", {"bank": True})
        bank = network.peer("bank", {"shop": False})

        @bank.handler(workers=3)
        def work(message: zmqrel.Message) -> None:
            network.advance(0.1 * (message.body % 3))
            if message.body % 5 == 0 and message.attempt == 1:
                raise ValueError
            bank.send("shop", message.body)

        shop.handler()(Seen())
        shop.send_many("bank", range(20))
        network.advance(0.3)
        network.crash("bank")
        network.restart("bank")
        network.settle()
    return seen


def test_one_seed_gives_one_run() -> None:
    assert run_of(5) == run_of(5)
    assert run_of(5) != run_of(6)


def test_a_peer_that_cannot_commit_reports_what_is_committed(network: Network, shop: Peer, bank: Peer) -> None:
    seen = Seen()
    bank.handler()(seen)
    network.fail_commits("bank", 1000)
    receipt = shop.send("bank", 1)
    network.advance(1)
    network.fail_commits("bank", 0)
    assert network.until(lambda: bool(seen.messages), 5)
    network.fail_commits("shop", 1000)
    network.advance(2)
    report = shop.close(timeout=2, drain=True)
    assert (report.unsent, report.unsettled) == (0, 1)
    network.fail_commits("shop", 0)
    shop.start()
    assert receipt.id is not None
    [found] = shop.find(receipt.id)
    assert isinstance(found, zmqrel.Receipt)
    assert found.wait(timeout=5) is Outcome.HANDLED


def test_the_report_counts_what_was_handled_and_could_not_be_settled(network: Network, shop: Peer, bank: Peer) -> None:
    @bank.handler()
    def handle(message: zmqrel.Message) -> None:
        network.fail_commits("bank", 1000)

    shop.send("bank", 1)
    network.advance(1)
    assert bank.close(timeout=2).inbox == 1
