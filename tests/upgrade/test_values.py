"""The record, the holders of the GPUs, the origin, the space: text and values in, values out."""

from __future__ import annotations

import subprocess

import pytest

from metalserve.catalogue.driver_reload import load_driver_reload
from metalserve.desired.model import Package
from metalserve.errors import MetalserveError
from metalserve.releases import load_release
from metalserve.upgrade.fetch import fetch_script, short_of_space, space_command
from metalserve.upgrade.holders import in_use, strangers
from metalserve.upgrade.origin import installed_driver, origin_of
from metalserve.upgrade.record import KEPT, Current, Record, current_release

OLD, NEW = load_release("2026.11-lts"), load_release("2026.11-production")
ORDER = load_driver_reload()
ID = "0123456789abcdef" * 4


def record() -> Record:
    return Record(origin=OLD, target=NEW, started="2026-11-25T10:00:00Z", controller="root@there pid 1")


class TestRecord:
    def test_it_is_read_as_it_was_written(self) -> None:
        back = record().back("install: no space").model_copy(update={"stopped": ("nvidia-dcgm.service",)})
        assert Record.read(back.text()) == back
        assert current_release(Current(release=NEW).text()) == NEW

    def test_the_goal_follows_the_direction(self) -> None:
        assert record().goal == NEW and record().back("x").goal == OLD
        assert record().end("later").result == "done"
        assert record().back("x").end("later").result == "rolled back"

    def test_the_way_back_begins_anew(self) -> None:
        tried = record().model_copy(update={"reload_tried": True, "rebooted_from": "b", "step": "verify"})
        back = tried.back("verify: no token")
        assert (back.step, back.reload_tried, back.rebooted_from) == ("drain", False, "")

    def test_the_history_is_bounded_and_newest_first(self) -> None:
        now = record().end("t0")
        for n in range(1, KEPT + 10):
            now = record().model_copy(update={"history": now.past(), "started": f"s{n}"}).end(f"t{n}")
        assert len(now.past()) == KEPT
        assert now.past()[0].ended == f"t{KEPT + 9}" and now.past()[1].ended == f"t{KEPT + 8}"

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '{"schema_version": 2}', record().text().replace('"drain"', '"dance"')]
    )
    def test_what_cannot_be_understood_is_refused_and_named(self, text: str) -> None:
        with pytest.raises(MetalserveError, match=r"upgrade\.json: cannot be understood") as caught:
            Record.read(text)
        assert caught.value.remedy
        assert current_release(text) is None


class TestHolders:
    def test_engines_and_what_is_stopped_anyway_are_no_strangers(self) -> None:
        processes = (
            f"10\tvllm\t/system.slice/docker-{ID}.scope\n"
            "11\tnvidia-persiste\t/system.slice/nvidia-persistenced.service\n"
            "12\tnv-fabricmanage\t/system.slice/nvidia-fabricmanager.service\n"
            "13\tnvidia-smi\t/user.slice\n"
        )
        containers = f'{ID} /metalserve-vllm-0 runc [{{"Driver":"cdi"}}]\n'
        assert strangers(processes, containers, ORDER.units) == ()

    def test_others_are_named(self) -> None:
        processes = (
            "20\tpython3\t/user.slice/user-0.slice/session-1.scope\n"
            f"21\ttrain\t/docker/{ID}\n"
            "22\tgpu-agent\t/system.slice/gpu-agent.service\n"
        )
        containers = f"{ID} /training nvidia null\n{'f' * 64} /idle runc [{{}}]\n{'e' * 64} /web runc null\n"
        assert strangers(processes, containers, ORDER.units) == (
            "process 20 (python3, unit session-1.scope)",
            "container training (process 21, train)",
            "process 22 (gpu-agent, unit gpu-agent.service)",
            "container idle",
        )

    def test_a_container_that_docker_does_not_tell_is_a_stranger(self) -> None:
        assert strangers(f"5\tx\t/docker/{ID}\n", "", ORDER.units) == (f"container {ID[:12]} (process 5, x)",)

    @pytest.mark.parametrize(
        ("listing", "why"),
        [
            ("nvidia_uvm 2117632 0\nnvidia 14405632 1 nvidia_uvm\n", ""),
            ("nvidia_drm 1 0\nnvidia_modeset 1 1 nvidia_drm\nnvidia 1 1 nvidia_modeset\n", ""),
            ("ext4 1 9\n", ""),
            ("nvidia_uvm 1 2\nnvidia 1 1 nvidia_uvm\n", "module nvidia_uvm is in use (reference count 2)"),
            ("nvidia 1 3 nvidia_uvm\n", "module nvidia is in use (reference count 2)"),
            ("nvidia 1 1 lustre_gpu\n", "module nvidia is in use by lustre_gpu"),
            ("nvidia 1 -\n", "the reference count of nvidia is not known"),
        ],
    )
    def test_reference_counts(self, listing: str, why: str) -> None:
        assert in_use(listing, ORDER.unload) == why


