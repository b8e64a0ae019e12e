"""A controller that writes to a store without end, and says what was written only after that was reported.

Run as `python -m tests.recovery.writer FILE NAME HOSTS`; each line on standard output is JSON. The tests kill it.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

from metalserve.recovery.actor import this_actor
from metalserve.recovery.ports import Forbidden
from metalserve.recovery.store import Store
from metalserve.recovery.values import Mark, Sighting, Step, Subject


def say(**values: object) -> None:
    # One write() of less than a pipe's atomic size: a reader sees the whole line, or nothing.
    os.write(1, (json.dumps(values) + "\n").encode())


def main(path: str, name: str, hosts: int) -> None:
    store = Store(Path(path))
    actor = f"{name} {this_actor()}"
    source = random.Random(os.getpid())
    number = 0
    while True:
        number += 1
        host = f"host-{source.randrange(hosts)}"
        now = time.time()
        if store.take(host, actor, now, 3600):
            continue
        try:
            opened = [each for each in store.open_attempts() if each.host == host]
            attempt = opened[0] if opened else None
            if attempt is None:
                attempt = store.begin(host, "g", actor, ["c"], [Subject("gpu", "0")], "reboot", "", now)
                say(begun=attempt.id, host=host)
            for step in attempt.steps:
                if step.ended is None:  # the one that was killed in the middle of it
                    store.end_step(step.id, "unknown", "unknown", name, now)
                    say(step=step.id, outcome="unknown")
            step = store.begin_step(attempt.id, Step("reboot", (), "w" * source.randrange(2000), 60.0), now)
            say(begun_step=step.id, attempt=attempt.id)
            store.end_step(step.id, "done", "good", name, now)
            say(step=step.id, outcome="done")
            store.saw(Sighting(host, now, ("c",), {"n": f"{name}-{number}"}))
            say(sighting=f"{name}-{number}")
            store.end(attempt.id, "recovered", name, now)
            say(ended=attempt.id)
            store.mark(Mark(f"m-{name}-{number}", "maintenance", name, "", now))
            say(mark=f"m-{name}-{number}")
        except Forbidden as error:
            say(forbidden=str(error))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
