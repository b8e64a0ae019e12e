"""The lab's file service: packages, images and models over HTTP, with byte ranges, from inside the lab's network.

Runs as a process of its own (`python -m metalserve.lab.fileserver ROOT ADDRESS PORT LOG`). Every request is one
JSON line in the log, so that a test can see what a host really fetched.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TextIO

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(root: Path, log: TextIO) -> web.Application:
    """Return the service: GET and HEAD of files below `root`, `Range` and conditional requests answered."""

    @web.middleware
    async def logged(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.monotonic()
        status = 499  # the client went away
        try:
            response = await handler(request)
            status = response.status
            return response
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            entry = {
                "at": round(time.time(), 3),
                "from": request.remote,
                "method": request.method,
                "path": request.path,
                "range": request.headers.get("Range"),
                "status": status,
                "seconds": round(time.monotonic() - started, 4),
            }
            log.write(json.dumps(entry) + "\n")
            log.flush()

    app = web.Application(middlewares=[logged])
    app.router.add_static("/", root, follow_symlinks=True, show_index=True)
    return app


def main(arguments: list[str]) -> None:
    """Serve until ended."""
    root, address, port, log = arguments
    with Path(log).open("a") as stream:
        asyncio.set_event_loop(asyncio.new_event_loop())
        web.run_app(
            application(Path(root), stream), host=address, port=int(port), print=lambda *_: None, access_log=None
        )


if __name__ == "__main__":
    main(sys.argv[1:])
