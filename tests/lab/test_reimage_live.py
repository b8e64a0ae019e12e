"""Re-imaging on the lab: order, boot server, fake BMC, the host's firmware as installer, its new host key."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from metalserve.bmc import open_bmc
from metalserve.lab import operate, rootfs
from metalserve.lab.bmc import service
from metalserve.lab.bmc.machine import disk_of
from metalserve.lab.fleet import RunningHost
from metalserve.paths import ROOT
from metalserve.settings.bmc import BmcSettings
from metalserve.templates.manifest import DISK, file_entries, file_entry
from metalserve.templates.order import Order
from metalserve.templates.orders import Orders
from metalserve.templates.shelf import Shelf
from tests.lab.fleet import Fleet
from tests.lab.recovering import Recovering, rungs
from tests.lab.test_main_job import ENGINES, PCIE
from tests.templates.builds import make_keys, some_manifest

pytestmark = [pytest.mark.lab, pytest.mark.fleet, pytest.mark.slow]

TEMPLATE = "lab-base"
ACT = """
import json, sys, time
from pathlib import Path
from metalserve.pyinfra_seam.recovering import HostHands
from metalserve.recovery.ports import Looked
from metalserve.recovery.values import Step
host = sys.argv[1]
hands = HostHands("inventories/lab.py", keep=Path(sys.argv[2]), actor="test", history=lambda: [])
began = time.time()
hands._orders_since = lambda name: began
step = Step("reimage", (), "test", 300.0)
done = hands.act(host, step)
proof = hands.prove(host, step, Looked(False, True, None, None))
print(json.dumps({"outcome": done.outcome, "words": done.words, "proof": proof, "can": hands.can(host, "reimage")}))
"""


@dataclass
class Site:
    """A shelf with one signed build, and its boot server.

    Attributes:
        recovering: the fleet with the settings of re-imaging.
        host: the host that is written.
        log: what the boot server said.
    """

    recovering: Recovering
    host: RunningHost
    orders: Orders
    log: Path

    @property
    def order(self) -> Order:
        found = self.orders.get(self.host.name)
        assert found is not None
        return found

    def asked(self, path: str) -> list[str]:
        """What became of each request for a path."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line["words"] for line in lines if line["asked"].endswith(path)]


def shelf_with_a_build(home: Path, tree: Path) -> Path:
    """Put a build of a root file system on the shelf as `stable`; returns the public key. Its disk is a stand-in."""
    secret, _ = make_keys(home)
    work, raw = home / "work", home / "raw"
    work.mkdir()
    raw.write_bytes(b"a disk" * 1000)
    subprocess.run(["zstd", "-q", "-3", raw, "-o", work / DISK], check=True)
    pack = ["tar", "--numeric-owner", "--xattrs", "-I", "zstd -1 -T2", "-cf", str(work / "root.tar.zst")]
    subprocess.run([*pack, "-C", str(tree), "."], check=True)
    manifest = some_manifest(file_entries(work), file_entry(raw), name=TEMPLATE)
    shelf = Shelf(home / "shelf")
    shelf.promote(TEMPLATE, shelf.publish(work, manifest, key=secret).build)
    return home / "public.pub"


@pytest.fixture
def site(serving: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    layout = serving.lab.layout
    host = next((each for each in serving.lab.fleet.hosts if each.name == PCIE), serving.lab.fleet.hosts[0])
    home = tmp_path / "templates"
    home.mkdir()
    public = shelf_with_a_build(home, rootfs.base_path(layout, host.suite))
    monkeypatch.setenv("METALSERVE_TEMPLATES_DIR", str(home))
    log = tmp_path / "serve.log"
    serve = ["--address", layout.controller_address, "--port", "0", "--key", str(public)]
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "metalserve", "template", "serve", *serve],
            cwd=ROOT, stdout=stream, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    try:
        assert server.stderr is not None
        said = server.stderr.readline()
        assert said.startswith("serving on "), said
        url = f"http://{said.split()[-1]}"
        layout.boot_server.write_text(f"{url}\n")
        recovering = Recovering(serving, tmp_path / "state")
        recovery = {
            "template": TEMPLATE, "disk_serial": disk_of(host.name), "boot_server": url,
            "template_keys": [str(public)], "deadlines_s": {"reboot": 25, "power-cycle": 25, "reimage": 600},
            "depths": dict.fromkeys(("reboot", "power-cycle", "reimage"), "quick"),
        }  # fmt: skip
        recovering.overrides = {**recovering.overrides, host.name: {"recovery": recovery}}
        yield Site(recovering, host, Orders(home / "orders"), log)
    finally:
        server.terminate()
        server.wait(10)
        layout.boot_server.unlink(missing_ok=True)
        serving.lab.bmc_heal(host.name)
        destroyed = any(each["kind"] == "filesystem-destroyed" for each in serving.lab.faults(host.name))
        serving.lab.heal(host.name)
        if destroyed:  # that has switched it on
            operate.wait_until_up(layout, [host])
        elif serving.lab.state(host.name) != "up":
            serving.lab.stop(host.name, grace_s=0)
            serving.lab.start(host.name)
        run = serving.run()
        assert run.rc == 0, run.out


