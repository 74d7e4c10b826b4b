"""Deliberate bugs, each a change of one expression of the shipped core, which the simulator's checkers must find.

    python -m tests.sim.mutants                 search for all of them from scratch, in every mix
    python -m tests.sim.mutants NAME ...        search for these
    python -m tests.sim.mutants find NAME       the same, but where it was found before comes first
    python -m tests.sim.mutants shrink NAME MIX SEED
                                                search short runs from that seed, and shrink the first that finds it
    python -m tests.sim.mutants NAME MIX SEED   run that seed with the bug; the exit status says whether it was found
    python -m tests.sim.mutants with NAME ...   `python -m zmqrel.testing ...` with the bug

A bug is put into the source as it is imported, in a process of its own; no file is changed. This module imports nothing
of zmqrel before that is arranged.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from itertools import islice
from pathlib import Path
from types import CodeType
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
MOST_RUNS = 300
SHORT = 60
FOUND, SURVIVED = 3, 0
"""Exit statuses."""


class Mutant(NamedTuple):
    """A bug: in this module of zmqrel, `old` (which occurs once) reads `new`; `mix` and `seed` are tried first.

    They found it once. What a seed draws changes with the workload, so the search goes on from there.
    """

    module: str
    old: str
    new: str
    mix: str
    seed: int


MUTANTS = {
    "frames leave before the commit": Mutant(
        "runtime.turn",
        (
            "            effects = self._step(now, wall_us, work, results, spare=self._dead_letters_give_way(now))\n"
            "            self.store.commit()\n"
            "        except StoreFull as error:"
        ),
        (
            "            effects = self._step(now, wall_us, work, results, spare=self._dead_letters_give_way(now))\n"
            "            [self._world.send(*f) for f in effects.frames], self.store.commit(), "
            "effects.frames.clear()\n"
            "        except StoreFull as error:"
        ),
        "crashes",
        1,
    ),
    "the floor is not committed with the entries": Mutant(
        "core.channel",
        ("lane.floor = floor\n            self._shared.touch(lane)"),
        ("lane.floor = floor\n            self._shared.touch_lazily(lane)"),
        "crashes",
        39,
    ),
    "the floor is one too high": Mutant(
        "core.inbox",
        "        lane.floor = last\n",
        "        lane.floor = last + 1\n",
        "calm",
        0,
    ),
    "a gap of one goes unnoticed": Mutant(
        "core.channel",
        "if data.first_seq > lane.floor + 1:",
        "if data.first_seq > lane.floor + 2:",
        "links",
        0,
    ),
    "a duplicate is not dropped": Mutant(
        "core.inbox",
        "if seqs and seqs[0] <= floor:",
        "if seqs and seqs[0] < 0:",
        "crashes",
        13,
    ),
    "sent_upto is not kept (F1)": Mutant(
        "core.lane",
        "self.next_seq, self.sent_upto, self.acked]",
        "self.next_seq, self.acked, self.acked]",
        "crashes",
        0,
    ),
    "a void covers one entry too many": Mutant(
        "core.transmit",
        "_add_void(batch, seq - 1)",
        "_add_void(batch, seq)",
        "links",
        0,
    ),
    "records after a void are numbered wrongly": Mutant(
        "core.inbox",
        "        first += abs(run)\n",
        "        first += max(run, 1)\n",
        "links",
        1,
    ),
    "a grant counts as so much more": Mutant(
        "core.channel",
        "lane.grant_seq, lane.grant_bytes = ack.grant_seq, ack.grant_bytes",
        "lane.grant_seq, lane.grant_bytes = lane.grant_seq + ack.grant_seq, ack.grant_bytes",
        "neighbours",
        0,
    ),
    "the window is not kept to": Mutant(
        "core.transmit",
        "self.size = min(window_bytes, lane.grant_bytes",
        "self.size = min(2**40, lane.grant_bytes",
        "tiny",
        0,
    ),
    "a session begins behind the first entry that matters": Mutant(
        "core.channel",
        "told.lowest - 1",
        "told.lowest",
        "links",
        0,
    ),
    "nothing is sent again": Mutant(
        "core.channel",
        ("        lane.rewind(lane.acked)\n        lane.parked"),
        ("        lane.rewind(lane.cursor - 1)\n        lane.parked"),
        "links",
        12,
    ),
    "control entries are deleted before they are acknowledged": Mutant(
        "core.engine",
        "shared.outbox_runs.discard(lane.no, 0, lane.acked)",
        "shared.outbox_runs.discard(lane.no, 0, lane.sent_upto)",
        "links",
        0,
    ),
    "a full queue leaves nothing to the others (F7)": Mutant(
        "core.credit",
        "return max(0, part, free - (unused - own))",
        "return max(0, part, free)",
        "full queues",
        0,
    ),
    "a lane that holds nothing may be refused its one message": Mutant(
        "core.credit",
        "        return not lane.count or (\n",
        "        return (\n",
        "neighbours",
        0,
    ),
    "a larger entry than the other side takes is tried for ever (F8)": Mutant(
        "core.transmit",
        "        self.largest_entry = largest_entry\n",
        "        self.largest_entry = 2**62\n",
        "odds",
        1,
    ),
    "the sender decides about what it has sent": Mutant(
        "core.outbox",
        "        if seq > lane.sent_upto:\n",
        "        if seq > lane.acked:\n",
        "links",
        0,
    ),
    "a tombstone does not stop its message": Mutant(
        "core.inbox",
        "return {tables.split_lane_seq(key)[1] for key, _ in popped}",
        "return set[int]()",
        "links",
        0,
    ),
    "a recall ends what a worker has": Mutant(
        "core.transitions",
        "    if row.place is Place.RUNNING or (row.place is Place.DONE and row.handed_us):",
        "    if row.place is Place.DONE:",
        "killers",
        0,
    ),
    "RECALLED is told between two attempts (F10)": Mutant(
        "core.inbox",
        ("        if row.was_handed_over:\n            self._end_handed(row, cause, following)"),
        ("        if row.suspect:\n            self._end_handed(row, cause, following)"),
        "conditions",
        1,
    ),
    "the deadline is not judged by the sender's clock (F12)": Mutant(
        "core.offset",
        "their_us - self.offset_us",
        "their_us",
        "clocks",
        0,
    ),
    "the clock offset has the wrong sign": Mutant(
        "core.offset",
        "their_us - self.offset_us",
        "their_us + self.offset_us",
        "clocks",
        0,
    ),
    "old samples outlive a restart of the other's clock": Mutant(
        "core.offset",
        "        self._samples.clear()",
        "        self._samples.copy()",
        "clocks",
        10,
    ),
    "a deadline is judged a second early": Mutant(
        "core.row",
        "deadline_us is not None and now_us > deadline_us",
        "deadline_us is not None and now_us + 1_000_000 > deadline_us",
        "calm",
        0,
    ),
    "the store clock stands while its store is closed": Mutant(
        "runtime.clock",
        "persisted_us + max(0, start_us - persisted_wall_us)",
        "persisted_us",
        "power",
        21,
    ),
    "a delayed message does not wait": Mutant(
        "core.inbox",
        "max(ready_at, row.order_us)",
        "min(ready_at, row.order_us)",
        "calm",
        0,
    ),
    "an attempt is not counted": Mutant(
        "core.buffer",
        "        row.attempts += 1\n",
        "        row.attempts += 0\n",
        "calm",
        0,
    ),
    "there is one attempt too many": Mutant(
        "core.inbox",
        "if limit is not None and row.attempts >= limit:",
        "if limit is not None and row.attempts > limit:",
        "calm",
        0,
    ),
    "the slot of a settled row stays taken": Mutant(
        "runtime.turn",
        "        for slot, count in effects.freed:\n",
        "        for slot, count in effects.freed[:0]:\n",
        "crashes",
        0,
    ),
    "a crash does not count as an attempt (F9)": Mutant(
        "core.buffer",
        "self._in_hand.take(row.lane.no, row.seq, row.attempts + 1)",
        "self._in_hand.take(row.lane.no, row.seq, row.attempts)",
        "crashes",
        0,
    ),
    "every message at work is blamed for a crash (F9)": Mutant(
        "core.engine",
        "hand.running, running == 1",
        "hand.running, running >= 1",
        "killers",
        12,
    ),
    "others are handed over beside a suspect (F9)": Mutant(
        "core.claims",
        "(self._suspect_out is not None or queue.name in self._held)",
        "False",
        "killers",
        0,
    ),
    "a key does not hold back the next message": Mutant(
        "core.claims",
        "not self._rows.is_first_of_key(queue, row)",
        "not queue",
        "calm",
        0,
    ),
    "a free key is not passed on": Mutant(
        "core.inbox",
        ("        following = self.rows.remove_key(row)\n        if following is not None:"),
        ("        following = self.rows.remove_key(row)\n        if following is not None and following[0] < 0:"),
        "calm",
        0,
    ),
    "callbacks are told before they are told (F11)": Mutant(
        "core.outbox",
        "        if not ledger.subscribed:\n",
        "        if ledger.subscribed:\n",
        "killers",
        0,
    ),
    "what was sent before a loss is not in doubt (F5)": Mutant(
        "core.healing",
        "            lane.doubt_upto = max(lane.doubt_upto, lane.sent_upto)\n",
        "            lane.doubt_upto = lane.doubt_upto\n",
        "store loss",
        0,
    ),
    "an old copy goes on in its lanes (F3)": Mutant(
        "core.healing",
        ("for lane in list(channel.out.values()):\n            self._close(lane)"),
        ("for lane in list(channel.out.values())[:0]:\n            self._close(lane)"),
        "rollback",
        0,
    ),
    "an old copy is not noticed": Mutant(
        "core.healing",
        "return told or self._ended_before(info.heard) or self._floors_above(info, remembers)",
        "return told",
        "rollback",
        0,
    ),
    "one that forgot is not noticed": Mutant(
        "core.healing",
        "forgot = self.known_there and not knows_us and ",
        "forgot = False and not knows_us and ",
        "forgetting",
        0,
    ),
    "a crash is taken for an old copy": Mutant(
        "core.healing",
        'int.from_bytes(ended, "big") < heard.commits',
        'int.from_bytes(ended, "big") <= heard.commits',
        "crashes",
        0,
    ),
    "an outcome is told before a flush covers it (F13)": Mutant(
        "core.channel",
        'isinstance(entry, Settle) and self._shared.options.durability == "relaxed"',
        'isinstance(entry, Settle) and self._shared.options.durability == ""',
        "relaxed power",
        12,
    ),
    "after a power cut nothing is in doubt": Mutant(
        "core.engine",
        "            self._inbox.doubt_all()",
        "            self._inbox.doubt_all",
        "power",
        0,
    ),
    "a damaged row of the inbox is handed over (F14)": Mutant(
        "core.rows",
        "            if not verify(record):",
        "            if not record:",
        "odds",
        10,
    ),
    "a damaged row of the outbox is sent (F14)": Mutant(
        "core.transmit",
        "damaged = not verify(record)",
        "damaged = not record",
        "odds",
        11,
    ),
    "an id is used twice": Mutant(
        "core.outbox",
        ("            if earlier is not None:\n                return earlier"),
        ("            if earlier is not None and earlier.messages < 0:\n                return earlier"),
        "killers",
        0,
    ),
    "what is not permitted is let in": Mutant(
        "core.authorisation",
        "return permissions is None or permissions.of(lane.peer).covers(lane.queue)",
        "return permissions is None or permissions.of(lane.peer).covers(lane.queue) or True",
        "permissions",
        0,
    ),
    "expiry is a way into any queue": Mutant(
        "core.authorisation",
        'return not on_expiry.startswith("queue:") or',
        'return bool(on_expiry) or not on_expiry.startswith("queue:") or',
        "permissions",
        0,
    ),
    "a recall that is not permitted is obeyed": Mutant(
        "core.inbox",
        "        if cause is Cause.RECALL and not may_recall:\n",
        "        may_recall = True\n        if cause is Cause.RECALL and not may_recall:\n",
        "permissions",
        0,
    ),
    "whoever has a key may have any name": Mutant(
        "core.engine",
        "if self._name_of is not None and self._name_of(link) != name:",
        "if self._name_of is not None and self._name_of(link) is None:",
        "keys",
        0,
    ),
    "a session outlives its key": Mutant(
        "core.engine", 'channel.sessions.end_all("the key is not known any more")', "None", "keys", 0
    ),
    "a peer is not dialled again when its key is back": Mutant(
        "core.engine",
        "and channel.endpoint is not None and channel.sessions.dialled_link is None:",
        "and channel.endpoint is None and channel.sessions.dialled_link is None:",
        "keys",
        0,
    ),
}
"""By what is wrong."""


class _Loader(SourceFileLoader):
    """Reads a module with a bug in it."""

    def __init__(self, fullname: str, path: str, mutant: Mutant) -> None:
        super().__init__(fullname, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        return compile(mutated(self._mutant, Path(self.path)), self.path, "exec")


class _Finder(MetaPathFinder):
    """Finds that module before anybody else does."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname != f"zmqrel.{self._mutant.module}":
            return None
        spec = PathFinder.find_spec(fullname, path)  # type: ignore[arg-type]
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(fullname, spec.origin, self._mutant)
        return spec


