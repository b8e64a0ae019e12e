"""A node and the host that watches it, with a receiver of alerts in the test: for test_monitoring_live."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

from tests.lab.fleet import Fleet, Ran

WATCHER, NODE = "watcher", "node"
HOSTS = """\
release: 2026.11-lts
also: [monitoring]
hosts:
  watcher: {profile: none, suite: bookworm}
  node: {profile: h100-sxm-8, suite: bookworm, expect: {gpu: h100-sxm, count: 8, links: nvswitch}}
"""
SECRET = "alerts-go-here-5f0c2d7e91"
MOUNT = "/srv/models"


class Receiver:
    """What Alertmanager's webhook is told."""

    def __init__(self, address: str) -> None:
        self.told: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.told += json.loads(body)["alerts"] if SECRET in self.path else []
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return

        self.server = ThreadingHTTPServer((address, 0), Handler)
        self.url = f"http://{address}:{self.server.server_address[1]}/{SECRET}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def names(self, status: str) -> set[str]:
        return {alert["labels"]["alertname"] for alert in self.told if alert["status"] == status}


@dataclass
class Watching:
    """The two hosts, watched: everything that waits is shortened to seconds, but not below what a busy machine answers
    in: a scrape that comes too late is a host that is down."""

    fleet: Fleet
    receiver: Receiver
    more: dict[str, Any] = field(default_factory=dict)

    def overrides(self) -> dict[str, Any]:
        server = {
            "scrape_interval_s": 5,
            "patience": 0.0005,
            "receivers": [
                {
                    "name": "test",
                    "kind": "webhook",
                    "url": {"env": "TEST_HOOK"},
                    "severities": ["critical", "warning", "info"],
                }
            ],
        }
        bare: dict[str, Any] = {"model": None, "expect": {"count": 0}, "storage": {"device": "none"}}
        return {
            "all": {"monitoring": {"collect_interval_s": 10}},
            WATCHER: {**bare, "monitoring": {"server": server}, **self.more},
        }

    def run(self, *arguments: str, deploy: str = "deploys/monitoring.py", timeout_s: float = 1200) -> Ran:
        return self.fleet.run(
            *arguments,
            deploy=deploy,
            overrides=self.overrides(),
            extra={"TEST_HOOK": self.receiver.url},
            timeout_s=timeout_s,
        )

    def ssh(self, host: str, command: str) -> str:
        # a start of an engine returns when it answers, which takes minutes on a busy machine
        done = self.fleet.lab.ssh(host, command, timeout_s=900)
        assert done.returncode == 0, f"{host}: {command}: {done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, path: str, port: int = 9090) -> Any:
        """Ask Prometheus (or Alertmanager) itself, from this machine."""
        opener = build_opener(ProxyHandler({}))
        with opener.open(f"http://{self.fleet.lab.address(WATCHER)}:{port}{path}", timeout=10) as answer:
            return json.load(answer)

    def query(self, expr: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(f"/api/v1/query?query={quote(expr)}")["data"]["result"]
        return found

    def over_time(self, expr: str, seconds: int = 60) -> list[dict[str, Any]]:
        """Ask for the last seconds, as a panel with a time axis does."""
        now = time.time()
        span = f"start={now - seconds:.0f}&end={now:.0f}&step=5"
        found: list[dict[str, Any]] = self.ask(f"/api/v1/query_range?query={quote(expr)}&{span}")["data"]["result"]
        return found

    def firing(self) -> set[str]:
        """Names of the alerts that fire.

        The hosts share this machine's disk by several mounts, which fill for reasons of their own: only the drive
        of the models is of the lab.
        """
        alerts = self.ask("/api/v1/alerts")["data"]["alerts"]
        return {
            alert["labels"]["alertname"]
            for alert in alerts
            if alert["state"] == "firing" and alert["labels"].get("mountpoint", MOUNT) == MOUNT
        }

    def metric_names(self) -> set[str]:
        return set(self.ask("/api/v1/label/__name__/values")["data"])

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = 300) -> None:
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < timeout_s, f"never {what}; firing: {sorted(self.firing())}"
            time.sleep(0.5)

    def wait_quiet(self) -> None:
        self.wait_for(lambda: self.firing() == set(), "quiet")

    @contextmanager
    def fires(self, names: Iterable[str], also: Iterable[str] = ()) -> Iterator[None]:
        """The body brings a fault about; then these alerts fire, and none but them and `also`.

        Their end is for the next `wait_quiet`.
        """
        wanted, allowed = set(names), {*names, *also}
        self.wait_quiet()
        yield
        self.wait_for(lambda: wanted <= self.firing(), f"firing {sorted(wanted)}")
        # A scrape that a busy machine did not answer in time looks like a host that is down, until the next.
        self.wait_for(lambda: wanted <= self.firing() <= allowed, f"firing nothing but {sorted(allowed)}", 120)
