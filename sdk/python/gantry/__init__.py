"""What a Python script that Gantry runs may want to know and say.

    import gantry

    for part in work:
        if gantry.should_stop():
            sys.exit()              # clean up before; the execution goes back and is run again
        do(part)
    gantry.result({"parts": len(work)})

Outside Gantry the module can be imported all the same: nothing asks to stop, and the result is printed.
"""

import datetime
import json
import os
import sys

__all__ = ["attempt", "deadline", "execute_id", "fencing_token", "result", "should_stop"]


def should_stop():
    """Has this attempt been asked to end: by a lost lock, a drain, a cancel, a timeout?

    SIGTERM comes with it, and the whole process tree is killed soon after (`grace_ms` of the manifest at the latest; of
    an exclusive execution that lost its lock within seconds). Ask at points where stopping leaves nothing half done,
    and leave by any exit code: the execution is run again later, without having failed. (A cancelled one is not, and one
    that ran too long has timed out.)
    """
    path = os.environ.get("GANTRY_STOP_FILE")
    return path is not None and os.path.exists(path)


def deadline():
    """The time after which the caller has no use for the result, as an aware `datetime`; None if there is none."""
    text = os.environ.get("GANTRY_DEADLINE")
    if text is None:
        return None
    # Before Python 3.11 the parser knows neither a Z nor more or fewer digits than six.
    whole, _, fraction = text.removesuffix("Z").partition(".")
    at = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.timezone.utc)
    return at + datetime.timedelta(microseconds=int(fraction[:6].ljust(6, "0")) if fraction else 0)


def fencing_token():
    """The fencing token of an exclusive execution: a pair of numbers, higher (as Python compares pairs) than that of
    every earlier holder of the same lock. None if the execution is not exclusive.

    Send it along with every write to a system that can refuse a write under a lower token than it has seen.
    """
    text = os.environ.get("GANTRY_FENCING_TOKEN")
    if text is None:
        return None
    generation, number = text.split(".")
    return int(generation), int(number)


def execute_id():
    """The id of this execution: the same for all attempts at it. None outside Gantry."""
    return os.environ.get("GANTRY_EXECUTE_ID")


def attempt():
    """Which attempt this is, from 1; higher ones are later. None outside Gantry."""
    text = os.environ.get("GANTRY_ATTEMPT")
    return None if text is None else int(text)


def result(value):
    """Hands over the result: bytes as they are, anything else as JSON. Call it once."""
    data = bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else json.dumps(value).encode()
    descriptor = os.environ.get("GANTRY_RESULT_FD")
    if descriptor is None:
        sys.stdout.write(data.decode(errors="replace") + "\n")
        return
    with os.fdopen(int(descriptor), "wb") as pipe:
        pipe.write(data)
