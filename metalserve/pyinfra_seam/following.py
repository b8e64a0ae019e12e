"""Follows what a stage has begun on a host and what goes on there without us, such as hours of fetching a model.

The connection is only an onlooker: when it breaks, or this controller dies, the work goes on, and the next run finds it
and follows it. The host's lock is given back meanwhile, since nothing is changed from here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from pyinfra import logger

from metalserve.desired.follow import Follow, Look
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.hostrun import HostRun

FOLLOW_S = 10
"""Seconds that one session follows: a line of progress each time, and no idle limit on the way ends it."""

PROGRESS_DIRECTORY = "METALSERVE_PROGRESS_DIR"
"""Environment variable: a directory in which each host's newest look is kept, for who shows them (`weights stage`)."""


def followed(run: HostRun, stage: str, follow: Follow) -> None:
    """Look until the work has ended; the host's lock is taken again then.

    Raises:
        MetalserveError: it failed, the host can no longer be reached, or another run holds the host now.
    """
    run.release_lock()
    said = ""
    while True:
        ok, lines = run.shell(follow.script(FOLLOW_S), timeout_s=FOLLOW_S + 120)
        if not ok:
            raise MetalserveError(
                f"the host no longer says how far it is: {' | '.join(lines[-3:])[:300] or 'no answer'}",
                remedy="run again: what still runs there is followed",
            )
        look = follow.read(lines)
        _keep(run.host.name, look)
        if look.words and look.words != said:
            run.host.log(f"{run.role_name} / {stage}: {look.words}", logger.info)
            said = look.words
        if look.failed:
            raise MetalserveError(look.failed, remedy=look.remedy or None)
        if not look.running:
            break
    run.hold_lock()


def _keep(host: str, look: Look) -> None:
    directory = os.environ.get(PROGRESS_DIRECTORY)
    if not directory:
        return
    target = Path(directory) / f"{host.replace('/', '_')}.json"
    new = target.with_suffix(".new")
    new.write_text(json.dumps({"host": host, "running": look.running, "failed": look.failed, **look.data}))
    new.replace(target)
