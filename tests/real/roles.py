"""What child processes do in the tests: each function is a role, played until the parent hangs up or kills it."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from time import monotonic, process_time
from typing import Any

from tests.real.descriptors import Descriptors
from tests.real.line import Line
from tests.real.net import LIMIT_S
from tests.real.soak.node import triangle_node
from tests.real.wan import enter
from zmqrel import Message, Peer, PeerClosed, Receipt, Retry, StoreFull
from zmqrel.store.in_hand import InHandFile
from zmqrel.store.lmdb import LmdbStore

__all__ = ["triangle_node"]


def die_at(boundary: int) -> None:
    """Let this process kill itself at its n-th boundary: an instant before or after a commit, or a step of the in-hand
    table; 0 is never."""
    passed = 0

    def step() -> None:
        nonlocal passed
        passed += 1
        if passed == boundary:
            os.kill(os.getpid(), signal.SIGKILL)

    commit = LmdbStore.commit

    def counted(store: LmdbStore) -> bool:
        if store._wrote:
            step()
        wrote = commit(store)
        if wrote:
            step()
        return wrote

    def followed(name: str) -> Callable[..., Any]:
        original = getattr(InHandFile, name)

        def then_step(table: InHandFile, *arguments: Any) -> Any:
            result = original(table, *arguments)
            step()
            return result

        return then_step

    LmdbStore.commit = counted  # type: ignore[method-assign, assignment]
    for name in ("take", "done", "free"):
        setattr(InHandFile, name, followed(name))


def _serve(line: Line, peer: Peer, **answers: Callable[..., Any]) -> None:
    """Answer what the parent asks for until it wants the peer to close."""
    while True:
        asked = line.hear()
        word = asked.pop("do")
        if word == "close":
            report = peer.close()
            line.say(close=[report.unsent, report.unsettled, report.inbox])
            return
        if word == "stats":
            line.say(stats=peer.stats())
        else:
            line.say(**{word: answers[word](**asked)})


# ------------------------------------------------------------------------------------------ the long run of kills


def stream_source(line: Line, options: dict[str, Any]) -> None:
    """Sends numbered messages as told; a number that was sent before is not sent twice, for it has an id."""
    peer = Peer("shop", **options).start()
    line.say(ready=True)

    def send(first: int, last: int) -> int:
        for number in range(first, last + 1):
            peer.send_nowait("billing", number, id=f"m{number}", key=f"k{number % 50}" if number % 3 == 0 else None)
        peer.flush()
        return last

    def finish(last: int) -> dict[str, int]:
        outcomes: dict[str, int] = {}
        for number in range(1, last + 1):
            name = peer.receipt(f"m{number}").wait().name
            outcomes[name] = outcomes.get(name, 0) + 1
        return outcomes

    _serve(line, peer, send=send, finish=finish)


def stream_sink(line: Line, options: dict[str, Any], database: str, workers: int = 1) -> None:
    """Records every delivery in a database, and tells of it, before it is handled."""
    peer = Peer("billing", **options)
    records = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    # What SIGKILL leaves is what was written; only power loss would need more.
    records.execute("PRAGMA journal_mode=WAL")
    records.execute("PRAGMA synchronous=OFF")
    records.execute(
        "CREATE TABLE IF NOT EXISTS delivery (n INTEGER PRIMARY KEY, id TEXT, attempt INT, redelivered INT)"
    )

    one_at_a_time = threading.Lock()  # a connection's cached statement takes the values of one thread only

    @peer.handler(workers=workers, retry=Retry.fixed(0.001))
    def record(message: Message) -> None:
        row = (message.id, message.attempt, message.redelivered)
        with one_at_a_time:
            records.execute("INSERT INTO delivery (id, attempt, redelivered) VALUES (?, ?, ?)", row)
        line.say(handled=message.body)

    peer.start()
    line.say(ready=True)
    _serve(line, peer)


# ----------------------------------------------------------------------------------------- a kill at each boundary


def small_source(line: Line, options: dict[str, Any], boundary: int) -> None:
    """Sends a few messages of every kind, and tells what became of them."""
    die_at(boundary)
    peer = Peer("shop", **options).start()

    def send(**arguments: Any) -> Receipt:
        return peer.send("billing", arguments["id"], **arguments)

    receipts = [
        send(id="plain"),
        send(id="first", key="k", ttl=3600),
        send(id="second", key="k", headers={"n": 1}),
        send(id="delayed", delay=0.01),
        send(id="other", queue="other"),
    ]
    outcomes = [receipt.wait() for receipt in receipts]
    line.say(outcomes=[outcome.name for outcome in outcomes])
    _serve(line, peer)


def small_sink(line: Line, options: dict[str, Any], boundary: int) -> None:
    """Handles them, "first" at its second attempt."""
    die_at(boundary)
    peer = Peer("billing", **options)

    @peer.handler(workers=2, retry=Retry.fixed(0))
    def work(message: Message) -> None:
        line.say(delivery=[message.id, message.attempt, message.redelivered])
        if message.id == "first" and message.attempt == 1:
            raise ValueError("again")

    peer.handler("other", retry=Retry.fixed(0))(
        lambda message: line.say(delivery=[message.id, message.attempt, message.redelivered])
    )
    peer.start()
    _serve(line, peer)


# --------------------------------------------------------------------------------------------- a deadly message


def poisoned_sink(line: Line, options: dict[str, Any], by: str) -> None:
    """Handles messages in four workers; one of them ends the process."""
    peer = Peer("billing", **options)

    @peer.handler(workers=4, retry=Retry.fixed(0, max_attempts=3))
    def work(message: Message) -> None:
        line.say(delivery=[message.body, message.attempt, message.redelivered])
        if message.body == "poison":
            if by == "exit":
                os._exit(9)
            os.kill(os.getpid(), signal.SIGKILL)

    peer.start()
    line.say(ready=True)
    _serve(line, peer)


# -------------------------------------------------------------------------------------------------- signals


def interrupted_source(line: Line, options: dict[str, Any], first: int, way: str) -> None:
    """Sends messages until it is asked to stop by a signal: in `run`, or in a `with` block in the main thread."""
    line.say(starting=True)
    peer = Peer("shop", **options)

    def send_all() -> None:
        with suppress(PeerClosed):
            for number in count(first):
                peer.send("billing", number, id=f"m{number}")
                line.say(accepted=number)

    if way == "with":
        with suppress(KeyboardInterrupt), peer:
            send_all()
        return
    peer.start()
    sending = threading.Thread(target=send_all)
    sending.start()
    peer.run()
    sending.join()


def running_sink(line: Line, options: dict[str, Any]) -> None:
    """Serves with `run` until a signal; tells of each message before and after it was at work on it."""
    peer = Peer("billing", **options)

    @peer.handler()
    def work(message: Message) -> None:
        line.say(begun=message.body)
        if message.body == "slow":
            line.hear()
        line.say(done=message.body)

    line.say(starting=True)
    peer.run()
    line.say(stopped=True)


# ------------------------------------------------------------------------------------- a host of its own


def far_peer(line: Line, name: str, options: dict[str, Any], namespace: str) -> None:
    """Tells of every hand-over in the queue "default" and of every outcome; the queue "shelf" is served when asked."""
    enter(namespace)
    peer = Peer(name, insecure=True, **options)

    def tell(message: Message) -> None:
        line.say(handled=[message.id, message.attempt, message.redelivered])
        if message.body == "slow" and message.attempt == 1:
            threading.Event().wait()  # until it is killed

    peer.handler()(tell)
    peer.on_outcome()(lambda receipt: line.say(outcome=[receipt.id, receipt.outcome.name]))
    peer.start()
    line.say(ready=True)

    def send(to: str, ids: list[str], **arguments: Any) -> int:
        for each in ids:
            peer.send_nowait(to, each, id=each, **arguments)
        peer.flush()
        return len(ids)

    _serve(
        line,
        peer,
        send=send,
        state=lambda id: peer.receipt(id).state.name,
        recall=lambda id: peer.recall(id).verdict.name,
        verdict=lambda id: peer.recall(id, timeout=LIMIT_S).verdict.name,
        serve_shelf=lambda: peer.handler("shelf")(tell) is not None,
    )


# ------------------------------------------------------------------------------------- without room


def narrow_peer(line: Line, name: str, options: dict[str, Any], most_file_bytes: int = 0) -> None:
    """Fills its store when asked to, whose files can have so many bytes; tells of each hand-over."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if most_file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_file_bytes, limits[1]))
    peer = Peer(name, **options)
    peer.start()
    line.say(ready=True)

    def fill(to: str, size: int) -> list[Any]:
        for number in count():
            try:
                peer.send(to, bytes(size), id=f"m{number}")
            except StoreFull as error:
                return [number, str(error)]
        raise AssertionError

    def takes() -> bool:
        try:
            peer.send("billing", bytes(10_000))
        except StoreFull:
            return False
        return True

    def serve() -> bool:
        peer.handler()(lambda message: line.say(handled=[message.id, message.attempt, message.redelivered]))
        return True

    _serve(
        line,
        peer,
        fill=fill,
        takes=takes,
        serve=serve,
        send=lambda to, ids, size, **arguments: [peer.send_nowait(to, bytes(size), id=n, **arguments).id for n in ids],
        state=lambda id: peer.receipt(id).state.name,
        outcome=lambda id: peer.receipt(id).wait(LIMIT_S).name,
        outcomes=lambda ids: sorted({peer.receipt(id).wait(LIMIT_S).name for id in ids}),
        verdict=lambda id: peer.recall(id, timeout=LIMIT_S).verdict.name,
        cpu=lambda: [process_time(), monotonic()],
    )


