"""Role upgrade: what it refuses, what it begins with, what it does after a failure. Values only."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metalserve.desired.model import File
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.hardware.section import Section
from metalserve.releases import load_release
from metalserve.upgrade.moves import Act, End, Trace
from metalserve.upgrade.record import CURRENT, RECORD, Current, Record
from roles.container_runtime.desired import TOOLKIT_PACKAGES
from roles.nvidia_driver.desired import LOAD_AT_BOOT, MANAGED_BY
from roles.upgrade import desired as role
from roles.upgrade.decide import next_move
from roles.upgrade.steps import obsolete, on, stack, stages
from tests.roles.helpers import a_file, changes, make_node, unit
from tests.roles.test_nvidia_driver import DRIVER

NOW, OTHER = load_release("2026.11-lts"), load_release("2026.11-production")
VERSION = NOW.driver.version
SPACE = "/var /dev/sda 9 9 9999999 1% /\n/usr /dev/sda 9 9 9999999 1% /\n/boot /dev/sda 9 9 9999999 1% /\n"
PACKAGES = {**DRIVER, "docker.io": "26.1.5", **dict.fromkeys(TOOLKIT_PACKAGES, f"{NOW.container_toolkit.version}")}
BOOT_LIST = MANAGED_BY + "nvidia\nnvidia-uvm\n"
PROC = f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {VERSION}  Release Build  (x)\n"


def host(
    release: str = NOW.name, *, record: Record | None = None, sections: dict[str, str] | None = None, **more: object
) -> Node:
    """A host on `NOW`: everything installed and loaded; nvidia-smi is not asked, so it does not answer."""
    files = {LOAD_AT_BOOT: BOOT_LIST}
    told = {"driver-disk": f"{VERSION}\n", "driver-module": PROC, "upgrade-space": SPACE, **(sections or {})}
    if record is not None:
        files[RECORD] = record.text()
        told["upgrade-record"] = record.text()
    given = {"packages": PACKAGES, "files": files, "modules": ("nvidia", "nvidia_uvm"), **more}
    return make_node(release=release, sections=told, **given)  # type: ignore[arg-type]


def record(**changes: object) -> Record:
    start = Record(origin=NOW, target=OTHER, started="2026-11-25T10:00:00Z", controller="root@there pid 1")
    return start.model_copy(update=changes)


def act(node: Node, trace: Trace | None = None, failure: str = "") -> Act:
    move = next_move(node, trace or Trace("root@here pid 2"), failure)
    assert isinstance(move, Act), move
    return move


def written(move: Act) -> Record:
    """The record that a move writes, which must be the first thing that it does."""
    first = move.changes[0].resource
    assert isinstance(first, File) and first.path == RECORD and first.content is not None
    return Record.model_validate_json(first.content)


def test_another_release_begins_with_fetching_both_and_records_nothing_yet() -> None:
    trace = Trace("me")
    node = host(OTHER.name)
    steps = []
    for _ in range(5):
        move = act(node, trace)
        if isinstance(move.changes[0].resource, File) and move.changes[0].resource.path == RECORD:
            break
        steps.append(move.key)
        trace.acted[move.key] += 1
        if move.key != "fetch / packages":
            break
    assert steps[0] == "fetch / repository", "the source and the key come first"


def test_the_outline_says_where_from_where_to_and_what() -> None:
    told = dict(role.outline(host(OTHER.name)))
    assert told["release"] == f"{NOW.name} -> {OTHER.name}"
    assert told["reload"].startswith(f"driver {VERSION} -> {OTHER.driver.version}")
    assert "drain" not in told, "no engine runs"


def test_services_and_engines_are_told_and_stopped_in_order() -> None:
    units = {
        name: unit(name) for name in ("metalserve-vllm-0.service", "nvidia-persistenced.service", "nvidia-dcgm.service")
    }
    told = dict(role.outline(host(OTHER.name, units=units)))
    assert told["drain"] == "1 engine(s)"
    assert told["free"] == "stop nvidia-dcgm.service, nvidia-persistenced.service"


def test_strangers_are_refused_before_anything() -> None:
    node = host(OTHER.name, sections={"gpu-holders": "77\ttrain\t/user.slice\n"})
    with pytest.raises(MetalserveError, match=r"in use by process 77 \(train\)"):
        role.outline(node)


def test_too_little_space_is_refused_before_anything() -> None:
    node = host(OTHER.name, sections={"upgrade-space": SPACE.replace("9999999", "1024", 1)})
    with pytest.raises(MetalserveError, match=r"/var .* has 1 MiB free"):
        role.outline(node)


def test_a_bare_host_is_not_upgraded() -> None:
    with pytest.raises(MetalserveError, match="no driver is installed"):
        role.outline(make_node(release=OTHER.name))


def test_a_failure_before_the_record_stops_the_run_and_nothing_else() -> None:
    with pytest.raises(MetalserveError, match="apt-get update failed"):
        next_move(host(OTHER.name), Trace("me"), "apt-get update failed")


def test_what_is_recorded_is_gone_on_with() -> None:
    move = act(host(OTHER.name, record=record(step="install")))
    assert move.step == "install" and move.key == "install / pin"
    assert written(move).step == "install" and written(move).controller == "root@here pid 2"
    assert "nvidia-driver-pinning-595" in move.changes[1].summary


def test_services_that_packages_started_are_stopped_again_and_remembered() -> None:
    units = {"nvidia-dcgm.service": unit("nvidia-dcgm.service")}
    before = record(step="install", stopped=("dcgm-exporter.service",))
    move = act(host(OTHER.name, record=before, units=units))
    assert move.step == "free"
    assert written(move).stopped == ("dcgm-exporter.service", "nvidia-dcgm.service")


def test_a_step_that_failed_turns_back_to_what_was_recorded() -> None:
    trace = Trace("me", resumed=True)
    move = act(host(OTHER.name, record=record(step="install")), trace, "no space left")
    assert move.anew and len(move.changes) == 1
    back = written(move)
    assert (back.direction, back.step, back.reason) == ("back", "drain", "install: no space left")
    assert back.goal == NOW


def test_a_step_that_has_no_effect_is_done_once_only() -> None:
    trace = Trace("me", resumed=True)
    trace.acted["install / pin"] = 1
    back = written(act(host(OTHER.name, record=record(step="install")), trace))
    assert back.direction == "back" and "still not as wanted" in back.reason


def test_a_way_back_that_fails_says_both_reasons() -> None:
    going = record(direction="back", reason="reload: the module does not load")
    with pytest.raises(MetalserveError, match=r"failed \(reload: the module.*so did the way back.*disk full") as caught:
        next_move(host(OTHER.name, record=going), Trace("me", resumed=True), "disk full")
    assert "deploys/upgrade.py --limit node --data release=2026.11-production" in (caught.value.remedy or "")


def test_the_release_that_the_inventory_names_decides_the_direction() -> None:
    back = written(act(host(NOW.name, record=record(step="install"))))
    assert back.direction == "back" and back.reason == f"asked to go back to {NOW.name}"
    third = NOW.model_copy(update={"name": "2027.01-lts"})
    with pytest.raises(MetalserveError, match=r"release 2027\.01-lts has to wait"):
        next_move(on(host(record=record()), third), Trace("me"))


@pytest.mark.parametrize("text", ["", "{}", '{"schema_version": 9}'])
def test_a_record_that_cannot_be_understood_is_left_alone(text: str) -> None:
    node = host(OTHER.name, files={RECORD: a_file(RECORD)}, sections={"upgrade-record": text})
    with pytest.raises(MetalserveError, match="cannot be understood"):
        next_move(node, Trace("me"))


class TestOtherDeploys:
    def test_an_unfinished_upgrade_stops_them_with_the_command(self) -> None:
        with pytest.raises(
            MetalserveError, match=r"unfinished: 2026\.11-lts -> 2026\.11-production, at step reload"
        ) as e:
            role.refuse_unfinished(host(record=record(step="reload")))
        assert "deploys/upgrade.py --limit node --data release=2026.11-production" in (e.value.remedy or "")
        assert "release=2026.11-lts to go back" in (e.value.remedy or "")

    def test_a_finished_one_does_not(self) -> None:
        assert changes(role.refuse_unfinished(host(record=record().end("later"))), host()) == []
        assert changes(role.refuse_unfinished(host()), host()) == []

    def test_the_proved_release_is_written_once(self) -> None:
        node = host()
        assert changes(role.remember(node), node) == [f"file {CURRENT}: absent -> written"]
        there = host(files={CURRENT: a_file(CURRENT, Current(release=NOW).text())})
        assert changes(role.remember(there), there) == []


class TestBranches:
    def test_names_that_the_new_branch_lacks_go_with_what_comes(self) -> None:
        names = ("nvidia-dkms-580-open", "libnvidia-compute-580", "nvidia-utils-580", "nvidia-compute-utils-580")
        node = make_node(
            os_id="ubuntu-24.04",
            release=OTHER.name,
            facts={"kernel": "6.8.0-90-generic"},
            packages={**dict.fromkeys(names, f"{VERSION}-1"), f"nvidia-driver-pinning-{VERSION}": "1"},
        )
        assert set(obsolete(node, NOW)) == set(names)
        new = {p.name for p in stack(node)}
        assert {"nvidia-dkms-open", "libnvidia-compute"} <= new and not new & set(names)
        back = replace(node, release=NOW)
        assert obsolete(back, OTHER) == (), "nothing of the other branch is there"

    def test_fabric_manager_moves_in_the_same_transaction_as_the_driver(self) -> None:
        node = make_node(release=OTHER.name, switches=4, packages=PACKAGES, sections={"driver-disk": f"{VERSION}\n"})
        part = next(s for s in stages("install", record()) if s.name == "packages")
        wanted = {p.name: p.version for p in part.decide(node).packages if p.present}
        assert wanted["nvidia-fabricmanager"] == wanted["nvidia-driver-cuda"] == OTHER.driver.version

    def test_on_debian_no_name_changes(self) -> None:
        assert obsolete(host(OTHER.name), NOW) == ()


def test_nothing_to_do_is_an_end_with_the_release() -> None:
    from metalserve.hardware.node import Gpu
    from tests.roles.helpers import with_hardware

    node = with_hardware(
        host(sections={"upgrade-current": Current(release=NOW).text()}),
        lambda h: replace(
            h, gpus=tuple(Gpu(i) for i in range(8)), smi_state="ok", driver_version=VERSION,
            module_version=VERSION, module_on_disk=VERSION, module_open=True,
        ),
    )  # fmt: skip
    move = next_move(node, Trace("me"))
    if isinstance(move, Act):
        raise AssertionError(move.changes)
    assert isinstance(move, End) and move.proofs["release"] == NOW.name
    assert role.outline(node) == []


def test_a_mismatch_is_no_reason_to_do_nothing() -> None:
    node = host(sections={"driver-module": PROC.replace(VERSION, "580.159.03"), "upgrade-current": Section("", 1)})  # type: ignore[dict-item]
    told = dict(role.outline(node))
    assert told["release"] == f"{NOW.name}: repaired"
    assert told["reload"].startswith("driver 580.159.03 -> 580.178.04")


def test_a_pin_whose_preferences_were_removed_is_put_back_with_the_packages() -> None:
    part = next(s for s in stages("install", record(target=NOW)) if s.name == "packages")
    lost = host(packages={**PACKAGES, "nvidia-driver-cuda": "595.91.07-1"})
    words = f"put the preferences of nvidia-driver-pinning-{VERSION} back"
    assert words in changes(part.decide(lost), lost)
    there = {f"/etc/apt/preferences.d/nvidia-driver-pinning-{VERSION}.pref": a_file("x"), LOAD_AT_BOOT: BOOT_LIST}
    kept = host(packages={**PACKAGES, "nvidia-driver-cuda": "595.91.07-1"}, files=there)
    assert words not in changes(part.decide(kept), kept)
    assert words not in changes(part.decide(host()), host()), "a host that is in order is left alone"


def test_a_repair_that_took_two_tries_is_no_failure_but_a_rollback_is() -> None:
    def ended(done: Record) -> End:
        move = next_move(host(OTHER.name, record=done), Trace("me", resumed=True))
        assert isinstance(move, End)
        return move

    repaired = record(origin=OTHER).back("install: apt-get install failed").end("later")
    assert ended(repaired).proofs["upgrade"] == f"{OTHER.name} repaired" and not ended(repaired).failed
    rolled_back = ended(record().back("reload: it does not load").end("later"))
    assert "failed at step reload: it does not load; rolled back to 2026.11-lts" in rolled_back.failed
    edited = OTHER.model_copy(update={"description": "another content under the same name"})
    assert ended(record(origin=edited).back("verify: no token").end("later")).failed
