"""What users were promised, checked from what users see; it knows nothing of how the core keeps it.

A Checker is told observations (observations.py): what was accepted, which outcomes were told, what was handed over and
when, how handlers ended. Bodies must be unique, for it tells messages apart by them. A message is "at risk" from the
moment at which a store that knew it was lost or put back; then only the promises that still hold are checked.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import inf
from typing import Any

from zmqrel.core.buffer import Handled, MoveTo, Rejected, Result
from zmqrel.outcome import Outcome
from zmqrel.permissions import REFUSAL
from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.observations import HandOver, Sent, World

_NEVER_HANDED_OVER = (Outcome.RECALLED, Outcome.EXPIRED)


@dataclass(slots=True)
class History:
    """Everything that was seen of one message."""

    receipt: Sent
    number: int
    """Its place among all that was accepted."""
    handed_over: list[tuple[float, int, bool]] = field(default_factory=list)
    """When, which attempt, and whether it was said to be redelivered."""
    moved: bool = False
    acknowledged: bool = False
    settles: bool = False
    """Its last attempt ended it, if that is committed. An earlier one may have been lost with its process."""
    rejected: bool = False
    outcome: Outcome | None = None
    not_binding: Outcome | None = None
    """The outcome, if it was told by a store that was put back and had not met the receiver since."""
    at_risk: bool = False
    """A store that knew it was lost or put back."""
    blind: bool = False
    """What happened to it before it was accepted was not seen."""
    sender_lost: bool = False
    """Its sender's was."""
    running: bool = False
    may_again: bool = True
    """There is a reason to hand it over, for the first time or again."""
    interrupted: bool = False
    """Its receiver's process died while a handler had it."""
    cut_off: bool = False
    """Likewise, or before what its handler made of it was committed: that counts for ever."""
    suspect: bool = False
    """Likewise, and it was not handed over since."""
    alone: bool = False
    """It is handed over as a suspect: nothing else is, until its handler returns."""
    sole_deaths: int = 0
    """How often its receiver's process died while no other message was with a handler."""
    over: bool = False
    """An attempt failed that was its last."""
    recalled: bool = False
    killed_in_admit: int = 0
    """How often its receiver's process died while `admit` was asked: that may be its doing, and counts."""
    told: Outcome | None = None
    """The outcome that a callback was told."""
    deaths: int = 0
    """How often its receiver's process had died when it was accepted, or last known to be with a handler."""
    unseen: int = 0
    """Hand-overs that nobody saw, for the process died; a later one told of them."""
    lost: list[tuple[float, float]] = field(default_factory=list)
    """From when to when its receiver lived a life that it lost."""
    gone: list[tuple[float, float]] = field(default_factory=list)
    """Likewise, with all that its receiver's store held."""
    copied_at: float = inf
    """When the copy was made that its sender has now: what both lost since, nobody can find out."""
    doubtful: bool = False
    """A machine stopped, so that nobody may know whether it was handed over; or its row was damaged."""
    shaken: bool = False
    """One that knew it lost its last moments: it may have been sent twice, which is to be said, and out of order."""
    sent_twice: bool = False
    """That one was its sender's, so that it may indeed."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a Checker has to know of the workload that it watches."""

    max_attempts: int | None = None
    """Of every handler."""
    clock_error_s: float = 0.2
    """How wrong a peer may be about another's clock: half of its best round trip, and what drifts."""
    clocks_step: bool = False
    """Wall clocks are wrong and stepped, so that a store clock may be anywhere after a restart."""
    healthy: frozenset[str] = frozenset()
    """Peers that nothing ever happens to."""
    prompt_queues: frozenset[str] = frozenset()
    """Queues whose workers always have time: between healthy peers nothing there waits for long."""
    tells: bool = False
    """Outcomes are told to callbacks."""
    prompt_s: float = 1.0
    """What is prompt happens within so long, and so long again for each `prompt_messages` that stand before it."""
    prompt_messages: int = 80
    recorded: bool = False
    """The observations are records of processes: what one did just before it was killed may be missing, what it was
    about to do then may not have come about, and its turns are not seen."""


