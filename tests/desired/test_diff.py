"""Every kind of resource: what differs is listed, and what is as wanted is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metalserve.desired.diff import Change, difference
from metalserve.desired.model import (
    Action,
    Desired,
    Directory,
    File,
    Module,
    Package,
    Reboot,
    SigningKey,
    Sysctl,
    Unit,
)
from metalserve.desired.observed import Observation, ObservedFile, ObservedPackage, ObservedUnit
from metalserve.hardware.section import Section

LIVE = {"live": "1", "proc_sys_rw": "1"}
FILE = File("/etc/x.conf", "x = 1\n")
FINGERPRINT = "0123456789ABCDEF0123456789ABCDEF01234567"


def as_file(file: File, *, mtime: float = 100.0) -> ObservedFile:
    mode = file.mode.rjust(4, "0")
    return ObservedFile(file.path, "file", mode, file.owner, file.group, mtime, sha256=file.sha256)


def running(name: str, **changed: object) -> ObservedUnit:
    unit = ObservedUnit(name, "loaded", "active", "running", "enabled", started=200.0)
    return replace(unit, **changed)  # type: ignore[arg-type]


def summaries(desired: Desired, observed: Observation) -> list[str]:
    return [c.summary for c in difference(desired, observed)]


def one(desired: Desired, observed: Observation) -> Change:
    (change,) = difference(desired, observed)
    return change


EVERYTHING = Desired(
    packages=(Package("curl"), Package("driver", "580.178.04"), Package("nouveau-tools", present=False)),
    keys=(SigningKey("/etc/apt/keyrings/metalserve-x.asc", FINGERPRINT.lower(), url="https://x/key"),),
    directories=(Directory("/srv/models", "0750", "root", "root"),),
    files=(FILE, File("/etc/gone", None)),
    units=(Unit("docker.service", restart_on=(FILE.path,)), Unit("bad.timer", masked=True, running=False)),
    sysctls=(Sysctl("vm.swappiness", "1"),),
    modules=(Module("nvidia-uvm"),),
    actions=(Action("make the mount", done=lambda o: "mounted" in o.text("mount"), script="mount /srv"),),
)
AS_WANTED = Observation(
    facts=LIVE,
    packages={
        "curl": ObservedPackage("curl", "8.1", "ii "),
        "driver": ObservedPackage("driver", "580.178.04-1", "hi "),
    },
    files={
        FILE.path: as_file(FILE),
        "/srv/models": ObservedFile("/srv/models", "directory", "0750", "root", "root", 1.0),
    },
    units={
        "docker.service": running("docker.service"),
        "bad.timer": ObservedUnit("bad.timer", "masked", "inactive", "dead", "masked", None),
    },
    sysctls={"vm.swappiness": "1"},
    keys={"/etc/apt/keyrings/metalserve-x.asc": (FINGERPRINT,)},
    sections={"modules": Section("nvidia 1 0\nnvidia_uvm 1 0\n", 0), "mount": Section("mounted", 0)},
)


def test_a_host_as_wanted_has_no_difference() -> None:
    assert difference(EVERYTHING, AS_WANTED) == ()


def test_a_bare_host_differs_in_everything_and_in_the_right_order() -> None:
    bare = Observation(
        facts=LIVE,
        packages={"nouveau-tools": ObservedPackage("nouveau-tools", "1", "ii ")},
        files={"/etc/gone": ObservedFile("/etc/gone", "file", "0644", "root", "root", 1.0)},
        sysctls={"vm.swappiness": "60"},
    )
    assert [c.kind for c in difference(EVERYTHING, bare)] == [
        "directory",
        "signingkey",
        "file",
        "file",
        "package",
        "package",
        "package",
        "action",
        "module",
        "sysctl",
        "unit",
        "unit",
    ]


def test_actions_run_in_their_phase() -> None:
    actions = tuple(Action(p, lambda o: False, ":", phase=p) for p in ("late", "middle", "early"))
    desired = Desired(actions=actions, files=(FILE,), packages=(Package("p"),), units=(Unit("u"),))
    kinds = [c.summary if c.kind == "action" else c.kind for c in difference(desired, Observation(facts=LIVE))]
    assert kinds == ["early", "file", "package", "middle", "unit", "late"]


class TestPackages:
    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            ("ii ", []),
            ("hi ", []),
            ("iF ", ["package driver: half-installed (iF) -> repaired"]),
            ("iU ", ["package driver: half-installed (iU) -> repaired"]),
        ],
    )
    def test_half_installed_is_repaired(self, status: str, expected: list[str]) -> None:
        observed = Observation(packages={"driver": ObservedPackage("driver", "580.178.04-1", status)})
        assert summaries(Desired(packages=(Package("driver", "580.178.04"),)), observed) == expected

    def test_versions_are_told(self) -> None:
        observed = Observation(packages={"driver": ObservedPackage("driver", "570.1-1", "ii ")})
        wanted = Desired(packages=(Package("driver", "580.178.04"), Package("new"), Package("fm", "580.178.04")))
        assert summaries(wanted, observed) == [
            "package driver: 570.1-1 -> 580.178.04",
            "package new: absent -> installed",
            "package fm: absent -> 580.178.04",
        ]


class TestFiles:
    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"sha256": "0" * 64}, "content"),
            ({"mode": "0666"}, "mode 0666 -> 0644"),
            ({"owner": "nobody"}, "owner nobody:root -> root:root"),
            ({"kind": "link", "sha256": ""}, "link"),
            ({"kind": "directory", "sha256": ""}, "directory"),
            ({"sha256": "0" * 64, "mode": "0600"}, "content, mode 0600 -> 0644"),
        ],
    )
    def test_each_difference_is_named(self, changed: dict[str, str], words: str) -> None:
        observed = Observation(files={FILE.path: replace(as_file(FILE), **changed)})  # type: ignore[arg-type]
        assert summaries(Desired(files=(FILE,)), observed) == [f"file {FILE.path}: {words}"]

    def test_modes_are_compared_as_numbers_of_four_digits(self) -> None:
        short = replace(FILE, mode="644")
        assert difference(Desired(files=(short,)), Observation(files={FILE.path: as_file(FILE)})) == ()

    def test_a_secret_is_never_in_a_summary(self) -> None:
        secret = File("/etc/token", "hf_secret", "0600", secret=True)
        other = replace(as_file(secret), sha256="1" * 64)
        for observed in (Observation(), Observation(files={secret.path: other})):
            change = one(Desired(files=(secret,)), observed)
            assert "hf_secret" not in change.summary

    def test_a_linked_directory_is_left_where_it_points(self) -> None:
        link = ObservedFile("/srv/models", "link", "0777", "root", "root", 1.0, target="/mnt/models")
        observed = Observation(files={"/srv/models": link})
        assert difference(Desired(directories=(Directory("/srv/models"),)), observed) == ()

    def test_a_file_in_the_place_of_a_directory(self) -> None:
        observed = Observation(files={"/srv": ObservedFile("/srv", "file", "0644", "root", "root", 1.0)})
        assert summaries(Desired(directories=(Directory("/srv"),)), observed) == [
            "directory /srv: is a file -> refused"
        ]


def test_a_key_with_another_fingerprint_is_replaced() -> None:
    observed = Observation(keys={"/etc/apt/keyrings/metalserve-x.asc": ("F" * 40,)})
    assert summaries(replace(Desired(), keys=EVERYTHING.keys), observed) == [
        f"key /etc/apt/keyrings/metalserve-x.asc: not there with fingerprint {FINGERPRINT[-16:]}"
    ]


class TestUnits:
    CONF = FILE.path

    def verbs(self, unit: Unit, found: ObservedUnit | None, *, mtime: float = 100.0, live: bool = True) -> list[str]:
        observed = Observation(
            facts=LIVE if live else {},
            files={FILE.path: as_file(FILE, mtime=mtime)},
            units={found.name: found} if found is not None else {},
        )
        changes = difference(Desired(units=(unit,)), observed)
        return list(changes[0].verbs) if changes else []

    def test_a_config_newer_than_the_start_restarts(self) -> None:
        unit = Unit("d", restart_on=(self.CONF,))
        assert self.verbs(unit, running("d"), mtime=201.0) == ["restart"]
        assert self.verbs(unit, running("d"), mtime=199.0) == []
        assert self.verbs(replace(unit, reload=True), running("d"), mtime=201.0) == ["reload"]

    def test_a_config_written_in_this_run_restarts(self) -> None:
        desired = Desired(files=(FILE,), units=(Unit("d", restart_on=(FILE.path,)),))
        stale = replace(as_file(FILE), sha256="0" * 64)
        observed = Observation(facts=LIVE, files={FILE.path: stale}, units={"d": running("d")})
        assert [c.verbs for c in difference(desired, observed)] == [(), ("restart",)]

    def test_a_watched_file_that_does_not_exist_restarts_nothing(self) -> None:
        assert self.verbs(Unit("d", restart_on=("/nowhere",)), running("d")) == []

    def test_a_stopped_unit_is_started_once_not_restarted(self) -> None:
        found = running("d", active="inactive", started=None)
        assert self.verbs(Unit("d", restart_on=(self.CONF,)), found, mtime=999.0) == ["start"]

    @pytest.mark.parametrize("active", ["inactive", "failed", "activating", "deactivating"])
    def test_what_is_not_active_is_started(self, active: str) -> None:
        assert self.verbs(Unit("d"), running("d", active=active)) == ["start"]

    @pytest.mark.parametrize(
        ("enabled", "wanted", "verbs"),
        [
            ("enabled", True, []),
            ("static", True, []),
            ("alias", True, []),
            ("disabled", True, ["enable"]),
            ("", True, ["enable"]),
            ("enabled", False, ["disable"]),
            ("static", False, []),
            ("disabled", False, []),
        ],
    )
    def test_enablement(self, enabled: str, wanted: bool, verbs: list[str]) -> None:
        assert self.verbs(Unit("d", enabled=wanted), running("d", enabled=enabled)) == verbs

    def test_none_leaves_alone(self) -> None:
        found = running("d", enabled="disabled", active="inactive")
        assert self.verbs(Unit("d", running=None, enabled=None), found) == []

    def test_masking_stops_what_runs(self) -> None:
        assert self.verbs(Unit("d", masked=True), running("d")) == ["mask", "stop"]
        assert self.verbs(Unit("d", masked=True), None) == ["mask"]

    def test_an_optional_unit_that_is_not_there_is_fine(self) -> None:
        missing = ObservedUnit("d", "not-found", "inactive", "dead", "", None)
        wanted = Unit("d", running=False, enabled=False, masked=True, optional=True)
        assert self.verbs(wanted, missing) == []
        assert self.verbs(wanted, running("d")) == ["mask", "stop"]

    def test_a_reload_that_a_cut_off_run_left_out_is_made_good(self) -> None:
        assert self.verbs(Unit("d"), running("d", needs_reload=True)) == ["daemon-reload"]

    def test_in_an_image_units_are_enabled_and_never_started(self) -> None:
        assert self.verbs(Unit("d"), None, live=False) == ["enable"]
        assert self.verbs(Unit("d", masked=True), None, live=False) == ["mask"]


class TestKernel:
    desired = Desired(sysctls=(Sysctl("net.ipv4.tcp_rmem", "4096 131072"),), modules=(Module("nvidia-uvm"),))

    def test_whitespace_is_no_difference(self) -> None:
        observed = Observation(
            facts=LIVE,
            sysctls={"net.ipv4.tcp_rmem": "4096  131072"},
            sections={"modules": Section("nvidia_uvm", 0)},
        )
        assert difference(self.desired, observed) == ()

    def test_a_container_keeps_the_kernel_settings_of_its_machine(self) -> None:
        observed = Observation(facts={"live": "1", "proc_sys_rw": "0"}, sysctls={"net.ipv4.tcp_rmem": "1"})
        assert [c.kind for c in difference(self.desired, observed)] == ["module"]

    def test_an_image_loads_and_sets_nothing(self) -> None:
        observed = Observation(facts={"live": "0", "proc_sys_rw": "1"}, sysctls={"net.ipv4.tcp_rmem": "1"})
        assert difference(replace(self.desired, reboot=Reboot("because")), observed) == ()

    def test_a_reboot_is_last(self) -> None:
        desired = Desired(files=(FILE,), reboot=Reboot("new kernel"))
        changes = difference(desired, Observation(facts=LIVE))
        assert changes[-1].summary == "reboot: new kernel"