def new_host_key(site: Site) -> None:
    """Forget the host's SSH key: the lab, too, makes another one when it is written next."""
    key = site.recovering.fleet.lab.layout.keys / "hosts" / site.host.name
    for path in (key, key.with_suffix(".pub")):
        path.unlink()


def boot_override(site: Site) -> dict[str, Any]:
    state = json.loads((site.recovering.fleet.lab.layout.bmc(site.host.name) / "state.json").read_text())
    return dict(state["boot"])


def test_a_destroyed_host_is_written_anew_and_serves(site: Site) -> None:
    fleet, name = site.recovering.fleet, site.host.name
    fleet.lab.ssh(name, "touch /root/old")
    before = fleet.lab.layout.known_hosts.read_text()
    new_host_key(site)
    fleet.lab.fault(name, "filesystem-destroyed")
    rc, said, log = site.recovering.run(name, "--yes", timeout_s=1800)
    assert rc == 0, log
    attempt = said["attempts"][name]
    assert attempt["result"] == "recovered"
    assert rungs(attempt)[-2:] == [("reimage", "good"), ("accept", "good")], log
    order = site.order
    assert (order.state, order.template, order.disk.serial) == ("done", TEMPLATE, disk_of(name))
    step = next(s for s in attempt["steps"] if s["step"]["rung"] == "reimage")
    assert order.number in step["words"] and "boot device back" in step["words"]
    assert [words for words in site.asked("/v1/permission") if words.startswith("permitted")] == [
        f"permitted: {name}, disk {disk_of(name)}"
    ]
    assert fleet.lab.layout.known_hosts.read_text() != before, "its new key is believed, as the installer reported it"
    assert order.host_keys[0] in fleet.lab.layout.known_hosts.read_text()
    assert fleet.lab.ssh(name, "ls /root").stdout == ""
    assert all(fleet.token(name, port) for port in ENGINES.get(name, [8000]))
    assert boot_override(site)["Enabled"] == "Disabled"
    assert tarfile.is_tarfile(attempt["evidence"]), "what its BMC said was kept before"


def test_a_bmc_that_ignores_once_does_not_install_twice(site: Site, tmp_path: Path) -> None:
    fleet, name = site.recovering.fleet, site.host.name
    fleet.lab.ssh(name, "touch /root/old")
    new_host_key(site)
    fleet.lab.bmc_fault(name, "once-ignored")
    fleet.lab.fault(name, "filesystem-destroyed")
    done = subprocess.run(
        [sys.executable, "-c", ACT, name, str(tmp_path / "keep")],
        cwd=ROOT, env=site.recovering.environment(), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["outcome"], said["proof"][0]) == ("done", "good"), said
    assert site.order.state == "done"
    assert site.order.host_keys[0] in fleet.lab.layout.known_hosts.read_text()
    assert fleet.lab.ssh(name, "touch /root/new; ls /root").stdout == "new\n"
    with open_bmc(BmcSettings.model_validate(service.settings(fleet.lab.layout, site.host)["bmc"]), name) as bmc:
        bmc.set_power("cycle", 60)
    operate.wait_until_up(fleet.lab.layout, [site.host])
    assert fleet.lab.ssh(name, "ls /root").stdout == "new\n", "the next boot is that of the disk"
    permitted = [words for words in site.asked("/v1/permission") if words.startswith("permitted")]
    assert len(permitted) == 1, "whatever the BMC boots, there is one permission"
    assert boot_override(site)["Target"] != "Pxe" or boot_override(site)["Enabled"] == "Disabled"
