"""Re-imaging with a real boot server and shelf: a BMC that does as the test says, and a machine behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from metalserve.bmc.client import Bmc, BootSeen
from metalserve.bmc.errors import BmcError
from metalserve.pyinfra_seam import reimaging
from metalserve.pyinfra_seam.recovery_sessions import Sessions
from metalserve.pyinfra_seam.reimaging import Reimaging
from metalserve.recovery.ports import Done
from metalserve.recovery.values import Step
from metalserve.settings import HostSettings
from metalserve.templates.installer import install_over_http
from metalserve.templates.machine_identity import Identity
from metalserve.templates.order import Disk
from metalserve.templates.orders import Orders
from tests.templates.boot_servers import BootYard, onto
from tests.templates.builds import make_keys

HOST, MACHINE = "gpu-1", Identity(serial="S1")
DISKS = [Disk(serial="D1", size_bytes=10**6, name="nvme0n1")]
KEY = f"ssh-ed25519 {'A' * 68}"


class FakeBmc:
    """A BMC as the hands see it.

    Attributes:
        offers: boot devices that it takes.
        boots: called when the host is switched on.
        error: raised by the power cycle after `boots` was called.
        stays: the boot override is never taken back.
        done: what it was asked to do.
    """

    def __init__(self) -> None:
        self.offers: Sequence[str] = ("pxe", "uefi-http", "cd")
        self.boots: Callable[[], object] = lambda: None
        self.error: BmcError | None = None
        self.stays = False
        self.done: list[str] = []
        self.seen = BootSeen("None", "Disabled")

    def __enter__(self) -> FakeBmc:
        return self

    def __exit__(self, *stop: object) -> None:
        pass

    def boot_once(self, device: str, uri: str | None = None) -> BootSeen:
        if device not in self.offers:
            raise BmcError("offers no such device")
        self.done.append(device)
        self.seen = BootSeen(device, "Continuous")
        return self.seen

    def boot_back(self) -> BootSeen:
        self.done.append("back")
        if not self.stays:
            self.seen = BootSeen("None", "Disabled")
        return self.seen

    def boot(self) -> BootSeen:
        return self.seen

    def insert(self, url: str) -> None:
        self.done.append(f"insert {url.rpartition('/')[2]}")

    def media(self) -> tuple[()]:
        return ()

    def set_power(self, action: str, deadline_s: float = 120.0) -> None:
        self.done.append(action)
        self.boots()
        if self.error is not None:
            raise self.error


class FakeSessions:
    """A host that answers in a new boot, and a known_hosts file."""

    def __init__(self) -> None:
        self.trusted: list[str] = []
        self.comes = True

    def trust(self, host: str, keys: Sequence[str]) -> Path:
        self.trusted = list(keys)
        return Path("known_hosts")

    def wait_for(self, host: str, arrived: Callable[[list[str]], bool], until: float, what: str) -> tuple[bool, str]:
        return self.comes and arrived(["new", "boot-2", "7"]), "answers" if self.comes else "does not answer"


class Scene:
    """A controller, a boot server, a machine."""

    def __init__(self, yard: BootYard, url: str, directory: Path) -> None:
        self.yard, self.url, self.directory = yard, url, directory
        self.bmc, self.sessions = FakeBmc(), FakeSessions()
        self.began = time.time()
        self.recovery: dict[str, Any] = {
            "template": "debian-13", "disk_serial": "D1", "boot_server": url, "build": "stable",
            "template_keys": [yard.keys[0].where],
        }  # fmt: skip
        self.machine: dict[str, Any] | None = {"address": "192.0.2.1", "user": "u", "password": {"env": "P"}}
        self.machine["serial"] = "S1"
        self.bmc.boots = self.installs

    def installs(self) -> None:
        """The machine boots its installer, which writes the disk."""
        install_over_http(self.url, MACHINE, DISKS, onto(self.directory), keys=self.yard.keys)

    def asks(self) -> None:
        """The machine gets its permission, and then hangs."""
        self.yard.orders.permit(MACHINE, DISKS)

    @property
    def reimaging(self) -> Reimaging:
        data = {
            "release": "2026.11-lts",
            "expect": {"gpu": "l40s", "count": 4},
            "recovery": self.recovery,
            "bmc": self.machine,
        }
        settings = {HOST: HostSettings.model_validate(data)}
        return Reimaging(settings, lambda host: cast(Bmc, self.bmc))

    def act(self, seconds: float = 5.0) -> Done:
        step = Step("reimage", (), "test", seconds, "boot-1:7")
        until = time.monotonic() + seconds
        return self.reimaging.act(HOST, step, cast(Sessions, self.sessions), until, self.began)

    def place(self) -> None:
        """A controller that died had placed the order."""
        build = self.yard.build
        self.yard.orders.place(
            HOST, identity=MACHINE, template=build.name, build=build.build, disk_serial="D1"
        )  # fmt: skip

    @property
    def state(self) -> str:
        found = self.yard.orders.get(HOST)
        return found.state if found else "none"


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    yard = BootYard(tmp_path)
    yard.shelf.promote("debian-13", yard.build.build)
    monkeypatch.setenv("METALSERVE_TEMPLATES_DIR", str(tmp_path))
    monkeypatch.setattr(reimaging, "_LOOK_AGAIN_S", 0.02)
    with yard.serving() as url:
        yield Scene(yard, url, tmp_path)


def test_a_host_is_ordered_booted_written_and_set_back(scene: Scene) -> None:
    assert scene.reimaging.why_not(HOST, scene.began) == ""
    done = scene.act()
    assert done.outcome == "done", done.words
    assert scene.state == "done" and (scene.directory / "D1").stat().st_size
    assert scene.bmc.done == ["pxe", "cycle", "back"]
    assert scene.bmc.seen.enabled == "Disabled"
    found = scene.yard.orders.get(HOST)
    assert found and found.number in done.words and "its installer reported no host key" in done.words
    assert scene.reimaging.installed(HOST, cast(Sessions, scene.sessions), scene.began) == ""


def test_the_host_keys_that_come_with_the_result_are_the_ones_that_are_believed(scene: Scene) -> None:
    def reported() -> None:
        write = onto(scene.directory)
        install_over_http(scene.url, MACHINE, DISKS, write, keys=scene.yard.keys, host_keys=lambda grant: [KEY])

    scene.bmc.boots = reported
    assert scene.act().outcome == "done"
    assert scene.sessions.trusted == [KEY]


@pytest.mark.parametrize(
    ("offers", "done"), [(("uefi-http", "cd"), ["uefi-http"]), (("cd",), ["insert installer.iso", "cd"])]
)
def test_the_next_device_is_taken_when_the_bmc_does_not_offer_pxe(
    scene: Scene, offers: Sequence[str], done: list[str]
) -> None:
    scene.bmc.offers = offers
    assert scene.act().outcome == "done"
    assert scene.bmc.done[: len(done)] == done


def test_a_power_cycle_that_is_refused_leaves_no_order(scene: Scene) -> None:
    scene.bmc.boots, scene.bmc.error = lambda: None, BmcError("refuses")
    done = scene.act()
    assert (done.outcome, scene.state) == ("failed", "none") and "refuses" in done.words
    assert scene.bmc.done[-1] == "back"


def test_a_power_cycle_whose_answer_is_lost_is_judged_by_the_order(scene: Scene) -> None:
    scene.bmc.error = BmcError("the connection broke", sent=True)
    assert scene.act().outcome == "done"
    assert scene.bmc.done.count("cycle") == 1


def test_a_machine_that_never_asks_keeps_no_order(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reimaging, "ASKS_S", 0.1)
    scene.bmc.boots = lambda: None
    done = scene.act()
    assert (done.outcome, scene.state) == ("failed", "none")
    assert "did not ask" in done.words and scene.bmc.seen.enabled == "Disabled"


def test_a_result_that_does_not_come_is_unknown_and_nothing_is_begun_again(scene: Scene) -> None:
    scene.bmc.boots = scene.asks
    assert scene.act(0.3).outcome == "unknown"
    assert (scene.state, scene.bmc.done) == ("permitted", ["pxe", "cycle", "back", "back"])
    assert "permitted" in scene.reimaging.in_flight(HOST)
    assert scene.act(0.3).outcome == "unknown"
    assert scene.bmc.done.count("cycle") == 1, "it waited, and left the power alone"
    scene.began = time.time() + 60
    assert "nobody knows what the disk holds" in scene.reimaging.why_not(HOST, scene.began)
    assert scene.act(0.3).outcome == "refused"


def test_a_failed_installation_says_why(scene: Scene) -> None:
    def fails() -> None:
        order = scene.yard.orders.permit(MACHINE, DISKS)
        scene.yard.orders.finish(order.number, order.token, "bad", "wiped: the image is damaged")

    scene.bmc.boots = fails
    done = scene.act()
    assert done.outcome == "failed" and "the image is damaged" in done.words
    assert "the image is damaged" in scene.reimaging.installed(HOST, cast(Sessions, scene.sessions), scene.began)


def test_an_order_that_a_dead_controller_placed_is_gone_on_with(scene: Scene) -> None:
    scene.place()
    before = scene.yard.orders.get(HOST)
    assert scene.reimaging.why_not(HOST, scene.began) == ""
    assert scene.act().outcome == "done"
    after = scene.yard.orders.get(HOST)
    assert before and after and before.number == after.number


def test_what_was_installed_while_the_controller_was_dead_is_not_installed_again(scene: Scene) -> None:
    scene.place()
    scene.installs()
    scene.bmc.seen = BootSeen("Pxe", "Continuous")
    assert scene.act().outcome == "done"
    assert scene.bmc.done == ["back"], "the boot device alone was still to be set back"


def test_a_boot_device_that_stays_is_said(scene: Scene) -> None:
    scene.bmc.stays = True
    done = scene.act()
    assert done.outcome == "done" and "could not be set back" in done.words


def test_a_host_that_does_not_come_back_says_what_to_do_about_its_key(scene: Scene) -> None:
    scene.sessions.comes = False
    done = scene.act()
    assert done.outcome == "done" and "ssh-keygen -R" in done.words


def test_a_server_of_other_orders_is_refused_and_nothing_stays_ordered(scene: Scene, tmp_path: Path) -> None:
    elsewhere = BootYard.__new__(BootYard)
    elsewhere.__dict__ |= scene.yard.__dict__ | {"orders": Orders(tmp_path / "elsewhere")}
    with elsewhere.serving() as url:
        scene.recovery["boot_server"] = url
        done = scene.act()
        assert done.outcome == "refused" and "does not see the order" in done.words
        assert (scene.state, scene.bmc.done) == ("none", [])
        elsewhere.order(HOST, identity=MACHINE, disk="D1")
        assert "an order that is not here" in scene.reimaging.why_not(HOST, scene.began)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"template": None}, "recovery.template"),
        ({"disk_serial": None}, "recovery.disk_serial"),
        ({"boot_server": None}, "recovery.boot_server is not set"),
        ({"boot_server": "http://127.0.0.1:9"}, "does not answer"),
        ({"template": "rocky-9"}, "has no build"),
        ({"build": "candidate"}, "has no candidate build"),
        ({"template_keys": []}, "holds no public key"),
    ],
)
def test_what_is_lacking_is_named(scene: Scene, changes: dict[str, Any], words: str) -> None:
    scene.recovery |= changes
    assert words in scene.reimaging.why_not(HOST, scene.began)


def test_a_machine_that_nothing_tells_from_others_is_not_written(scene: Scene) -> None:
    scene.machine = None
    assert "tell no machine" in scene.reimaging.why_not(HOST, scene.began)


def test_a_build_of_another_key_is_refused_before_anything_is_ordered(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    _, keys = make_keys(tmp_path / "other")
    scene.recovery["template_keys"] = [keys[0].where]
    assert "not trusted" in scene.reimaging.why_not(HOST, scene.began)
    done = scene.act()
    assert (done.outcome, scene.state, scene.bmc.done) == ("refused", "none", [])


def test_an_order_of_a_person_for_another_disk_is_left_alone(scene: Scene) -> None:
    scene.yard.order(HOST, identity=MACHINE, disk="D7")
    assert "another order waits" in scene.reimaging.why_not(HOST, scene.began)
    assert scene.act().outcome == "refused"
    assert (scene.state, scene.bmc.done) == ("ordered", [])
