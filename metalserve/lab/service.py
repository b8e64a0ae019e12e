"""The file service as a process: started inside the lab's network namespace, known by pid and start time."""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request

from metalserve.errors import MetalserveError
from metalserve.lab import recorded
from metalserve.lab.layout import SERVICE_PORT, Layout
from metalserve.lab.system import ProcessId


def process(layout: Layout) -> ProcessId | None:
    """Return the running file service."""
    return recorded.running(layout.root / "service.json")


def start(layout: Layout) -> None:
    """Start the file service, unless it runs, and wait until it answers.

    Raises:
        MetalserveError: it does not answer within 15 s.
    """
    if process(layout) is None:
        layout.www.mkdir(parents=True, exist_ok=True)
        log = layout.root / "service.log"
        words = [str(layout.www), layout.service_address, str(SERVICE_PORT), str(layout.root / "requests.log")]
        served = [sys.executable, "-m", "metalserve.lab.fileserver", *words]
        recorded.begin(layout.root / "service.json", ["nsenter", f"--net={layout.namespace_path}", *served], log=log)
    deadline = time.monotonic() + 15
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the lab is never behind a proxy
    while True:
        try:
            opener.open(f"{layout.service_url}/", timeout=2).close()
            return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline or process(layout) is None:
                raise MetalserveError(
                    f"the file service does not answer: {error}", where=str(layout.root / "service.log")
                ) from error
            time.sleep(0.1)


def stop(layout: Layout) -> None:
    """End the file service."""
    recorded.end(layout.root / "service.json")
