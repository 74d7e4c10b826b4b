"""What users were promised, checked from what users see; it knows nothing of how the core keeps it.

A Checker watches a Network: what was accepted, which outcomes were told, what was handed over and when, how handlers
ended. Bodies must be unique, for it tells messages apart by them. A message is "at risk" from the moment at which a
store that knew it was lost or put back; then only the promises that still hold are checked.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

from zmqrel.core.buffer import Handled, Rejected, Result
from zmqrel.outcome import Outcome
from zmqrel.testing.peer import Delivery, SimulatedPeer, SimulatedReceipt

if TYPE_CHECKING:
    from zmqrel.testing.network import Network

_NEVER_HANDED_OVER = (Outcome.RECALLED, Outcome.EXPIRED)


class PromiseBroken(AssertionError):
    """A peer did what no peer may do."""


@dataclass(slots=True)
class History:
    """Everything that was seen of one message."""

    receipt: SimulatedReceipt
    number: int
    """Its place among all that was accepted."""
    handed_over: list[tuple[float, int, bool]] = field(default_factory=list)
    """When, which attempt, and whether it was said to be redelivered."""
    moved: bool = False
    acknowledged: bool = False
    rejected: bool = False
    outcome: Outcome | None = None
    not_binding: Outcome | None = None
    """The outcome, if it was told by a store that was put back and had not met the receiver since."""
    at_risk: bool = False
    """A store that knew it was lost or put back."""
    unmet: bool = False
    """Its receiver has a lost or old store and was not in contact with its sender since."""
    running: bool = False
    lost: list[tuple[float, float]] = field(default_factory=list)
    """From when to when its receiver lived a life that it lost."""
    gone: list[tuple[float, float]] = field(default_factory=list)
    """Likewise, with all that its receiver's store held."""
    copied_at: float = inf
    """When the copy was made that its sender has now: what both lost since, nobody can find out."""
    doubtful: bool = False
    """A machine stopped, so that nobody may know whether it was handed over."""
    shaken: bool = False
    """One that knew it lost its last moments: it may have been sent twice, which is to be said, and out of order."""


