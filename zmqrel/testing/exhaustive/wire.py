"""One process's end of the link to the other, as a value: what it speaks on, and the frames under way to it.

One process dials, the other accepts. Frames to a process arrive in the order in which they were sent, or are lost; only
the second copy of a frame that comes twice may come at any time. All that an end does changes nothing at the other end
but that frames are added behind those under way to it: that is what makes the order of actions of two processes
immaterial unless one of them waits for a frame (see search.py).

    dialler     its connection has a number, raised whenever it is made anew. What still comes of an earlier
                connection of the same socket arrives or is lost; what was meant for an earlier socket is lost
    acceptor    gives each connection a link when its first frame arrives. While its process is down, frames are lost
                one by one until it starts: what it does not lose then was sent after it started
"""

from __future__ import annotations

from typing import NamedTuple


class Arrival(NamedTuple):
    """A frame under way."""

    sent_us: int
    """By its sender's clock: it does not arrive before."""
    connection: int
    frame: int


class Copy(NamedTuple):
    """The second copy of a frame that has arrived."""

    sent_us: int
    link: int
    frame: int


class End(NamedTuple):
    """See the module. A link of 0 is none."""

    dials: bool
    link: int = 0
    """What frames are sent on: the dialler's socket, or the connection that was accepted last."""
    connection: int = 0
    """The number of that connection."""
    first_of_socket: int = 0
    """Of the dialler: the socket's first connection."""
    last_accepted: int = -1
    """Of the acceptor: the link that it gave last in its present life."""
    arrivals: tuple[Arrival, ...] = ()
    copies: tuple[Copy, ...] = ()

    @property
    def next_is_of_this_connection(self) -> bool:
        """False if the next frame was sent on a connection that the dialler gave up."""
        return not self.dials or self.arrivals[0].connection == self.connection

    @property
    def next_is_lost(self) -> bool:
        """True if the next frame is meant for a socket that is no more."""
        return self.dials and (not self.link or self.arrivals[0].connection < self.first_of_socket)

    def receive(self) -> tuple[Copy, End]:
        """The next frame on the link that it arrives on, and the end without it."""
        arrival, end = self.arrivals[0], self.lose()
        if not self.dials and (not self.link or arrival.connection != self.connection):
            link = self.last_accepted + 2
            end = end._replace(link=link, last_accepted=link, connection=arrival.connection)
        return Copy(arrival.sent_us, end.link, arrival.frame), end

    def lose(self) -> End:
        """Without the next frame."""
        return self._replace(arrivals=self.arrivals[1:])

    def dial(self, link: int) -> End:
        """A new socket."""
        connection = self.connection + 1
        return self._replace(link=link, connection=connection, first_of_socket=connection)

    def hang_up(self, link: int) -> End:
        """The dialler closes its socket; a ROUTER leaves what it accepted alone."""
        return self._replace(link=0, copies=()) if self.dials and link == self.link else self

    def reconnect(self) -> End:
        """The dialler's connection breaks and is made anew."""
        return self._replace(connection=self.connection + 1)

    def died(self) -> End:
        """Its process is gone."""
        return self._replace(link=0, last_accepted=-1, copies=())
