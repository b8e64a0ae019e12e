"""Every profile, healthy: what metalserve reads from the simulated tools is what the profile says."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.errors import MetalserveError
from metalserve.lab.profiles import load_profile, profile_names
from metalserve.lab.sim_setup import identified
from metalserve.settings import ExpectSettings
from metalserve.verify.finding import worst
from metalserve.verify.topology import check_node
from tests.lab_sim.machine import VERSION, Machine

Make = Callable[[str], Machine]
WITH_GPUS = [name for name in profile_names() if load_profile(name)["gpus"]]


def test_the_profiles_of_the_contract_are_there() -> None:
    assert set(profile_names()) >= {
        "h100-sxm-8",
        "h200-sxm-8",
        "b200-sxm-8",
        "a100-sxm-4",
        "h100-nvl-2",
        "l40s-4",
        "l4-1",
        "rtx4090-2",
        "none",
    }


@pytest.mark.parametrize("name", WITH_GPUS)
def test_profile_agrees_with_the_catalogue(name: str) -> None:
    profile = load_profile(name)
    gpu = profile["gpu"]
    assert gpu is not None
    known = next(each for each in load_gpus().gpus if each.id == gpu["catalogue_id"])
    assert gpu["name"] in known.names
    assert gpu["pci_device"] in known.pci_ids
    assert known.compute_capability == gpu["compute_capability"]
    assert known.memory.mib in (None, gpu["memory_mib"])
    assert known.memory.gb is not None
    assert 0.92 <= gpu["memory_mib"] / (known.memory.gb * 1024) <= 1.05
    assert known.power.default_w == gpu["power"]["default"]
    assert known.power.min_w in (None, gpu["power"]["minimum"])
    assert (known.pcie.gen, known.pcie.width) == (gpu["pcie_gen"], gpu["pcie_width"])
    assert known.max_sm_mhz in (None, gpu["clocks"]["sm_max"])
    assert gpu["open_modules"] == str(known.kernel_modules).removeprefix("open-")
    if known.temperature_c is not None:
        for limit in ("max_operating", "slowdown", "shutdown"):
            said = getattr(known.temperature_c, limit)
            assert said in (None, gpu["temperature"][limit]), limit  # type: ignore[literal-required]
    assert (known.nvlink is None) == (gpu["nvlink"] is None)
    if known.nvlink is not None and gpu["nvlink"] is not None:
        assert gpu["nvlink"]["slots"] - len(gpu["nvlink"]["inactive"]) == known.nvlink.links
        assert float(gpu["nvlink"]["rate"].split()[0]) == known.nvlink.smi_gb_s


@pytest.mark.parametrize("name", profile_names())
def test_parsers_read_the_profile_back(name: str, machine: Make) -> None:
    host = machine(name)
    host.ready()
    profile, hardware = host.lab.profile, host.hardware()
    gpu = profile["gpu"]
    assert hardware.problems == () or name == "none", hardware.problems
    assert [device.address for device in hardware.pci_gpus] == sorted(slot["bus"] for slot in profile["gpus"])
    assert hardware.nvswitch_count == len(profile["nvswitches"])
    assert hardware.needs_fabric_manager == profile["fabric"]["manager"]
    assert hardware.needs_nvlsm == profile["fabric"]["nvlsm"]
    assert [drive.serial for drive in hardware.nvme] == [drive.get("serial") for drive in profile["nvme"]]
    assert [drive.size_bytes for drive in hardware.nvme] == [d["size_gb"] * 10**9 for d in profile["nvme"]]
    if gpu is None:
        assert hardware.gpus == ()
        return
    assert hardware.smi_state == "ok"
    assert hardware.module_version == hardware.driver_version == hardware.module_on_disk == VERSION
    assert hardware.module_open is True
    assert hardware.nics == tuple(nic["name"] for nic in profile["nics"])
    for found, slot in zip(hardware.gpus, profile["gpus"], strict=True):
        assert (found.name, found.uuid, found.pci) == (gpu["name"], slot.get("uuid"), slot["bus"])
        assert found.memory_mib == gpu["memory_mib"]
        assert found.power_limit_w == gpu["power"]["default"]
        assert (found.pcie_gen_max, found.pcie_width_max) == (gpu["pcie_gen"], gpu["pcie_width"])
        assert found.event_reasons is not None and "hw_thermal_slowdown" not in found.event_reasons
        assert found.recovery_action == "None"
        wanted = "Completed" if profile["fabric"]["manager"] else "N/A"
        assert found.fabric_state == wanted
    if gpu["nvlink"] is not None:
        active = gpu["nvlink"]["slots"] - len(gpu["nvlink"]["inactive"])
        assert {status.active for status in hardware.nvlinks} == {active}


LINK = {
    "h100-sxm-8": "NV18",
    "h200-sxm-8": "NV18",
    "b200-sxm-8": "NV18",
    "a100-sxm-4": "NV4",
    "h100-nvl-2": "NV12",
    "rtx4090-2": "PHB",
}


@pytest.mark.parametrize("name", LINK)
def test_links_between_gpus(name: str, machine: Make) -> None:
    host = machine(name)
    host.ready()
    assert set(host.hardware().links.values()) == {LINK[name]}


def test_pcie_distances(machine: Make) -> None:
    host = machine("l40s-4")
    host.ready()
    links = host.hardware().links
    assert links[0, 1] == links[2, 3] == "NODE"
    assert links[0, 2] == links[1, 3] == "SYS"


@pytest.mark.parametrize("name", WITH_GPUS)
def test_a_healthy_machine_passes_the_topology_check(name: str, machine: Make) -> None:
    host = machine(name)
    host.ready()
    profile = host.lab.profile
    gpu = profile["gpu"]
    assert gpu is not None
    expect = ExpectSettings(gpu=gpu["catalogue_id"], count=len(profile["gpus"]), links=profile["fabric"]["kind"])
    findings = check_node(host.hardware(), expect, load_gpus())
    bad = [finding for finding in findings if finding.status in ("fail", "unknown")]
    assert not bad, bad
    assert worst(findings) in ("ok", "warn", "skipped")


@pytest.mark.parametrize("name", WITH_GPUS)
def test_xml_tells_the_same_as_text(name: str, machine: Make) -> None:
    host = machine(name)
    host.ready()
    profile = host.lab.profile
    _, xml = host.run("nvidia-smi -q -x")
    root = ElementTree.fromstring(xml.split("\n", 2)[2])
    assert root.findtext("driver_version") == VERSION
    assert [each.findtext("uuid") for each in root.findall("gpu")] == [slot.get("uuid") for slot in profile["gpus"]]
    _, text = host.run("nvidia-smi -q")
    for each in root.findall("gpu"):
        assert f"GPU {each.get('id')}\n" in text
        assert f": {each.findtext('fb_memory_usage/total')}\n" in text


def test_identities_are_of_the_host_and_stay() -> None:
    profile = load_profile("h100-sxm-8")
    one, again, other = (identified(profile, name) for name in ("a", "a", "b"))
    assert one == again
    assert {slot.get("uuid") for slot in one["gpus"]}.isdisjoint(slot.get("uuid") for slot in other["gpus"])
    assert len({slot.get("uuid") for slot in one["gpus"]}) == 8
    assert one["simulated"] is True


def test_unknown_profile_names_those_there_are() -> None:
    with pytest.raises(MetalserveError, match=r"no machine profile 'h100'.*h100-sxm-8"):
        load_profile("h100")