def source_of(mutant: Mutant) -> Path:
    """The file that the bug is in."""
    return ROOT / "zmqrel" / f"{mutant.module.replace('.', '/')}.py"


def mutated(mutant: Mutant, path: Path) -> str:
    """The source with the bug. Raises ValueError unless there is exactly one place for it."""
    source = path.read_text(encoding="utf-8")
    if source.count(mutant.old) != 1:
        raise ValueError(f"{path.name} has {source.count(mutant.old)} places that read {mutant.old!r}")
    return source.replace(mutant.old, mutant.new)


def infect(mutant: Mutant) -> None:
    """From now on zmqrel is imported with the bug."""
    assert not any(name.startswith("zmqrel") for name in sys.modules), "zmqrel is imported already"
    sys.meta_path.insert(0, _Finder(mutant))
    __import__(f"zmqrel.{mutant.module}")


def found(mix: str, seed: int, steps: int | None = None) -> str | None:
    """What a run finds, None if it finds nothing."""
    from zmqrel.testing.case import run

    try:
        run(seed, mix, steps)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def places(first: Mutant | None) -> Iterator[tuple[str, int]]:
    """Mixes and seeds to try: those of a mutant first, then every mix in turn."""
    from zmqrel.testing.mixes import MIXES

    if first is not None:
        yield from ((first.mix, first.seed + at) for at in range(40))
    for at in range(MOST_RUNS):
        yield list(MIXES)[at % len(MIXES)], at // len(MIXES)