# ------------------------------------------------------------------------------------- without descriptors


def scarce_start(line: Line, options: dict[str, Any], left: int) -> None:
    """Starts a peer with so many descriptors left; where that succeeds, sends and closes with none. Tells what came."""
    with Descriptors(left) as descriptors:
        peer = Peer("shop", **options)
        try:
            peer.start()
        except Exception as error:
            line.say(raised=[type(error).__name__, str(error)], threads=_threads())
            return
        descriptors.take_all()
        state = peer.send("billing", "scarce").state.name
        report = peer.close()
        line.say(sent=state, close=[report.unsent, report.unsettled, report.inbox], threads=_threads())


def scarce_server(line: Line, options: dict[str, Any]) -> None:
    """Serves, and uses up its descriptors when asked to; tells whether others can connect, and what it handles."""
    peer = Peer("billing", **options)
    peer.handler()(lambda message: line.say(handled=message.body))
    peer.start()
    descriptors = Descriptors()
    heard = _Heard(line)
    logging.getLogger("zmqrel").addHandler(heard)
    line.say(ready=peer.endpoints)

    def exhaust() -> bool:
        descriptors.__enter__()
        return True

    def release() -> bool:
        descriptors.__exit__()
        return True

    _serve(line, peer, exhaust=exhaust, release=release, cpu=lambda: [process_time(), monotonic()])


class _Heard(logging.Handler):
    """Tells the parent what is logged of connections."""

    def __init__(self, line: Line) -> None:
        super().__init__(logging.WARNING)
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "can connect" in text:
            self._line.say(door="shut" if "nobody" in text else "open", text=text)


def _threads() -> list[str]:
    """Those that do not end, of which the last may be about to."""
    started = [thread for thread in threading.enumerate() if thread.name.startswith("zmqrel-")]
    for thread in started:
        thread.join(LIMIT_S)
    return [thread.name for thread in started if thread.is_alive()]


def holder(line: Line, store: str) -> None:
    """Has a store open."""
    with Peer("shop", store):
        line.say(ready=True)
        line.hear()
