"""Celery: RabbitMQ, results by RPC. As its guide to optimising says: transient queue and messages, a high prefetch multiplier;
events, gossip and mingle off (see the worker's command line in loadtest/src/peers/programs.rs).

    python celery_peer.py client CONCURRENCY SECONDS WARMUP PAYLOAD_BYTES
"""

import os
import time

from celery import Celery
from kombu import Queue

from measure import Loop

app = Celery("peer", broker=os.environ["PEER_AMQP_URL"], backend="rpc://")
app.conf.update(
    task_queues=[Queue("celery_peer", durable=False)],
    task_default_queue="celery_peer",
    task_default_delivery_mode="transient",
    worker_prefetch_multiplier=128,
    worker_send_task_events=False,
    task_send_sent_event=False,
    result_persistent=False,
    task_serializer="json",
    worker_hijack_root_logger=False,
)


@app.task(name="noop")
def noop(payload):
    return payload


def client():
    loop = Loop()
    assert noop.delay(loop.payload).get(timeout=60) == loop.payload
    loop.begin()
    open_calls = 0

    def call():
        nonlocal open_calls
        open_calls += 1
        sent = time.perf_counter()

        def done(_):
            nonlocal open_calls
            open_calls -= 1
            loop.done(sent)

        noop.delay(loop.payload).then(done)

    while loop.goes_on() or open_calls:
        while loop.goes_on() and open_calls < loop.concurrency:
            call()
        if open_calls:
            app.backend.result_consumer.drain_events(timeout=10)
    loop.report()


if __name__ == "__main__":
    client()
