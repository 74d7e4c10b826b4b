"""Application code on the simulated network: it may wait, in virtual time, as it does in its threads.

A handler that waits needs a stack of its own: run on top of each other, one that waits for a minute would hold up all
below it. So each runs in a thread, but only one at a time: a thread goes on until it waits or ends, and hands back to
the network, which lets time pass until what one of them waits for is so. Nothing runs beside anything else, and one
seed gives one run. Greenlets would do, and be a dependency; generators would not, for handlers are plain functions.
"""

from __future__ import annotations

import threading
from _thread import LockType, allocate_lock
from collections.abc import Callable

from zmqrel.testing.disk import ProcessDied


class Task:
    """One call of application code, in the life of a process."""

    __slots__ = ("action", "condition", "ended", "error", "give_up_us", "go_on", "is_over")

    def __init__(self, action: Callable[[], None], is_over: Callable[[], bool]) -> None:
        """`is_over` says whether the process has ended, and the call with it."""
        self.action = action
        self.is_over = is_over
        self.condition: Callable[[], bool] = bool
        self.give_up_us: int | None = None
        self.ended = False
        self.error: BaseException | None = None
        self.go_on: LockType = allocate_lock()
        self.go_on.acquire()


class Tasks:
    """Runs tasks by turns with the network that they are part of."""

    def __init__(self, now_us: Callable[[], int], at: Callable[[int, Callable[[], None]], None]) -> None:
        """`now_us` is true time, `at` has something done later: see Network."""
        self._now_us = now_us
        self._at = at
        self.waiting: list[Task] = []
        """What `resume` has to look at."""
        self._handed_back = allocate_lock()
        self._handed_back.acquire()
        self._owner = threading.get_ident()
        self.current: Task | None = None
        """The one that runs; None while the network or the test does."""

    def check_thread(self) -> None:
        """Raise RuntimeError in a thread that is neither the test's nor a task's."""
        if self.current is None and threading.get_ident() != self._owner:
            raise RuntimeError(
                "a simulated network is used by one thread, the one that made it, and by its handlers; "
                "threads of your own would make each run another one"
            )

    def start(self, action: Callable[[], None], is_over: Callable[[], bool]) -> None:
        """Run `action` until it waits or ends. For the network; raises what the action raises."""
        task = Task(action, is_over)
        thread = threading.Thread(target=self._run, args=(task,), name="zmqrel-simulated", daemon=True)
        thread.start()
        self._let_run(task)

    def _run(self, task: Task) -> None:
        task.go_on.acquire()
        try:
            task.action()
        except ProcessDied:
            pass  # there is nobody any more whom it could concern
        except BaseException as error:
            task.error = error
        task.ended = True
        self._handed_back.release()

    def _let_run(self, task: Task) -> None:
        self.current = task
        task.go_on.release()
        self._handed_back.acquire()
        self.current = None
        if task.error is not None:
            raise task.error

    def wait(self, condition: Callable[[], bool], timeout_us: int | None) -> bool:
        """In a task: hand back until `condition` holds; False after `timeout_us`.

        Raises ProcessDied if its process has ended.
        """
        task = self.current
        assert task is not None
        if task.is_over():
            raise ProcessDied
        if condition():
            return True
        task.condition = condition
        task.give_up_us = None
        if timeout_us is not None:
            task.give_up_us = self._now_us() + timeout_us
            self._at(task.give_up_us, _nothing)  # so that the time comes
        self.waiting.append(task)
        self._handed_back.release()
        task.go_on.acquire()
        if task.is_over():
            raise ProcessDied
        return condition()

    def end_if_dead(self) -> None:
        """Raise ProcessDied in a task whose process has ended."""
        if self.current is not None and self.current.is_over():
            raise ProcessDied

    def resume(self) -> None:
        """For the network, after each of its steps: let those run whose waiting is over."""
        while (task := next(filter(self._may_go_on, self.waiting), None)) is not None:
            self.waiting.remove(task)
            self._let_run(task)

    def _may_go_on(self, task: Task) -> bool:
        late = task.give_up_us is not None and self._now_us() >= task.give_up_us
        return late or task.is_over() or task.condition()


class TaskLock:
    """A lock that waits in virtual time."""

    def __init__(self, wait: Callable[[Callable[[], bool], float | None], bool]) -> None:
        """`wait(condition, timeout_s)` lets time pass until the condition holds."""
        self._wait = wait
        self._held = False

    def __enter__(self) -> None:
        self._wait(lambda: not self._held, None)
        self._held = True

    def __exit__(self, *_raised: object) -> None:
        self._held = False


def _nothing() -> None:
    """It is only a point in time."""