class Checker:
    """Raises PromiseBroken at the first promise that is broken."""

    def __init__(self, network: Network) -> None:
        """Watch a network from now on."""
        self._network = network
        self.histories: dict[Any, History] = {}
        self.unknown: dict[Any, SimulatedReceipt] = {}
        """Not accepted as far as the application knows: its process died meanwhile."""
        self._first: dict[tuple[str, str, str], tuple[int, Any]] = {}
        """(sender, receiver, queue) -> number and body of the last one without a key that was first handed over."""
        self._of_key: defaultdict[tuple[str, str, str, str], list[Any]] = defaultdict(list)
        """(sender, receiver, queue, key) -> bodies in the order of their acceptance."""
        self._key_at_work: dict[tuple[str, str, str], Any] = {}
        """(receiver, queue, key) -> the body that a handler has."""
        self._unmet: set[tuple[str, str]] = set()
        """(peer whose store was put back, peer that it has not met since)."""
        self._unsure: set[tuple[str, str]] = set()
        """(peer that lost its last moments, peer that it has not met since)."""
        self.hand_overs = 0
        network.watch(self._see)

    # ------------------------------------------------------------------------------------------ watching

    def _see(self, what: str, *details: Any) -> None:
        seen = getattr(self, "_on_" + what.replace(" ", "_"), None)
        if seen is not None:
            seen(*details)

    def _on_accepted(self, receipt: SimulatedReceipt) -> None:
        self.unknown.pop(receipt.body, None)
        history = self.histories[receipt.body] = History(receipt, len(self.histories))
        if (receipt.sender, receipt.to) in self._unmet or (receipt.to, receipt.sender) in self._unmet:
            history.at_risk = True
        if (receipt.sender, receipt.to) in self._unsure or (receipt.to, receipt.sender) in self._unsure:
            history.doubtful = history.shaken = True
        if receipt.key is not None and not receipt.delayed:
            self._of_key[(receipt.sender, receipt.to, receipt.queue, receipt.key)].append(receipt.body)

    def _on_not_accepted(self, receipt: SimulatedReceipt) -> None:
        self.unknown[receipt.body] = receipt

    def _on_turn(self, name: str) -> None:
        """Contact ends the time in which nobody can know that a store is an old copy."""
        for pair in [pair for pair in self._unmet | self._unsure if name in pair]:
            one, other = (self._network.peers[name] for name in pair)
            if one.agrees_with(other.name) and other.agrees_with(one.name):
                self._unmet.discard(pair)
                self._unsure.discard(pair)

    def _on_stopped(self, peer: SimulatedPeer) -> None:
        self._forget_running(peer.name)

    def _forget_running(self, name: str) -> None:
        for where in [where for where in self._key_at_work if where[0] == name]:
            del self._key_at_work[where]
        for history in self.histories.values():
            if history.receipt.to == name:
                history.running = False

    def _on_store_lost(self, peer: SimulatedPeer, since: float = -1.0) -> None:
        for other in self._network.peers:
            self._unmet.add((peer.name, other))
        for history in self.histories.values():
            if peer.name in (history.receipt.sender, history.receipt.to):
                history.at_risk = True
            if peer.name == history.receipt.sender:
                history.copied_at = min(since, history.copied_at)
            elif peer.name == history.receipt.to and since < 0:
                history.gone.append((since, self._network.now))

    def _on_rolled_back(self, peer: SimulatedPeer, since: float) -> None:
        """What a life that was lost did since its copy was made, it may have told nobody."""
        self._on_store_lost(peer, since)
        for history in self.histories.values():
            if peer.name == history.receipt.to:
                history.lost.append((since, self._network.now))
            if peer.name == history.receipt.sender:
                # Told by a life that was lost; the copy may have forgotten it.
                history.not_binding, history.outcome = history.outcome or history.not_binding, None

    def _on_power_lost(self, peer: SimulatedPeer) -> None:
        """Under "relaxed" the last moments are lost, and the peer knows that: it may be unsure, never wrong."""
        relaxed = peer.options.durability == "relaxed"
        for history in self.histories.values():
            if peer.name == history.receipt.to or (relaxed and peer.name == history.receipt.sender):
                history.doubtful = True
                history.shaken = history.shaken or relaxed
        if relaxed:
            self._unsure.update((peer.name, other) for other in self._network.peers)

    # --------------------------------------------------------------------------------------- hand-overs

    def _on_refused(self, _peer: SimulatedPeer, delivery: Delivery) -> None:
        """`admit` said no; it counts unless the message was withdrawn before."""
        history = self.histories.get(delivery.body)
        if history is not None and delivery.origin_id is None:
            history.rejected = True

    def _on_handed_over(self, peer: SimulatedPeer, delivery: Delivery) -> None:
        self.hand_overs += 1
        if delivery.origin_id is not None:
            return
        history = self.histories.get(delivery.body)
        if history is None:
            if delivery.body not in self.unknown:
                raise self._broken(delivery.body, "handed over, but nobody sent it")
            return
        self._check_again(history, delivery)
        self._check_outcome(history)
        self._check_order(history)
        self._check_key(peer, history, delivery)
        history.handed_over.append((self._network.now, delivery.attempt, delivery.redelivered))
        history.running = True

    def _check_again(self, history: History, delivery: Delivery) -> None:
        again = not history.moved and self._known_hand_overs(history)
        if history.running and not (history.at_risk or history.shaken):
            raise self._broken(delivery.body, "handed over while a handler has it")
        marked = delivery.redelivered or delivery.attempt > 1
        if again and not marked and not self._excused(history):
            raise self._broken(delivery.body, "handed over again without saying so")

    def _known_hand_overs(self, history: History) -> list[tuple[float, int, bool]]:
        """Without those of a lost life whose loss nobody could find out."""
        unknown = [span for span in history.lost if not self._was_found_out(history.receipt, span[1])]
        both = history.lost + history.gone
        return [
            seen
            for seen in history.handed_over
            if not any(a <= seen[0] <= b for a, b in (both if seen[0] >= history.copied_at else unknown))
        ]

    def _was_found_out(self, receipt: SimulatedReceipt, since: float) -> bool:
        """True if the receiver was told after that that its store is an old copy."""
        return any(
            reported.by == receipt.to and reported.event.kind == "old_copy" and reported.event.peer == receipt.sender
            for reported in self._network.events
            if reported.at >= since
        )

    def _excused(self, history: History) -> bool:
        """A store was put back and the two have not met since: nobody can know."""
        pair = (history.receipt.to, history.receipt.sender)
        return pair in self._unmet or pair[::-1] in self._unmet

    def _check_outcome(self, history: History) -> None:
        if history.receipt.forgotten and history.lost:
            return  # both stores that knew it were lost
        if history.outcome in _NEVER_HANDED_OVER and not self._excused(history):
            raise self._broken(history.receipt.body, f"handed over after {history.outcome} was told")
        if history.outcome is not None and not (history.at_risk or history.shaken):
            raise self._broken(history.receipt.body, f"handed over after {history.outcome} was told")

    def _check_order(self, history: History) -> None:
        receipt = history.receipt
        if (
            receipt.delayed
            or receipt.key is not None
            or history.at_risk
            or history.shaken
            or history.handed_over
            or history.moved
        ):
            return
        where = (receipt.sender, receipt.to, receipt.queue)
        number, body = self._first.get(where, (-1, None))
        if history.number < number:
            raise self._broken(receipt.body, f"first handed over after {body!r}, which was sent later")
        self._first[where] = (history.number, receipt.body)

    def _check_key(self, peer: SimulatedPeer, history: History, delivery: Delivery) -> None:
        if delivery.key is None:
            return
        receipt, at_work = history.receipt, (peer.name, delivery.queue, delivery.key)
        if at_work in self._key_at_work:
            raise self._broken(receipt.body, f"handed over while {self._key_at_work[at_work]!r} of its key is at work")
        self._key_at_work[at_work] = receipt.body
        if receipt.delayed or history.moved:
            return
        for body in self._of_key[(receipt.sender, receipt.to, receipt.queue, delivery.key)]:
            other = self.histories[body]
            unsure = other.at_risk or other.shaken or history.at_risk or history.shaken
            if other.number <= history.number or unsure or other.moved:
                continue
            if other.handed_over:
                raise self._broken(receipt.body, f"handed over after {body!r} of its key, which was sent later")

    def _on_finished(self, peer: SimulatedPeer, delivery: Delivery, result: Result) -> None:
        history = self.histories.get(delivery.body)
        if delivery.key is not None:
            self._key_at_work.pop((peer.name, delivery.queue, delivery.key), None)
        if history is None or delivery.origin_id is not None:
            return
        history.running = False
        history.acknowledged = history.acknowledged or isinstance(result, Handled)
        history.rejected = history.rejected or isinstance(result, Rejected)
        history.moved = history.moved or type(result).__name__ == "MoveTo"

    # ----------------------------------------------------------------------------------------- outcomes

    def _on_outcome(self, receipt: SimulatedReceipt, outcome: Outcome) -> None:
        history = self.histories.get(receipt.body)
        if history is None:
            return
        if history.outcome not in (None, outcome) and not history.at_risk:
            raise self._broken(receipt.body, f"{outcome} was told after {history.outcome}")
        if outcome in (history.outcome, history.not_binding):
            return
        if self._excused(history):
            history.not_binding = outcome
        else:
            history.outcome = outcome
        if outcome in _NEVER_HANDED_OVER and self._known_hand_overs(history) and not self._excused_outcome(history):
            raise self._broken(receipt.body, f"{outcome} was told, but it was handed over")
        if outcome is Outcome.HANDLED and not history.acknowledged:
            raise self._broken(receipt.body, "HANDLED was told, but no handler acknowledged it")
        if outcome is Outcome.REJECTED and not history.rejected:
            raise self._broken(receipt.body, "REJECTED was told, but no handler refused it")
        if outcome is Outcome.UNCERTAIN and not history.at_risk and not history.doubtful:
            raise self._broken(receipt.body, "UNCERTAIN was told, but no store was lost")

    def _excused_outcome(self, history: History) -> bool:
        """The sender's store was put back to before it sent this, and has not met the receiver since."""
        return self._excused(history)

    def _broken(self, body: Any, what: str) -> PromiseBroken:
        history = self.histories.get(body)
        return PromiseBroken(f"at {self._network.now:.6f}: message {body!r}: {what}\n{history}")

    # ------------------------------------------------------------------------------------------ the end

    def check_all_ended(self) -> None:
        """Every accepted message that its sender's store still knows has its outcome."""
        for body, history in self.histories.items():
            if history.receipt.outcome is None and not history.receipt.forgotten:
                raise self._broken(body, "it has no outcome")
