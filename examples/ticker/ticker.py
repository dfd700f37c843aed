"""Prints a line every 100 ms for 3 seconds. Input: {} or {"seconds": 3, "every_ms": 100}."""

import json
import os
import sys
import time

wanted = json.load(sys.stdin)
seconds, every = wanted.get("seconds", 3), wanted.get("every_ms", 100) / 1000
start = time.monotonic()
ticks = int(seconds / every)
for tick in range(1, ticks + 1):
    time.sleep(max(0, start + tick * every - time.monotonic()))
    print(f"tick {tick} of {ticks}", flush=True)
with os.fdopen(3, "w") as result:
    json.dump({"ticks": ticks, "seconds": round(time.monotonic() - start, 2)}, result)
