"""zmqrel: brokerless, durable messaging between peers. See the README, and `Peer` first."""

from zmqrel.errors import (
    AlreadySettled,
    ConfigError,
    DeadlinePassed,
    DuplicateId,
    Error,
    ForkedPeer,
    MessageTooLarge,
    NotHandled,
    NotSerializable,
    OutboxFull,
    PeerClosed,
    Reject,
    RetryLater,
    StoreDamaged,
    StoreFull,
    StoreLocked,
    StoreTooNew,
    UnknownMessage,
    UnknownPeer,
)
from zmqrel.history import HistoryEvent
from zmqrel.message import Message, Recall, Receipt
from zmqrel.options import Options
from zmqrel.outcome import Outcome, State, Verdict
from zmqrel.participant import CloseReport
from zmqrel.peer import MEMORY, Peer
from zmqrel.retry import Retry
from zmqrel.stored import DeadLetter, DeadLetters, InboxMessage, OutboxMessage
from zmqrel.waiting import as_completed, wait_all

__all__ = [
    "MEMORY",
    "AlreadySettled",
    "CloseReport",
    "ConfigError",
    "DeadLetter",
    "DeadLetters",
    "DeadlinePassed",
    "DuplicateId",
    "Error",
    "ForkedPeer",
    "HistoryEvent",
    "InboxMessage",
    "Message",
    "MessageTooLarge",
    "NotHandled",
    "NotSerializable",
    "Options",
    "OutboxFull",
    "OutboxMessage",
    "Outcome",
    "Peer",
    "PeerClosed",
    "Recall",
    "Receipt",
    "Reject",
    "Retry",
    "RetryLater",
    "State",
    "StoreDamaged",
    "StoreFull",
    "StoreLocked",
    "StoreTooNew",
    "UnknownMessage",
    "UnknownPeer",
    "Verdict",
    "as_completed",
    "wait_all",
]
