"""The parts that clients of brokers play, each in the fast way of its own documentation.

A publisher has many messages under way and waits for the broker's confirmation of each; a consumer takes them in
batches and acknowledges each. Imports stand in the functions: a client that is not installed hurts no other.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any
from urllib.parse import urlsplit

from zmqrel.bench.processes import Line, cpu_s, now_s

_QUEUE = "bench"
_BATCH = 1_000
_UNDER_WAY = 4_000
_WAIT_S = 300.0


# --------------------------------------------------------------------------------------------------- NATS


def nats_consumer(line: Line, url: str, messages: int) -> None:
    """A durable pull consumer that fetches batches and acknowledges each message."""
    asyncio.run(_nats_consume(line, url, messages))


async def _nats_consume(line: Line, url: str, messages: int) -> None:
    import nats

    client = await nats.connect(url, pending_size=64 * 1024 * 1024)
    stream = client.jetstream(timeout=_WAIT_S)
    await stream.add_stream(name=_QUEUE, subjects=[_QUEUE], storage="file")
    subscription = await stream.pull_subscribe(_QUEUE, durable=_QUEUE)
    line.tell("ready")
    used_s = cpu_s()
    taken = 0
    while taken < messages:
        for message in await subscription.fetch(min(_BATCH, messages - taken), timeout=_WAIT_S):
            await message.ack()
            taken += 1
    await client.flush()
    line.tell((now_s(), cpu_s() - used_s))
    await asyncio.to_thread(line.hear)
    await client.close()


def nats_publisher(line: Line, url: str, messages: int, size: int) -> None:
    """Asynchronous publishing: many under way, each confirmed."""
    asyncio.run(_nats_publish(line, url, messages, size))


async def _nats_publish(line: Line, url: str, messages: int, size: int) -> None:
    import nats

    client = await nats.connect(url, pending_size=64 * 1024 * 1024)
    stream = client.jetstream(timeout=_WAIT_S, publish_async_max_pending=_UNDER_WAY)
    body = b"x" * size
    line.tell("ready")
    await asyncio.to_thread(line.hear)
    started_s, used_s = now_s(), cpu_s()
    for _ in range(messages):
        await stream.publish_async(_QUEUE, body)
    await stream.publish_async_completed()
    line.tell((started_s, now_s(), cpu_s() - used_s))
    await client.close()


# -------------------------------------------------------------------------------------------------- Redis


def redis_consumer(line: Line, url: str, messages: int) -> None:
    """A consumer group that reads batches and acknowledges each message by its id, a batch in one command."""
    import redis

    client = redis.Redis.from_url(url)
    client.xgroup_create(_QUEUE, _QUEUE, id="0", mkstream=True)
    line.tell("ready")
    used_s = cpu_s()
    taken = 0
    while taken < messages:
        answer: Any = client.xreadgroup(_QUEUE, "one", {_QUEUE: ">"}, count=_BATCH, block=60_000)
        for _name, entries in answer:
            client.xack(_QUEUE, _QUEUE, *[entry[0] for entry in entries])
            taken += len(entries)
    line.tell((now_s(), cpu_s() - used_s))
    line.hear()
    client.close()


def redis_publisher(line: Line, url: str, messages: int, size: int) -> None:
    """Pipelines of many XADD, each answered with its id when it is flushed."""
    import redis

    client = redis.Redis.from_url(url)
    body = b"x" * size
    batch = max(1, min(_BATCH, 4_000_000 // size))
    line.tell("ready")
    line.hear()
    started_s, used_s = now_s(), cpu_s()
    for first in range(0, messages, batch):
        pipeline = client.pipeline(transaction=False)
        for _ in range(min(batch, messages - first)):
            pipeline.xadd(_QUEUE, {"body": body})
        pipeline.execute()
    line.tell((started_s, now_s(), cpu_s() - used_s))
    client.close()


# ------------------------------------------------------------------------------------------------ RabbitMQ


def rabbitmq_consumer(line: Line, url: str, messages: int) -> None:
    """A quorum queue's consumer with a prefetch, which acknowledges each message."""
    asyncio.run(_rabbitmq_consume(line, url, messages))


async def _rabbitmq_consume(line: Line, url: str, messages: int) -> None:
    import aio_pika

    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=_BATCH)
        queue = await channel.declare_queue(_QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        taken = 0
        done = asyncio.Event()

        async def take(message: Any) -> None:
            nonlocal taken
            await message.ack()
            taken += 1
            if taken == messages:
                done.set()

        await queue.consume(take)
        line.tell("ready")
        used_s = cpu_s()
        await done.wait()
        line.tell((now_s(), cpu_s() - used_s))
        await asyncio.to_thread(line.hear)


def rabbitmq_publisher(line: Line, url: str, messages: int, size: int) -> None:
    """Persistent messages with publisher confirms, many under way."""
    asyncio.run(_rabbitmq_publish(line, url, messages, size))


async def _rabbitmq_publish(line: Line, url: str, messages: int, size: int) -> None:
    import aio_pika

    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        body = b"x" * size
        line.tell("ready")
        await asyncio.to_thread(line.hear)
        started_s, used_s = now_s(), cpu_s()
        for first in range(0, messages, _BATCH):
            await asyncio.gather(
                *(
                    channel.default_exchange.publish(
                        aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT), routing_key=_QUEUE
                    )
                    for _ in range(min(_BATCH, messages - first))
                )
            )
        line.tell((started_s, now_s(), cpu_s() - used_s))


# ----------------------------------------------------------------------------------------------- Mosquitto


def mosquitto_consumer(line: Line, url: str, messages: int) -> None:
    """A subscriber of a durable session with QoS 2, which answers each message's two steps."""
    from paho.mqtt import client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    done, ready = threading.Event(), threading.Event()
    taken = 0

    def take(*_details: Any) -> None:
        nonlocal taken
        taken += 1
        if taken == messages:
            done.set()

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="consumer", clean_session=False)
    client.on_message = take
    client.on_subscribe = lambda *_details: ready.set()
    where = urlsplit(url)
    client.connect(where.hostname or "", where.port or 0)
    client.loop_start()
    client.subscribe(_QUEUE, qos=2)
    if not ready.wait(_WAIT_S):
        raise TimeoutError("no subscription")
    line.tell("ready")
    used_s = cpu_s()
    if not done.wait(_WAIT_S):
        raise TimeoutError(f"{taken} of {messages} messages came")
    line.tell((now_s(), cpu_s() - used_s))
    line.hear()
    client.disconnect()
    client.loop_stop()


def mosquitto_publisher(line: Line, url: str, messages: int, size: int) -> None:
    """QoS 2 with many under way, each confirmed in two steps."""
    from paho.mqtt import client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="publisher")
    client.max_inflight_messages_set(_UNDER_WAY)
    client.max_queued_messages_set(0)
    connected = threading.Event()
    client.on_connect = lambda *_details: connected.set()
    where = urlsplit(url)
    client.connect(where.hostname or "", where.port or 0)
    client.loop_start()
    if not connected.wait(_WAIT_S):
        raise TimeoutError("no connection")
    body = b"x" * size
    line.tell("ready")
    line.hear()
    started_s, used_s = now_s(), cpu_s()
    for published in [client.publish(_QUEUE, body, qos=2) for _ in range(messages)]:
        published.wait_for_publish(_WAIT_S)
    line.tell((started_s, now_s(), cpu_s() - used_s))
    client.disconnect()
    client.loop_stop()
