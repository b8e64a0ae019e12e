"""Stages a model again and again, each time killed at another moment; run by itself, as `python -m`.

A process that forks must have one thread: this one has. Prints a JSON line: how many runs were killed, ended and
published, and what was wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from metalserve.weights.agent.__main__ import main
from metalserve.weights.agent.config import Job, read_job
from metalserve.weights.agent.tree import remove_tree


def wrong_bytes(job: Job) -> list[str]:
    """Return the files of the published directory that are not the model's; nothing where it is not published."""
    published = Path(job.store) / job.revision
    if not published.exists():
        return []
    digests = {each.path: each.sha256 for each in job.files}
    return [p for p, sha in digests.items() if hashlib.sha256((published / p).read_bytes()).hexdigest() != sha]


def served(config: str) -> bool:
    """Tell whether an engine would be started on what is published: only then wrong bytes are the agent's fault.

    Bytes that this very process has made wrong stay in place when the next run is killed before it withdraws them.
    """
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os._exit(main(["check", "--sizes", config]))
    return os.waitpid(child, 0)[1] == 0


def rounds(config: str, count: int, longest_s: float, seed: int) -> dict[str, object]:
    job, rng = read_job(config), random.Random(seed)
    killed = published = 0
    wrong: list[str] = []
    for _ in range(count):
        child = os.fork()
        if child == 0:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os._exit(main([rng.choice(["stage", "stage", "repair"]), config]))
        time.sleep(rng.uniform(0, longest_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        found = wrong_bytes(job)
        wrong += found if found and served(config) else []
        place = Path(job.store) / job.revision
        if place.exists():
            published += 1
            if rng.random() < 0.5:
                remove_tree(str(place))
            else:  # wrong bytes in the middle of the largest file: the next run withdraws and mends
                largest = place / max(job.files, key=lambda each: each.size).path
                largest.chmod(0o644)
                with largest.open("r+b") as file:
                    file.seek(100_000)
                    file.write(b"wrong")
    return {"killed": killed, "published": published, "wrong": wrong}


if __name__ == "__main__":
    print(json.dumps(rounds(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))))
