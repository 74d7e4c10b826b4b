"""A TCP proxy between two nodes. Stalled, it passes nothing on and closes nothing; cut, it closes everything."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Literal

Way = Literal["open", "stalled", "cut"]


class Gate:
    """Forwards what comes to its own port. Used by the proxy's thread alone."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._open = asyncio.Event()
        self._open.set()
        self._way: Way = "open"
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def listen(self) -> int:
        """Take connections from now on; returns the port."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def turn(self, way: Way) -> None:
        """Open, stall or cut it."""
        self._way = way
        if way == "stalled":
            self._open.clear()
        else:
            self._open.set()
        if way == "cut":
            for writer in list(self._writers):
                writer.transport.abort()

    async def close(self) -> None:
        """Close all connections and the port."""
        assert self._server is not None
        self._server.close()
        await self.turn("cut")

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._way == "cut":
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        self._writers -= both

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


class Proxy:
    """Gates, served by a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._gates: dict[str, Gate] = {}

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def gate(self, name: str, endpoint: str) -> str:
        """Put a gate before a tcp:// endpoint; returns the endpoint to dial instead."""
        host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)

        async def make() -> int:
            self._gates[name] = Gate(host, int(port))
            return await self._gates[name].listen()

        return f"tcp://127.0.0.1:{self._do(make())}"

    def turn(self, name: str, way: Way) -> None:
        """Open, stall or cut a gate."""
        self._do(self._gates[name].turn(way))

    def close(self) -> None:
        """Close all gates and end the thread."""

        async def close() -> None:
            for gate in self._gates.values():
                await gate.close()
            own = asyncio.current_task()
            await asyncio.wait_for(asyncio.gather(*(asyncio.all_tasks() - {own}), return_exceptions=True), 10)

        self._do(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
