"""The thread in which a peer calls what `Receipt.add_done_callback` was given: never the I/O thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class Callbacks:
    """Runs actions one after the other in a thread of its own, which begins with the first."""

    def __init__(self, name: str) -> None:
        self._name = f"zmqrel-{name}-callbacks"
        self._actions: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Have the thread; nothing if it runs."""
        with self._guard:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()

    def put(self, action: Callable[[], None]) -> None:
        """Let the thread run this, which raises nothing, when it is through with what came before."""
        self._actions.put(action)

    def stop(self, timeout_s: float) -> None:
        """End the thread when it is through with what was put; wait for that for at most `timeout_s` seconds."""
        with self._guard:
            thread = self._thread
        if thread is None:
            return
        self._actions.put(None)
        if thread is not threading.current_thread():
            thread.join(max(0.0, timeout_s))

    def _work(self) -> None:
        while (action := self._actions.get()) is not None:
            action()