def test_a_module_goes_before_what_it_stands_on() -> None:
    order = ORDER.unload
    assert order[-1] == "nvidia"
    assert order.index("nvidia_drm") < order.index("nvidia_modeset") < order.index("nvidia")
    assert ORDER.units.index("nvidia-dcgm.service") < ORDER.units.index("nvidia-persistenced.service")
    assert ORDER.units.index("nvidia-persistenced.service") < ORDER.units.index("nvidia-fabricmanager.service")


class TestOrigin:
    def test_what_is_recorded_counts(self) -> None:
        assert origin_of(NEW, "570.1.1", None, OLD, [OLD, NEW]) == NEW

    def test_a_host_without_a_record_is_known_by_its_driver(self) -> None:
        assert origin_of(None, NEW.driver.version, None, OLD, [OLD, NEW]) == NEW
        assert origin_of(None, OLD.driver.version, None, OLD, [OLD, NEW]) == OLD

    def test_an_unknown_driver_is_a_way_back_too(self) -> None:
        found = origin_of(None, "570.211.01", "1.19.1-1", NEW, [OLD, NEW])
        assert (found.name, found.driver.branch, found.driver.version) == ("as-found-570.211.01", 570, "570.211.01")
        assert found.fabric_manager.version == "570.211.01" and found.container_toolkit.version == "1.19.1-1"
        assert Record.read(record().model_copy(update={"origin": found}).text()).origin == found

    def test_without_a_driver_there_is_nothing_to_upgrade(self) -> None:
        with pytest.raises(MetalserveError, match="no driver is installed"):
            origin_of(None, None, None, NEW, [OLD, NEW])

    @pytest.mark.parametrize(
        "packages",
        [
            {"nvidia-driver-cuda": "580.178.04-1"},
            {"libnvidia-compute-580": "580.178.04-1ubuntu1"},
            {"nvidia-dkms-580-open": "1:580.178.04-1"},
            {"nvidia-dkms-open": "580.178.04-1"},
            {"nvidia-kernel-open-dkms": "580.178.04-1", "bash": "5.2"},
        ],
    )
    def test_the_driver_is_read_from_its_packages(self, packages: dict[str, str]) -> None:
        assert installed_driver(packages) == "580.178.04"

    def test_other_packages_say_nothing(self) -> None:
        assert installed_driver({"nvidia-container-toolkit": "1.20.0-1", "nvidia-driver-pinning-580": "580-1"}) is None


class TestSpace:
    def test_of_this_machine(self) -> None:
        wanted = {"/var": 0, "/usr": 0}
        done = subprocess.run(["sh", "-c", space_command(tuple(wanted))], capture_output=True, text=True, check=True)
        assert short_of_space(done.stdout, wanted) == ()

    def test_what_lacks_is_told(self) -> None:
        text = (
            "/var /dev/sda2 10000000 9000000 1048576 90% /\n"
            "/usr /dev/sda2 10000000 9000000 1048576 90% /\n"
            "/boot /dev/sda1 500000 400000 102400 80% /boot\n"
        )
        assert short_of_space(text, {"/var": 2048, "/usr": 512, "/boot": 300}) == (
            "/var (file system /) has 1024 MiB free, 2048 MiB are needed",
            "/boot (file system /boot) has 100 MiB free, 300 MiB are needed",
        )
        assert short_of_space("", {"/var": 1}) == ("the free space of /var is not known",)

    def test_boot_without_a_file_system_of_its_own_needs_none(self) -> None:
        assert short_of_space("/boot /dev/sda2 10 9 1 90% /\n", {"/boot": 300}) == ()


def test_the_fetching_script_is_a_script_and_holds_both_ways() -> None:
    pin = Package("nvidia-driver-pinning-595.91.07")
    new, old = (pin, Package("nvidia-dkms-open", "595.91.07")), (Package("nvidia-dkms-580-open", "580.178.04"),)
    script = fetch_script(new, old, (Package("nvidia-dkms-580-open"),), pin, "2026.11-lts")
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    assert "nvidia-dkms-580-open-" in script.split("--download-only")[1], "what goes is resolved with what comes"
    assert "the way back to 2026.11-lts would be lost" in script
    same = fetch_script(new, (), (), pin, "x")
    assert "--reinstall" not in same and "way back" not in same
