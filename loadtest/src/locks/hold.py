"""Holds its lock for a while, where the load test can see it be born and die."""
import fcntl
import json
import os
import signal
import socket
import sys
import time

order = json.load(sys.stdin)
if order["deaf"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
# The kernel's own witness: taken by two processes at once, two holders overlap.
held = open(order["file"], "w")
try:
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    overlaps = False
except OSError:
    overlaps = True
me = {
    "key": order["key"],
    "execute_id": os.environ["GANTRY_EXECUTE_ID"],
    "attempt": int(os.environ["GANTRY_ATTEMPT"]),
    "fence": int(os.environ["GANTRY_FENCING_TOKEN"].rsplit(".", 1)[-1]),
    "overlaps": overlaps,
}
witness = socket.socket(socket.AF_UNIX)
witness.connect(order["witness"])
witness.sendall(json.dumps(me).encode() + b"\n")
witness.recv(1)  # Seen alive.
for line in range(3):
    print(line, flush=True)
    time.sleep(order["hold_ms"] / 3000)
with os.fdopen(3, "w") as result:
    json.dump(me, result)
