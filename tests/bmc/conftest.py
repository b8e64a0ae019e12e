"""The lab's fake BMC in this process, with a power switch that is only a flag."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalserve.bmc.redfish import RedfishBmc
from metalserve.lab.bmc import certificate, faults
from metalserve.lab.bmc.board import Board
from metalserve.lab.bmc.machine import serial_of
from metalserve.lab.bmc.server import BmcServer
from metalserve.lab.profiles import load_profile
from metalserve.lab.sim_setup import identified
from metalserve.secrets import Secret
from metalserve.settings.bmc import BmcSettings

PASSWORD = "correct-horse-battery"


class FakeMachine:
    """A host that is a flag."""

    def __init__(self, name: str = "gpu-01", profile: str = "h100-sxm-8") -> None:
        self.name = name
        self.up = False
        self.written: list[Path | None] = []
        self.done: list[str] = []
        self.struck: list[dict[str, Any]] = []
        self._profile = identified(load_profile(profile), name)
        self.write_error: Exception | None = None
        self.slow_start_s = 0.0
        self.stopping_s = 0.0

    def running(self) -> bool:
        return self.up

    def boot_disk(self) -> None:
        self.done.append("boot")
        if self.slow_start_s:
            threading.Timer(self.slow_start_s, self._on).start()
        else:
            self.up = True

    def _on(self) -> None:
        self.up = True

    def cut(self) -> None:
        self.done.append("cut")
        self.up = False

    def press(self) -> None:
        self.done.append("press")
        threading.Timer(self.stopping_s, self._off).start()

    def _off(self) -> None:
        self.up = False

    def host_keys(self) -> list[str]:
        return []

    def write(self, root: Path | None) -> None:
        if self.write_error is not None:
            raise self.write_error
        self.written.append(root)
        self.done.append("write")

    def profile(self) -> dict[str, Any]:
        return copy.deepcopy(dict(self._profile))

    def faults(self) -> list[dict[str, Any]]:
        return self.struck


class Fake:
    """A fake BMC that serves, and clients of it."""

    def __init__(self, directory: Path, profile: str = "h100-sxm-8") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.machine = FakeMachine(profile=profile)
        self.boot_server: str | None = None
        self.board = Board(directory, self.machine, lambda: self.boot_server)
        self.server = BmcServer(self.board, "127.0.0.1", 0, "admin", PASSWORD)
        self.server.start()
        self.opened: list[RedfishBmc] = []

    @property
    def pin(self) -> str:
        return certificate.fingerprint(self.directory / "server.pem")

    def settings(self, **changes: Any) -> BmcSettings:
        values: dict[str, Any] = {
            "address": f"127.0.0.1:{self.server.port}",
            "user": "admin",
            "password": {"env": "BMC_PASSWORD"},
            "tls": {"pin": self.pin},
            "serial": serial_of("gpu-01"),
        }
        return BmcSettings.model_validate({k: v for k, v in {**values, **changes}.items() if v is not None})

    def client(self, password: str = PASSWORD, **changes: Any) -> RedfishBmc:
        client = RedfishBmc(self.settings(**changes), Secret(password), "gpu-01")
        client.sleep = lambda seconds: time.sleep(min(seconds, 0.02))
        self.opened.append(client)
        return client

    def fault(self, *kinds: str) -> None:
        for kind in kinds:
            faults.inject(self.directory, kind)

    def heal(self) -> None:
        faults.heal(self.directory)

    def asked(self, method: str = "", part: str = "") -> list[tuple[str, str]]:
        return [each for each in self.server.requests if method in ("", each[0]) and part in each[1]]

    def stop(self) -> None:
        self.heal()
        for client in self.opened:
            client.close()
        self.server.stop()


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Fake]:
    found = Fake(tmp_path / "bmc")
    yield found
    found.stop()
