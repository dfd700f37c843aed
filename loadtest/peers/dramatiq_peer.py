"""Dramatiq: RabbitMQ, results in Redis, durable queue, as its guide sets it up; 2 processes of 8 threads.

    python dramatiq_peer.py client CONCURRENCY SECONDS WARMUP PAYLOAD_BYTES
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import dramatiq
import redis
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from measure import Loop

broker = RabbitmqBroker(url=os.environ["PEER_AMQP_URL"])
# Its metrics are off, as nobody reads them.
broker.middleware = [m for m in broker.middleware if type(m).__name__ != "Prometheus"]
# A connection for each caller: the default is 100, and an error for the next one.
pool = redis.ConnectionPool.from_url(os.environ["PEER_REDIS_URL"], max_connections=10_000)
broker.add_middleware(Results(backend=RedisBackend(client=redis.Redis(connection_pool=pool))))
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

    with ThreadPoolExecutor(loop.concurrency) as callers:
        # A caller that failed fails the measurement.
        for ended in [callers.submit(caller) for _ in range(loop.concurrency)]:
            ended.result()
    loop.report()


if __name__ == "__main__":
    client()
