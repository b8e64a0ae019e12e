"""The lab's file service: packages, images and models over HTTP, with byte ranges, from inside the lab's network.

Runs as a process of its own (`python -m metalserve.lab.fileserver ROOT ADDRESS PORT LOG`). Every request is one
JSON line in the log, so that a test can see what a host really fetched.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from pathlib import Path
from typing import TextIO

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger


def application(root: Path) -> web.Application:
    """Return the service: GET and HEAD of files below `root`, `Range` and conditional requests answered."""
    app = web.Application()
    app.router.add_static("/", root, follow_symlinks=True, show_index=True)
    return app


def request_log(stream: TextIO) -> type[AbstractAccessLogger]:
    """Return an access logger class that writes one JSON line for each request to `stream`."""

    class RequestLog(AbstractAccessLogger):
        """Writes when the answer has been sent: only then are its status and length known."""

        def log(self, request: web.BaseRequest, response: web.StreamResponse, time_: float) -> None:
            """Write one line."""
            entry = {
                "at": round(time.time(), 3),
                "from": request.remote,
                "method": request.method,
                "path": request.path,
                "range": request.headers.get("Range"),
                "status": response.status,
                "length": int(response.headers.get("Content-Length") or 0),
                "seconds": round(time_, 4),
            }
            stream.write(json.dumps(entry) + "\n")
            stream.flush()

    return RequestLog


def main(arguments: list[str]) -> None:
    """Serve until ended."""
    root, address, port, log = arguments
    with Path(log).open("a") as stream:
        asyncio.set_event_loop(asyncio.new_event_loop())
        web.run_app(
            application(Path(root)),
            host=address,
            port=int(port),
            print=lambda *_: None,
            access_log=logging.getLogger("metalserve.lab.requests"),
            access_log_class=request_log(stream),
        )


if __name__ == "__main__":
    main(sys.argv[1:])