def search(name: str, anew: bool) -> int:
    """Run mixes in turn until one finds the bug, `anew` without the place where it was found before."""
    for at, (mix, seed) in enumerate(islice(places(None if anew else MUTANTS[name]), MOST_RUNS), 1):
        what = found(mix, seed)
        if what is not None:
            print(f"{name}: found after {at} runs by seed {seed} of {mix!r}: {what}", flush=True)
            return FOUND
    print(f"{name}: SURVIVED {MOST_RUNS} runs", flush=True)
    return SURVIVED


def shrink(mix: str, first: int) -> int:
    """Tell the first short run of that mix that finds the bug, in the smallest run that does."""
    from zmqrel.testing.case import case
    from zmqrel.testing.shrinking import report

    for seed in range(first, first + MOST_RUNS):
        said = report(case(seed, mix, SHORT), lambda _: None)
        if said is not None:
            print(said)
            return FOUND
    return SURVIVED


def start(*arguments: str) -> subprocess.Popen[str]:
    """A process of its own with these arguments of the command line."""
    command = [sys.executable, "-m", "tests.sim.mutants", *arguments]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def main(arguments: list[str]) -> int:
    """See the module; 2 if the arguments make no sense."""
    if len(arguments) == 3 and arguments[0] in MUTANTS and arguments[2].isdigit():
        infect(MUTANTS[arguments[0]])
        what = found(arguments[1], int(arguments[2]))
        print(what or "nothing is found")
        return SURVIVED if what is None else FOUND
    if arguments[:1] == ["with"] and set(arguments[1:2]) <= MUTANTS.keys():
        infect(MUTANTS[arguments[1]])
        from zmqrel.testing.__main__ import main as run_simulator

        return run_simulator(arguments[2:])
    if len(arguments) == 2 and arguments[0] in ("search", "find") and arguments[1] in MUTANTS:
        infect(MUTANTS[arguments[1]])
        return search(arguments[1], anew=arguments[0] == "search")
    if len(arguments) == 4 and arguments[0] == "shrink" and arguments[1] in MUTANTS and arguments[3].isdigit():
        infect(MUTANTS[arguments[1]])
        return shrink(arguments[2], int(arguments[3]))
    names = arguments or list(MUTANTS)
    if not MUTANTS.keys() >= set(names):
        print(__doc__, "\n".join(MUTANTS), sep="\n")
        return 2
    survivors = 0
    for name in names:
        process = start("search", name)
        print(process.communicate()[0], end="", flush=True)
        survivors += process.returncode != FOUND
    print(f"{len(names)} bugs, {survivors} survived")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
