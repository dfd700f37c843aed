"""Contends for a lock of Gantry's with kazoo: SERVERS PATH TIMES HOLD_MS.

Says on stdout when it waits, has it and gives it back, with the machine's boot-time clock in nanoseconds.
"""

import sys
import time

from kazoo.client import KazooClient
from kazoo.recipe.lock import Lock

servers, path, times, hold_ms = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


def say(what):
    print(what, time.clock_gettime_ns(time.CLOCK_BOOTTIME), flush=True)


client = KazooClient(hosts=servers)
client.start(timeout=20)
for _ in range(times):
    # A new one each time: it would not make the parent again that the servers delete once it is empty.
    lock = Lock(client, path, "kazoo", extra_lock_patterns=["-lock-"])
    say("waits")
    lock.acquire()
    say("has")
    time.sleep(hold_ms / 1000)
    say("gives")
    lock.release()
client.stop()
client.close()
