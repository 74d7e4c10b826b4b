"""The brokers' part in the one-way streams."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench import brokers, clients
from zmqrel.bench.measure import Case, Contestant, Sample
from zmqrel.bench.processes import part
from zmqrel.bench.streams import at_least, figures, streams

_SIZES = {100: 0.04, 1_000: 0.02, 10_000: 0.004, 1_000_000: 0.0001}
"""As `SIZES`; fewer, for brokers are slower: a rate needs no more."""
_BROKERS = (
    (brokers.NATS, brokers.nats, clients.nats_consumer, clients.nats_publisher),
    (brokers.REDIS, brokers.redis, clients.redis_consumer, clients.redis_publisher),
    (brokers.RABBITMQ, brokers.rabbitmq, clients.rabbitmq_consumer, clients.rabbitmq_publisher),
    (brokers.MOSQUITTO, brokers.mosquitto, clients.mosquitto_consumer, clients.mosquitto_publisher),
)


def streams_with_brokers(messages: int) -> list[Case]:
    """The streams, with every broker in each."""
    return [
        replace(case, contestants=(*case.contestants, *_contestants(at_least(messages * share), size)))
        for case, (size, share) in zip(streams(messages), _SIZES.items(), strict=True)
    ]


def _contestants(messages: int, size: int) -> list[Contestant]:
    return [
        Contestant(broker.name, partial(_broker, start, consumer, publisher, messages, size), broker.missing)
        for broker, start, consumer, publisher in _BROKERS
    ]


def _broker(
    start: Callable[[Path], AbstractContextManager[str]],
    consume: Callable[..., None],
    publish: Callable[..., None],
    messages: int,
    size: int,
    place: Path,
) -> Sample:
    with start(place) as url, part(consume, url, messages) as consumer, part(publish, url, messages, size) as publisher:
        consumer.ask()
        publisher.ask()
        publisher.tell("go")
        started_s, confirmed_s, publisher_cpu_s = publisher.ask()
        consumed_s, consumer_cpu_s = consumer.ask()
        elapsed_s = max(confirmed_s, consumed_s) - started_s
        return figures(messages, size, elapsed_s, publisher_cpu_s, consumer_cpu_s)
