"""What the Python peers share: how a closed loop is measured and what is printed of it."""

import json
import sys
import time


class Loop:
    """Callers that are never idle for `warmup` + `seconds`; only what is sent in the latter counts."""

    def __init__(self):
        self.concurrency, self.seconds, self.warmup = int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
        self.payload = "x" * int(sys.argv[5])
        self.times = []

    def begin(self):
        self.measured = time.perf_counter() + self.warmup
        self.end = self.measured + self.seconds

    def goes_on(self):
        return time.perf_counter() < self.end

    def done(self, sent):
        """Notes a call; list.append is one step for all threads."""
        if sent >= self.measured:
            self.times.append(time.perf_counter() - sent)

    def report(self):
        elapsed = time.perf_counter() - self.measured
        times = sorted(self.times)
        at = lambda q: int(times[min(int(len(times) * q), len(times) - 1)] * 1e6) if times else 0
        print(json.dumps({"per_s": len(times) / elapsed, "p50_us": at(0.5), "p99_us": at(0.99)}), flush=True)