class Checker:
    """Raises PromiseBroken at the first promise that is broken. `seen` counts what was."""

    def __init__(self, world: World, rules: Rules | None = None) -> None:
        """Watch a world from now on."""
        self._world = world
        self.rules = rules or Rules()
        self.seen: Counter[str] = Counter()
        self.histories: dict[Any, History] = {}
        self.unknown: dict[Any, Sent] = {}
        """Not accepted as far as the application knows: its process died meanwhile."""
        self._first: dict[tuple[str, str, str], tuple[int, Any, int]] = {}
        """(sender, receiver, queue) -> number and body of the last one without a key that was handed over, and by when
        it was."""
        self._first_delayed: dict[tuple[str, str, str], tuple[int, int, Any, int]] = {}
        """Likewise for delayed ones: when it was due, its number and body, and by when it was handed over."""
        self._of_key: defaultdict[tuple[str, str, str, str], list[Any]] = defaultdict(list)
        """(sender, receiver, queue, key) -> bodies in the order of their acceptance."""
        self._key_at_work: dict[tuple[str, str, str], Any] = {}
        """(receiver, queue, key) -> the body that a handler has."""
        self._at_work: defaultdict[str, set[Any]] = defaultdict(set)
        """Receiver -> bodies that handlers have, own messages too."""
        self._asked_about: defaultdict[str, dict[str, History]] = defaultdict(dict)
        """Receiver -> queue -> what its `admit` is asked about, or was last."""
        self._unsettled: defaultdict[str, list[History]] = defaultdict(list)
        """Receiver -> what handlers were through with since its last turn."""
        self._unmet: set[tuple[str, str]] = set()
        """(peer whose store was put back, peer that it has not met since)."""
        self._unsure: set[tuple[str, str]] = set()
        """(peer that lost its last moments, peer that it has not met since)."""
        self._recalled_where: list[tuple[str, str, str | None]] = []
        self._due: dict[tuple[str, Any], float] = {}
        """What must have happened by when."""
        self._next_due = inf
        """None of them is due before."""
        self._waiting: Counter[tuple[str, str, str]] = Counter()
        """(sender, receiver, queue) -> how many messages are due to be handed over."""
        self._lives: dict[Any, tuple[int, int]] = {}
        """Body -> lives of sender and receiver when it was accepted."""
        self._forgot: set[tuple[str, str]] = set()
        """(peer, another that it was told to forget)."""
        self._deaths: Counter[str] = Counter()
        """How often each peer's process died."""
        self._of_id: defaultdict[tuple[str, str], list[History]] = defaultdict(list)
        """(sender, id) -> what has it: a store that was put back may give one again."""
        self._told_of_unknown: dict[tuple[str, str], Outcome] = {}
        """(sender, id) -> what a callback was told of a message whose sender died before it knew of it."""
        self.hand_overs = 0
        self._sees = {name[4:].replace("_", " "): getattr(self, name) for name in dir(self) if name.startswith("_on_")}
        world.watch(self._see)

    # ------------------------------------------------------------------------------------------ watching

    def _see(self, what: str, *details: Any) -> None:
        see = self._sees.get(what)
        if see is not None:
            see(*details)

    def _on_accepted(self, receipt: Sent) -> None:
        was_unknown = self.unknown.pop(receipt.body, None)
        if receipt.body in self.histories:
            raise self._broken(receipt.body, "was accepted a second time")
        history = self.histories[receipt.body] = History(receipt, len(self.histories))
        history.deaths = self._deaths[receipt.to]
        if receipt.id is not None:
            self._of_id[(receipt.sender, receipt.id)].append(history)
        self._lives[receipt.body] = self._lives_of(receipt)
        pair = receipt.sender, receipt.to
        # That one has forgotten the other may be found out at a later handshake than the first.
        if not {pair, pair[::-1]}.isdisjoint(self._unmet | self._forgot):
            history.at_risk = True
        if (receipt.sender, receipt.to) in self._unsure or (receipt.to, receipt.sender) in self._unsure:
            history.doubtful = history.shaken = True
            history.sent_twice = (receipt.sender, receipt.to) in self._unsure
        history.doubtful = history.doubtful or receipt.given_again
        if was_unknown is not None:
            # Sent again, by a caller that did not know: what became of it meanwhile was not seen.
            history.at_risk = history.blind = True
            history.told = self._told_of_unknown.pop((receipt.sender, receipt.id or ""), None)
        elif receipt.key is not None and not receipt.delayed:
            self._of_key[(receipt.sender, receipt.to, receipt.queue, receipt.key)].append(receipt.body)
        elif self._is_prompt(receipt) and not receipt.delayed:
            self._expect("handed over", receipt.body, self._waiting[_lane(receipt)] // self.rules.prompt_messages)
            self._waiting[_lane(receipt)] += 1

    def _on_not_accepted(self, receipt: Sent) -> None:
        self.unknown[receipt.body] = receipt
        self.seen[f"not accepted: {type(receipt.error).__name__}"] += 1

    def _on_turn(self, name: str) -> None:
        if name in self._unsettled and not self._world.stalled(name):
            for history in self._unsettled.pop(name):
                history.may_again = history.may_again and not history.settles
        if self._due:
            self._check_due()
        if self._unmet or self._unsure:
            self._check_contact(name)

    def _check_contact(self, name: str) -> None:
        """Contact ends the time in which nobody can know that a store is an old copy."""
        for pair in [pair for pair in self._unmet | self._unsure if name in pair]:
            if self._world.agree(*pair):
                self._unmet.discard(pair)
                self._unsure.discard(pair)

    def _on_stopped(self, name: str, clean: bool) -> None:
        at_work = self._at_work.pop(name, set())
        for where in [where for where in self._key_at_work if where[0] == name]:
            del self._key_at_work[where]
        self._deaths[name] += not clean
        for uncommitted in self._unsettled.pop(name, ()):
            uncommitted.cut_off = True
            uncommitted.over = False  # that its last attempt failed is forgotten with the process
            if self.rules.recorded and uncommitted.outcome is None:
                # It may not even have come to its end, and been the only one.
                uncommitted.may_again = True
                uncommitted.sole_deaths += not clean
        for asked in self._asked_about.pop(name, {}).values():
            asked.killed_in_admit += not clean
        for body in at_work:
            history = self.histories.get(body)
            if history is not None:
                history.running = history.alone = False
                history.may_again = history.interrupted = history.cut_off = True
                history.suspect = not clean
                history.sole_deaths += len(at_work) == 1 and not clean
                history.deaths = self._deaths[name]
                self.seen["killed in a handler"] += 1

    def _on_store_lost(self, name: str, since: float = -1.0) -> None:
        self._unmet.update((name, other) for other in self._world.names() if other != name)
        for history in self.histories.values():
            if name in (history.receipt.sender, history.receipt.to):
                history.at_risk = True
            if name == history.receipt.sender:
                history.sender_lost = True
                history.copied_at = min(since, history.copied_at)
            elif name == history.receipt.to and since < 0:
                history.gone.append((since, self._world.now))
            if name == history.receipt.to:
                history.suspect = False  # the table that knew is another one

    def _on_forgot(self, name: str, other: str) -> None:
        """What the two sent each other may end UNCERTAIN, and come again if it says so."""
        self._forgot.add((name, other))
        self._estrange(name, other)

    def _on_impersonated(self, name: str, other: str) -> None:
        """The other took what it sent to whoever had the name, and knows `name` itself as one with another store."""
        self._estrange(name, other)

    def _estrange(self, name: str, other: str) -> None:
        self._unmet.add((name, other))
        for history in self.histories.values():
            if {history.receipt.sender, history.receipt.to} == {name, other}:
                history.at_risk = True

    def _on_rolled_back(self, name: str, since: float) -> None:
        """What a life that was lost did since its copy was made, it may have told nobody."""
        self._on_store_lost(name, since)
        for history in self.histories.values():
            if name == history.receipt.to:
                history.lost.append((since, self._world.now))
            if name == history.receipt.sender:
                # Told by a life that was lost; the copy may have forgotten it.
                history.not_binding, history.outcome = history.outcome or history.not_binding, None

    def _on_power_lost(self, name: str, relaxed: bool) -> None:
        """Under "relaxed" the last moments are lost, and the peer knows that: it may be unsure, never wrong."""
        for history in self.histories.values():
            if name == history.receipt.to or (relaxed and name == history.receipt.sender):
                history.doubtful = True
                history.shaken = history.shaken or relaxed
                history.sent_twice = history.sent_twice or (relaxed and name == history.receipt.sender)
            if name == history.receipt.to:
                history.suspect = False
        if relaxed:
            self._unsure.update((name, other) for other in self._world.names() if other != name)

    def _on_damaged(self, name: str, body: Any) -> None:
        """A row was damaged: of this message, or one that said something of any of the peer's."""
        self.seen["damaged"] += 1
        for history in self.histories.values():
            if history.receipt.body == body or (body is None and name in (history.receipt.sender, history.receipt.to)):
                history.doubtful = True

    def _on_recalling(self, receipt: Sent) -> None:
        history = self.histories.get(receipt.body)
        if history is not None and not history.recalled:
            history.recalled = True
            if history.outcome is None and self._is_prompt(receipt):
                self._expect("recalled, or told that it is too late", receipt.body)

    def _on_recalling_where(self, sender: str, queue: str, key: str | None) -> None:
        self._recalled_where.append((sender, queue, key))

    # --------------------------------------------------------------------------------- what is to come soon

    def _is_prompt(self, receipt: Sent) -> bool:
        """Neither its peers nor its queue have any reason to let it wait."""
        rules = self.rules
        return receipt.queue in rules.prompt_queues and rules.healthy.issuperset((receipt.sender, receipt.to))

    def _expect(self, what: str, body: Any, bursts_before: int = 0) -> None:
        at = self._due[(what, body)] = self._world.now + self.rules.prompt_s * (1 + bursts_before)
        self._next_due = min(self._next_due, at)

    def _happened(self, what: str, body: Any) -> None:
        if self._due.pop((what, body), None) is not None and what == "handed over":
            self._waiting[_lane(self.histories[body].receipt)] -= 1

    def _check_due(self) -> None:
        if self._world.now <= self._next_due:
            return
        for (what, body), at in self._due.items():
            if at < self._world.now:
                raise self._broken(body, f"not {what} in time, though nothing is wrong with its peers")
        self._next_due = min(self._due.values(), default=inf)

    # --------------------------------------------------------------------------------------- hand-overs

    def _on_asking(self, delivery: HandOver) -> None:
        """`admit` sees the message: if the process dies now, it may be the reason."""
        history = self.histories.get(delivery.body)
        if history is not None and delivery.origin_id is None:
            self._asked_about[delivery.to][delivery.queue] = history

    def _on_refused(self, delivery: HandOver) -> None:
        """`admit` said no; it counts unless the message was withdrawn before."""
        self._asked_about[delivery.to].pop(delivery.queue, None)
        history = self.histories.get(delivery.body)
        if history is not None and delivery.origin_id is None:
            history.rejected = True

    def _on_asked_in_vain(self, delivery: HandOver) -> None:
        """It was withdrawn while `admit` was asked."""
        self._asked_about[delivery.to].pop(delivery.queue, None)

    def _on_handed_over(self, delivery: HandOver) -> None:
        self.hand_overs += 1
        self._check_suspects(delivery)
        self._asked_about[delivery.to].pop(delivery.queue, None)
        if delivery.origin_id is not None:
            self._at_work[delivery.to].add((delivery.id,))
            return
        self._at_work[delivery.to].add(delivery.body)
        history = self.histories.get(delivery.body)
        if history is None:
            if delivery.body not in self.unknown:
                raise self._broken(delivery.body, "handed over, but nobody sent it")
            return
        self._check_again(history, delivery)
        self._check_attempt(history, delivery)
        self._check_outcome(history)
        self._check_time(history, delivery)
        self._check_order(history, delivery)
        self._check_key(history, delivery)
        history.handed_over.append((self._world.now, delivery.attempt, delivery.redelivered))
        history.deaths = self._deaths[delivery.to]
        history.running = True
        # A sender whose store was put back sends it under a new number, of which nothing is known; one that was
        # forgotten sends what its receiver holds once more. That has not killed anybody, so its attempts begin anew.
        anew = history.sender_lost or (history.at_risk and delivery.attempt == 1)
        history.alone = history.suspect and not anew
        history.may_again = history.interrupted = history.suspect = False
        self._happened("handed over", delivery.body)
        self._happened("recalled, or told that it is too late", delivery.body)
        self.seen["redelivered"] += delivery.redelivered

    def _check_suspects(self, delivery: HandOver) -> None:
        for body in self._at_work[delivery.to]:
            other = self.histories.get(body)
            if other is not None and other.alone:
                raise self._broken(delivery.body, f"handed over while {body!r} is tried alone")

    def _check_again(self, history: History, delivery: HandOver) -> None:
        again = not history.moved and self._known_hand_overs(history)
        if history.running and not (history.at_risk or history.shaken):
            raise self._broken(delivery.body, "handed over while a handler has it")
        marked = delivery.redelivered or delivery.attempt > 1
        if again and not marked and not self._excused(history):
            raise self._broken(delivery.body, "handed over again without saying so")
        if history.at_risk or history.doubtful:
            return
        if history.handed_over and not history.may_again:
            raise self._broken(delivery.body, "handed over again, and nothing was wrong with the first time")
        if history.interrupted and not delivery.redelivered:
            raise self._broken(delivery.body, "not said to be redelivered, though its handler was killed")
        if delivery.redelivered and not (history.cut_off or history.killed_in_admit or self._died_unseen(history)):
            raise self._broken(delivery.body, "said to be redelivered, but no process died while it was at work")

    def _check_attempt(self, history: History, delivery: HandOver) -> None:
        if history.at_risk or history.doubtful or history.moved:
            return
        known = self._known_attempts(history)
        if delivery.attempt - 1 not in known:
            raise self._broken(delivery.body, f"attempt {delivery.attempt}, where {known.start + 1} was due")
        history.unseen += delivery.attempt - 1 - known.start
        if history.over:
            raise self._broken(delivery.body, f"attempt {delivery.attempt}, though the one before was the last")
        self.seen["handed over again"] += delivery.attempt > 1

    def _known_attempts(self, history: History) -> range:
        """How many there may have been: each death of the receiver may have taken one along that nobody saw."""
        least = len(history.handed_over) + history.killed_in_admit + history.unseen
        hidden = self._deaths[history.receipt.to] - history.deaths if self.rules.recorded else 0
        return range(least, least + hidden + 1)

    def _died_unseen(self, history: History) -> bool:
        """It may have been handed over, and nobody saw it."""
        return history.unseen > 0 or len(self._known_attempts(history)) > 1

    def _known_hand_overs(self, history: History) -> list[tuple[float, int, bool]]:
        """Without those of a lost life whose loss nobody could find out."""
        receiver, sender = history.receipt.to, history.receipt.sender
        unknown = [span for span in history.lost if not self._world.was_found_old(receiver, sender, span[1])]
        both = history.lost + history.gone
        return [
            seen
            for seen in history.handed_over
            if not any(a <= seen[0] <= b for a, b in (both if seen[0] >= history.copied_at else unknown))
        ]

    def _excused(self, history: History) -> bool:
        """A store was put back and the two have not met since: nobody can know."""
        pair = (history.receipt.to, history.receipt.sender)
        return pair in self._unmet or pair[::-1] in self._unmet

    def _check_outcome(self, history: History) -> None:
        if history.receipt.forgotten and history.lost:
            return  # both stores that knew it were lost
        if history.outcome in _NEVER_HANDED_OVER and not self._excused(history):
            raise self._broken(history.receipt.body, f"handed over after {history.outcome} was told")
        if history.outcome is Outcome.UNCERTAIN and history.doubtful:
            return  # its row at the sender was damaged, when the receiver may have had it already
        if history.outcome is not None and not (history.at_risk or history.sent_twice):
            raise self._broken(history.receipt.body, f"handed over after {history.outcome} was told")

    def _check_time(self, history: History, delivery: HandOver) -> None:
        receipt, error_us = history.receipt, self._clock_error_us(history.receipt)
        after_us, by_us = self._sender_us(history, delivery.after_us), self._sender_us(history, delivery.by_us)
        if after_us is None or by_us is None:
            return
        if receipt.deadline_us and after_us > receipt.deadline_us + error_us:
            late_s = (after_us - receipt.deadline_us) / 1e6
            raise self._broken(receipt.body, f"handed over {late_s:.3f} s after its deadline")
        if receipt.not_before_us and by_us < receipt.not_before_us - error_us:
            raise self._broken(receipt.body, f"handed over {(receipt.not_before_us - by_us) / 1e6:.3f} s too early")

    def _clock_error_us(self, receipt: Sent) -> int:
        held_up_s = self._world.held_up_s(receipt.sender, receipt.to, receipt.sent_us)
        return int((self.rules.clock_error_s + held_up_s / 2) * 1e6)

    def _sender_us(self, history: History, true_us: int) -> int | None:
        """The sender's store clock at a true time, None if it, or what the receiver makes of it, may have jumped."""
        receipt = history.receipt
        if self.rules.clocks_step and self._lives[receipt.body] != self._lives_of(receipt):
            return None
        return receipt.sent_store_us + true_us - receipt.sent_us

    def _lives_of(self, receipt: Sent) -> tuple[int, int]:
        return self._world.life(receipt.sender), self._world.life(receipt.to)

    def _check_order(self, history: History, delivery: HandOver) -> None:
        receipt = history.receipt
        unsure = history.at_risk or history.shaken
        if receipt.key is not None or unsure or history.handed_over or history.unseen or history.moved:
            return
        where = (receipt.sender, receipt.to, receipt.queue)
        if receipt.delayed:
            self._check_order_of_delayed(history, delivery, where)
            return
        number, body, by_us = self._first.get(where, (-1, None, 0))
        if history.number > number:
            self._first[where] = (history.number, receipt.body, delivery.by_us)
        elif delivery.after_us >= by_us:
            raise self._broken(receipt.body, f"first handed over after {body!r}, which was sent later")

    def _check_order_of_delayed(self, history: History, delivery: HandOver, where: tuple[str, str, str]) -> None:
        receipt = history.receipt
        due_us, number, body, by_us = self._first_delayed.get(where, (0, -1, None, 0))
        later = due_us - receipt.not_before_us > 2 * self._clock_error_us(receipt)
        if later and history.number < number and delivery.after_us >= by_us and not self.rules.clocks_step:
            raise self._broken(receipt.body, f"first handed over after {body!r}, which was sent and due later")
        one, other = (
            (due_us, number, body, by_us),
            (receipt.not_before_us, history.number, receipt.body, delivery.by_us),
        )
        self._first_delayed[where] = max(one, other, key=lambda each: each[:2])

    def _check_key(self, history: History, delivery: HandOver) -> None:
        if delivery.key is None:
            return
        receipt, at_work = history.receipt, (delivery.to, delivery.queue, delivery.key)
        if at_work in self._key_at_work:
            raise self._broken(receipt.body, f"handed over while {self._key_at_work[at_work]!r} of its key is at work")
        self._key_at_work[at_work] = receipt.body
        if receipt.delayed or history.moved:
            return
        for body in reversed(self._of_key[(receipt.sender, receipt.to, receipt.queue, delivery.key)]):
            other = self.histories[body]
            if other.number <= history.number:
                return  # and so are all before it
            if other.at_risk or other.shaken or history.at_risk or history.shaken or other.moved:
                continue
            if other.handed_over:
                raise self._broken(receipt.body, f"handed over after {body!r} of its key, which was sent later")

    def _on_finished(self, delivery: HandOver, result: Result) -> None:
        history = self.histories.get(delivery.body)
        self._at_work[delivery.to].discard(delivery.body if delivery.origin_id is None else (delivery.id,))
        if delivery.key is not None:
            self._key_at_work.pop((delivery.to, delivery.queue, delivery.key), None)
        if history is None or delivery.origin_id is not None:
            return
        history.running = history.alone = False
        history.may_again = True
        history.settles = isinstance(result, Handled | Rejected)
        history.acknowledged = history.acknowledged or isinstance(result, Handled)
        history.rejected = history.rejected or isinstance(result, Rejected)
        history.moved = history.moved or isinstance(result, MoveTo)
        self._unsettled[delivery.to].append(history)
        if self.rules.recorded:
            history.may_again = not history.settles
        if isinstance(result, Handled | Rejected):
            if self._is_prompt(history.receipt) and history.outcome is None:
                self._expect("told its outcome", delivery.body)
        elif not history.moved:
            limits = [limit for limit in (history.receipt.max_attempts, self.rules.max_attempts) if limit]
            history.over = bool(limits) and delivery.attempt >= min(limits)

    # ----------------------------------------------------------------------------------------- outcomes

    def _on_outcome(self, receipt: Sent, outcome: Outcome, reason: str | None, attempts: int) -> None:
        history = self.histories.get(receipt.body)
        if history is None:
            return
        if history.outcome not in (None, outcome) and not history.sender_lost:
            raise self._broken(receipt.body, f"{outcome} was told after {history.outcome}")
        self._happened("told its outcome", receipt.body)
        self._happened("handed over", receipt.body)
        self._happened("recalled, or told that it is too late", receipt.body)
        if outcome in (history.outcome, history.not_binding):
            return
        if self._excused(history):
            history.not_binding = outcome
        else:
            history.outcome = outcome
        self._note(history, outcome, reason)
        if history.blind:
            return
        if history.running and outcome is not Outcome.UNCERTAIN and not (history.at_risk or history.shaken):
            raise self._broken(receipt.body, f"{outcome} was told while a handler has it")
        if outcome in _NEVER_HANDED_OVER and self._known_hand_overs(history) and not self._excused(history):
            raise self._broken(receipt.body, f"{outcome} was told, but it was handed over")
        if outcome is Outcome.HANDLED and not history.acknowledged:
            raise self._broken(receipt.body, "HANDLED was told, but no handler acknowledged it")
        refused = history.rejected or (reason or "").startswith(REFUSAL)  # which another checker looks at
        if outcome is Outcome.REJECTED and not refused:
            raise self._broken(receipt.body, "REJECTED was told, but no handler refused it")
        if outcome is Outcome.UNCERTAIN and not history.at_risk and not history.doubtful:
            raise self._broken(receipt.body, "UNCERTAIN was told, but no store was lost")
        self._check_cause(history, outcome, reason, attempts)

    def _check_cause(self, history: History, outcome: Outcome, reason: str | None, attempts: int) -> None:
        """There must be a reason for what was told."""
        receipt = history.receipt
        body = receipt.body
        if reason == "forgotten":
            if (receipt.sender, receipt.to) not in self._forgot:
                raise self._broken(body, f"{outcome} was told, but nobody forgot its receiver")
            return
        if (outcome is Outcome.RECALLED or reason == "recalled") and not self._was_recalled(history):
            raise self._broken(body, f"{outcome} was told, but nobody recalled it")
        if outcome is Outcome.EXPIRED or reason == "deadline":
            self._check_expired(history, outcome)
        if history.at_risk or history.doubtful:
            return
        if reason == "crash" and not (history.sole_deaths or history.killed_in_admit or self._died_unseen(history)):
            raise self._broken(body, "exhausted by a crash, but it never was the only one with a handler")
        known = self._known_attempts(history)
        if not history.moved and attempts not in known:
            raise self._broken(body, f"{outcome} was told after {attempts} attempts, not {known.start}")

    def _was_recalled(self, history: History) -> bool:
        receipt = history.receipt
        return history.recalled or any(
            sender == receipt.sender and queue == receipt.queue and key in (None, receipt.key)
            for sender, queue, key in self._recalled_where
        )

    def _check_expired(self, history: History, outcome: Outcome) -> None:
        receipt = history.receipt
        if not receipt.deadline_us:
            raise self._broken(receipt.body, f"{outcome} was told for its deadline, but it has none")
        sender_us = self._sender_us(history, self._world.true_us())
        if sender_us is not None and sender_us < receipt.deadline_us - self._clock_error_us(receipt):
            early_s = (receipt.deadline_us - sender_us) / 1e6
            raise self._broken(receipt.body, f"{outcome} was told {early_s:.3f} s before its deadline")

    def _note(self, history: History, outcome: Outcome, reason: str | None) -> None:
        self.seen[outcome.name] += 1
        if outcome is Outcome.EXHAUSTED:
            why = "too large" if "the peer takes" in (reason or "") else reason
            self.seen[f"EXHAUSTED: {why}"] += 1
        if history.recalled:
            self.seen["recall wins" if outcome is Outcome.RECALLED else "recall loses"] += 1

    def _on_told_handed_over(self, receipt: Sent) -> None:
        history = self.histories.get(receipt.body)
        if history is None:
            return
        self.seen["recall loses to a running handler"] += 1
        self._happened("recalled, or told that it is too late", receipt.body)
        if not history.handed_over and not self._died_unseen(history):
            raise self._broken(receipt.body, "said to be handed over, but it never was")

    def _on_told(self, sender: str, message_id: str, outcome: Outcome) -> None:
        self.seen["told to a callback"] += 1
        if (sender, message_id) not in self._of_id:
            self._told_of_unknown[sender, message_id] = outcome
        for history in self._of_id.get((sender, message_id), ()):
            if history.told not in (None, outcome) and not history.sender_lost:
                raise self._broken(history.receipt.body, f"a callback was told {outcome} after {history.told}")
            history.told = outcome

    def _broken(self, body: Any, what: str) -> PromiseBroken:
        history = self.histories.get(body)
        return PromiseBroken(f"at {self._world.now:.6f}: message {str(body)[:40]!r}: {what}\n{history}", body)

    # ------------------------------------------------------------------------------------------ the end

    def untold(self) -> bool:
        """True while a callback is still to be told an outcome."""
        return self.rules.tells and any(
            history.told is None and not (history.sender_lost or history.doubtful or history.receipt.forgotten)
            for history in self.histories.values()
        )

    def check_all_ended(self) -> None:
        """Every accepted message that its sender's store still knows has its outcome, and so was told."""
        for body in self.histories:
            self.check_ended(body)

    def check_ended(self, body: Any) -> None:
        """Likewise, of one message."""
        history = self.histories[body]
        if history.receipt.forgotten:
            return
        if history.receipt.outcome is None:
            raise self._broken(body, "it has no outcome")
        if self.rules.tells and history.told is None and not (history.sender_lost or history.doubtful):
            raise self._broken(body, "no callback was told its outcome")


def _lane(receipt: Sent) -> tuple[str, str, str]:
    """Within which messages come in order."""
    return receipt.sender, receipt.to, receipt.queue
