"""Runs a model by publishing to RabbitMQ, and prints the reply. Needs pika (Debian: python3-pika).

    python3 producer.py MODEL INPUT [QUEUE]

INPUT is JSON. The broker is the one GANTRY_AMQP_URL names (amqp://guest:guest@127.0.0.1:5672/ if unset).
"""

import os
import sys
import time
import uuid

import pika


def uuid7():
    """RFC 9562: 48 bits of milliseconds, then random bits. Gantry wants this version, so that ids sort by time."""
    value = bytearray((time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10))
    value[6] = 0x70 | value[6] & 0x0F
    value[8] = 0x80 | value[8] & 0x3F
    return str(uuid.UUID(bytes=bytes(value)))


def main(model, payload, queue="default"):
    connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("GANTRY_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")))
    channel = connection.channel()
    channel.confirm_delivery()  # the execution is accepted when the broker confirms
    replies = channel.queue_declare(queue=f"producer.{uuid.uuid4()}", exclusive=True).method.queue

    execute_id = uuid7()
    channel.basic_publish(
        exchange="gantry.execute",
        routing_key=queue,
        body=payload.encode(),
        properties=pika.BasicProperties(
            message_id=execute_id,  # also the dedupe key: publishing it again is harmless
            content_type="application/json",
            delivery_mode=2,
            reply_to=replies,
            correlation_id=execute_id,
            headers={"x-gantry-schema": 1, "x-gantry-model": model},
        ),
    )
    print(f"accepted {execute_id}", file=sys.stderr)

    for method, properties, body in channel.consume(replies, auto_ack=True, inactivity_timeout=60):
        if method is None:
            sys.exit(f"no reply within 60 s; the execution goes on: GET /v1/executions/{execute_id}")
        state = properties.headers["x-gantry-state"]
        print(f"{state} in attempt {properties.headers.get('x-gantry-attempt')}", file=sys.stderr)
        print(body.decode())
        connection.close()
        sys.exit(0 if state == "succeeded" else 1)


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
