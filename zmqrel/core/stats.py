"""The keys of `Peer.stats()`: what each counts. Counters begin at 0 with the process; the rest is as it is now."""

from __future__ import annotations

from zmqrel.outcome import Outcome

COUNTERS = {
    "accepted": "messages accepted by send calls",
    "sent": "messages transmitted, resends included",
    "resent": "entries transmitted again",
    "settled": "messages sent from here that got their outcome",
    **{f"outcome_{o.name.lower()}": f"of these, those that ended {o.name}" for o in Outcome},
    "received": "messages taken into the inbox, own ones included",
    "handled": "messages acknowledged by the application",
    "overdue": "hand-overs that lasted longer than the time_limit of their handler, those that still last included",
    "retried": "attempts after which the message waits for another",
    "recalled": "received messages, or ones still on their way, that were recalled before a hand-over",
    "expired": "received messages whose deadline passed here before a hand-over",
    "dead": "messages that became dead letters",
    "dead_dropped": "dead letters dropped because of dead_max_bytes",
    "dead_expired": "dead letters dropped after dead_retention_s",
    "dead_retried": "dead letters made into new messages",
    "dead_purged": "dead letters purged by the application",
    "not_permitted": "messages rejected because their sender may not send to their queue",
    "recalls_not_permitted": "recalls that were not obeyed because their sender may not recall here",
    "tombstones": "withdrawals that came before their message",
    "sessions": "sessions begun",
    "silent": "sessions ended because nothing was heard for liveness_s",
    "refused": "handshakes refused: unknown peer, other protocol, or a name in use",
    "newcomers_waited": "handshakes admitted after the former holder of the name did not answer",
    "malformed": "frames dropped because no peer can have sent them",
    "stale_frames": "frames of sessions that are over",
    "stale_acks": "acknowledgements of lanes or numbers that are not known",
    "gaps": "batches dropped because one before them is missing",
    "resent_gaps": "gaps answered by sending again",
    "resend_timeouts": "times that nothing was acknowledged for an interval of `resend`",
    "duplicate_batches": "batches dropped because all of them was received before",
    "old_copy": "times that this store was found to be an old copy",
    "peer_old_copy": "times that a peer's store was found to be an old copy",
    "peer_store_gone": "times that a peer had a new store",
    "states": "STATE entries taken from peers after a store was lost or rolled back",
    "damaged": "damaged rows found in the store",
}

LEVELS = {
    "outbox_messages": "messages sent from here that have no outcome",
    "outbox_unsent": "of these, those never transmitted",
    "outbox_bytes": "their bytes",
    "inbox_messages": "messages received and not settled, own ones included",
    "inbox_bytes": "their bytes",
    "in_hand": "messages handed over and not settled",
    "dead_messages": "dead letters kept",
    "dead_bytes": "their bytes",
    "commits": "commits since the store was made",
    "peers_connected": "peers with a session",
}
