"""Nothing is handed over or taken back that its sender was not permitted, and nothing else is refused for that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zmqrel.outcome import Outcome
from zmqrel.permissions import REFUSAL, Permissions
from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.observations import Sent

if TYPE_CHECKING:
    from zmqrel.testing.network import Network
    from zmqrel.testing.peer import Delivery, SimulatedReceipt

_WITHOUT_ITS_RECEIVER = (Outcome.RECALLED, Outcome.EXPIRED, Outcome.EXHAUSTED, Outcome.UNCERTAIN)
"""How a message that is not permitted can end beside REJECTED: withdrawn before it came, or in doubt."""


def is_refused(permissions: Permissions | None, sent: Sent) -> bool:
    """Whether the receiver does not permit this message: its queue, or where it goes when it expires."""
    if permissions is None:
        return False
    permission = permissions.of(sent.sender)
    kind, _, queue = sent.on_expiry.partition(":")
    return not permission.covers(sent.queue) or (kind == "queue" and not permission.covers(queue))


class PermissionChecker:
    """Watches a network whose permissions do not change. Raises PromiseBroken."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._sent: dict[Any, SimulatedReceipt] = {}
        self._ended: set[Any] = set()
        network.on("accepted", self._on_accepted)
        network.on("handed over", self._on_handed_over)
        network.on("outcome", self._on_outcome)

    def _of(self, name: str) -> Permissions | None:
        given = self._network.peers[name].options.permissions
        assert given is None or isinstance(given, Permissions)
        return given

    def _on_accepted(self, receipt: SimulatedReceipt) -> None:
        self._sent[receipt.body] = receipt

    def _on_handed_over(self, delivery: Delivery) -> None:
        sent = self._sent.get(delivery.body)
        # What a peer makes itself, of what it had sent and nobody took, is its own affair.
        if sent is None or sent.to != delivery.to:
            return
        permissions = self._of(sent.to)
        if is_refused(permissions, sent):
            raise PromiseBroken(f"{sent.body!r} was handed over, but {sent.sender} may not send it to {sent.to}")
        expired = delivery.cause == "expired"
        if expired and permissions is not None and not permissions.of(sent.sender).covers(delivery.queue):
            raise PromiseBroken(f"{sent.body!r} expired into {delivery.queue!r}, where {sent.sender} may not send")

    def _on_outcome(self, receipt: SimulatedReceipt, outcome: Outcome, reason: str | None, _attempts: int) -> None:
        permissions = self._of(receipt.to)
        refused = is_refused(permissions, receipt)
        said = outcome is Outcome.REJECTED and (reason or "").startswith(REFUSAL)
        if refused and not (said or outcome in _WITHOUT_ITS_RECEIVER):
            raise PromiseBroken(f"{receipt.body!r} ended {outcome}, {reason!r}, though it was not permitted")
        if said and not refused:
            raise PromiseBroken(f"{receipt.body!r} was called not permitted, which it was")
        may_recall = permissions is None or permissions.of(receipt.sender).recall
        told_before = receipt.body in self._ended
        self._ended.add(receipt.body)
        # Told again, it says nothing: of what was taken back before it left, the hole that it left is received.
        if outcome is Outcome.RECALLED and receipt.received and not may_recall and not told_before:
            raise PromiseBroken(f"{receipt.body!r} was taken back, but {receipt.sender} may not recall")
