"""Dramatiq: RabbitMQ, results in Redis, durable queue, as its guide sets it up; 2 processes of 8 threads.

    python dramatiq_peer.py client CONCURRENCY SECONDS WARMUP PAYLOAD_BYTES
"""

import os
import threading
import time

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from measure import Loop

broker = RabbitmqBroker(url=os.environ["PEER_AMQP_URL"])
# Its metrics are off, as nobody reads them.
broker.middleware = [m for m in broker.middleware if type(m).__name__ != "Prometheus"]
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["PEER_REDIS_URL"])))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True, max_retries=0, queue_name="dramatiq_peer")
def noop(payload):
    return payload


def client():
    loop = Loop()
    assert noop.send(loop.payload).get_result(block=True, timeout=60_000) == loop.payload
    loop.begin()

    def caller():
        while loop.goes_on():
            sent = time.perf_counter()
            noop.send(loop.payload).get_result(block=True, timeout=60_000)
            loop.done(sent)

    threads = [threading.Thread(target=caller) for _ in range(loop.concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loop.report()


if __name__ == "__main__":
    client()
