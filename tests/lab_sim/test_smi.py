"""nvidia-smi's life cycle and formats, in the words and exit codes of the real one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from metalserve.lab.sim import kmod
from tests.lab_sim.machine import Machine

Make = Callable[[str], Machine]


def test_life_cycle(machine: Make) -> None:
    host = machine("h100-sxm-8")
    assert host.run("nvidia-smi")[0] == 12, "without libnvidia-ml1 nothing answers"
    host.install_user_space()
    status, text = host.run("nvidia-smi")
    assert status == 9
    assert "couldn't communicate with the NVIDIA driver" in text
    said: list[str] = []
    assert kmod.load(host.lab, "nvidia", said.append) == 1
    assert "modprobe: FATAL: Module nvidia not found in directory /lib/modules/" in said[0]
    host.build_modules()
    assert kmod.load(host.lab, "nvidia", said.append) == 0
    assert host.run("nvidia-smi -L")[1].count("NVIDIA H100 80GB HBM3 (UUID: GPU-") == 8
    host.install_user_space("595.91.07")
    status, text = host.run("nvidia-smi")
    assert (status, text) == (
        18,
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 595.91\n",
    )
    assert host.run("rmmod nvidia")[0] == 0
    host.build_modules("595.91.07")
    assert kmod.load(host.lab, "nvidia", said.append) == 0
    assert "Driver Version: 595.91.07" in host.run("nvidia-smi")[1]


def test_nouveau_keeps_the_driver_out(machine: Make) -> None:
    host = machine("h100-sxm-8")
    host.install_user_space()
    host.build_modules()
    assert kmod.load(host.lab, "nouveau", lambda _: None) == 0
    status, text = host.run("modprobe nvidia")
    assert (status, text) == (1, "modprobe: ERROR: could not insert 'nvidia': No such device\n")
    assert "The NVIDIA probe routine was not called for 8 device(s)." in host.run("dmesg")[1]
    assert host.run("rmmod nouveau") == (1, "rmmod: ERROR: Module nouveau is in use\n")
    assert host.hardware().nouveau_loaded


def test_blackwell_refuses_the_proprietary_modules(machine: Make) -> None:
    host = machine("b200-sxm-8")
    host.build_modules(flavour="proprietary")
    assert host.run("modprobe nvidia")[0] == 1
    assert "requires use of the NVIDIA open kernel modules" in host.run("dmesg")[1]


def test_no_gpus(machine: Make) -> None:
    host = machine("none")
    host.build_modules()
    assert host.run("modprobe nvidia")[0] == 1
    assert "NVRM: No NVIDIA GPU found." in host.run("dmesg")[1]


def test_fabric_needs_its_manager_of_the_same_version(machine: Make) -> None:
    host = machine("h100-sxm-8")
    host.install_user_space()
    host.build_modules()
    host.run("modprobe nvidia")
    state = "nvidia-smi --query-gpu=fabric.state --format=csv,noheader"
    assert set(host.run(state)[1].split("\n")) == {"In Progress", ""}
    marker = host.system / "usr/share/metalserve-lab/stand-ins/nvidia-fabricmanager"
    marker.write_text("580.159.03\n")
    status, text = host.start_fabric_manager()
    assert status == 1
    assert "interface version 580.159.03 don't match with driver version 580.178.04" in text
    marker.write_text("580.178.04\n")
    assert host.start_fabric_manager() == (0, "")
    assert set(host.run(state)[1].split("\n")) == {"Completed", ""}
    assert host.run("rmmod nvidia")[1] == "rmmod: ERROR: Module nvidia is in use\n"
    host.stop()
    assert set(host.run(state)[1].split("\n")) == {"Completed", ""}, "latched: it outlives its manager"
    host.run("nvidia-smi --gpu-reset -i 2")
    assert host.run(state)[1].split("\n")[:4] == ["Completed", "Completed", "In Progress", "Completed"]
    assert host.start_fabric_manager() == (0, "")
    assert set(host.run(state)[1].split("\n")) == {"Completed", ""}
    host.stop()
    assert host.run("rmmod nvidia")[0] == 0 and host.run("modprobe nvidia")[0] == 0
    assert set(host.run(state)[1].split("\n")) == {"In Progress", ""}, "a newly loaded driver knows of no fabric"


def test_fabric_manager_has_nothing_to_do_without_switches(machine: Make) -> None:
    host = machine("l40s-4")
    host.ready()
    status, text = host.start_fabric_manager()
    assert status == 1
    assert "NV_WARN_NOTHING_TO_DO" in text


def test_nvlink5_needs_the_subnet_manager(machine: Make) -> None:
    host = machine("b200-sxm-8")
    host.install_user_space()
    host.build_modules()
    host.run("modprobe nvidia")
    (host.system / "usr/share/metalserve-lab/stand-ins/nvlsm").unlink()
    assert "NV_WARN_NOTHING_TO_DO" in host.start_fabric_manager()[1]


def test_query_formats(machine: Make) -> None:
    host = machine("l4-1")
    host.ready()
    query = "nvidia-smi --query-gpu=index,memory.total,clocks_throttle_reasons.active"
    assert host.run(f"{query} --format=csv")[1].splitlines() == [
        "index, memory.total [MiB], clocks_event_reasons.active",
        "0, 23034 MiB, 0x0000000000000001",
    ]
    assert host.run(f"{query} --format=csv,noheader,nounits")[1] == "0, 23034, 0x0000000000000001\n"
    assert host.run("nvidia-smi --query-gpu=index,foo --format=csv") == (
        2,
        'Field "foo" is not a valid field to query.\n\n',
    )


def test_selection(machine: Make) -> None:
    host = machine("h100-nvl-2")
    host.ready()
    uuid = host.lab.profile["gpus"][1].get("uuid")
    for word in ("1", str(uuid), "00000000:65:00.0"):
        assert host.run(f"nvidia-smi -L -i {word}")[1] == f"GPU 1: NVIDIA H100 NVL (UUID: {uuid})\n"
    assert host.run("nvidia-smi -L -i 7") == (6, "No devices were found\n")


def test_table_is_as_wide_as_the_real_one(machine: Make) -> None:
    host = machine("b200-sxm-8")
    host.ready()
    lines = host.run("nvidia-smi")[1].splitlines()[1:]
    assert {len(line) for line in lines if line} == {91}
    # Rows as captured from an 8 x B200 host, driver 575.57.08 (sglang issue 15293).
    assert lines[7].replace("Off |   0", "On  |   0") == (
        "|   0  NVIDIA B200                    On  |   00000000:18:00.0 Off |                    0 |"
    )
    assert lines[8] == ("| N/A   29C    P0            140W / 1000W |       0MiB / 183359MiB |      0%      Default |")
    assert lines[9] == "|                                         |                        |             Disabled |"


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("h100-nvl-2", "\t Link 4: <inactive>\n"),
        ("l40s-4", "Device does not have or support Nvlink\n"),
        ("b200-sxm-8", "\t Link 17: 53.125 GB/s\n"),
        ("a100-sxm-4", "\t Link 11: 25 GB/s\n"),
    ],
)
def test_nvlink_status(profile: str, words: str, machine: Make) -> None:
    host = machine(profile)
    host.ready()
    assert words in host.run("nvidia-smi nvlink -s")[1]


def test_peer_to_peer(machine: Make) -> None:
    bridged, desktop = machine("h100-nvl-2"), machine("rtx4090-2")
    bridged.ready()
    desktop.ready()
    assert "GPU0\tX\tOK" in bridged.run("nvidia-smi topo -p2p n")[1]
    assert "GPU0\tX\tCNS" in desktop.run("nvidia-smi topo -p2p r")[1]


def test_header_of_the_matrix_is_underlined_as_by_the_real_tool(machine: Make) -> None:
    host = machine("l4-1")
    host.ready()
    assert host.run("nvidia-smi topo -m")[1].startswith(
        "\t\x1b[4mGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\nGPU0\t X \t0-15\t0\t\tN/A\n"
    )
