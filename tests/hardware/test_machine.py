from __future__ import annotations

import subprocess
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.hardware.commands import COMMANDS
from metalserve.hardware.machine_commands import MACHINE_COMMANDS
from metalserve.hardware.merge import contradictions, machine
from metalserve.hardware.node import node_hardware
from metalserve.hardware.parsers.drive_health import drive_troubles, parse_drive_health
from metalserve.hardware.parsers.host_state import parse_host_state, parse_mdstat, parse_numa
from metalserve.hardware.parsers.pcie_tree import parse_acs, parse_pcie_tree
from metalserve.hardware.parsers.text import ParseError
from metalserve.hardware.reader import Reader
from metalserve.hardware.section import Section
from metalserve.hardware.values import Gpu, PciDevice

from . import machine_samples as samples

PARSERS = {
    parse_pcie_tree: samples.PCIE_TREE,
    parse_acs: samples.ACS,
    parse_numa: samples.NUMA,
    parse_host_state: samples.HOST_STATE,
    parse_mdstat: samples.MDSTAT,
    parse_drive_health: samples.DRIVE_HEALTH,
    drive_troubles: "[ 1.0] nvme nvme0: I/O tag 1 QID 1 timeout, aborting\n",
}


def test_the_tree_has_what_matters_and_all_above_it() -> None:
    scan = parse_pcie_tree(samples.PCIE_TREE)
    assert [(n.address, n.parent, n.kind) for n in scan.nodes] == [
        ("pci0000:17", None, "root"),
        ("0000:17:01.0", "pci0000:17", "bridge"),
        ("0000:3b:00.0", "0000:17:01.0", "gpu"),
        ("pci0000:5d", None, "root"),
        ("0000:5d:02.0", "pci0000:5d", "bridge"),
        ("0000:5e:00.0", "0000:5d:02.0", "nic"),
        ("pci0000:e0", None, "root"),
        ("0000:e0:00.5", "pci0000:e0", "other"),
        ("pci10000:e1", "0000:e0:00.5", "root"),
        ("10000:e1:00.0", "pci10000:e1", "bridge"),
        ("10000:e2:00.0", "10000:e1:00.0", "nvme"),
    ]
    gpu = scan.nodes[2]
    assert (gpu.gen_current, gpu.gen_max, gpu.width_current, gpu.numa) == (1, 4, 16, 0)
    assert (gpu.driver, gpu.iommu, gpu.description) == ("nvidia", "DMA-FQ", "10de:26b9")


def test_network_cards_without_their_virtual_functions() -> None:
    (nic,) = parse_pcie_tree(samples.PCIE_TREE).nics
    assert (nic.name, nic.netdev, nic.rdma) == ("enp94s0np0", "enp94s0np0", "mlx5_0")
    assert (nic.state, nic.speed_gbit, nic.link_layer, nic.numa) == ("up", 200.0, "Ethernet", None)


def test_a_device_in_two_places_is_refused() -> None:
    with pytest.raises(ParseError, match="hangs below"):
        parse_pcie_tree("/sys/devices/pci0000:17/0000:3b:00.0\n/sys/devices/pci0000:5d/0000:3b:00.0\n")
    with pytest.raises(ParseError, match="no PCI device"):
        parse_pcie_tree("sh: cannot cd to /sys/bus/pci/devices\n")


def test_acs_control_by_port() -> None:
    assert parse_acs(samples.ACS) == {"0000:17:01.0": True, "0000:5d:02.0": False}


def test_numa_nodes_and_arrays() -> None:
    first, second = parse_numa(samples.NUMA)
    assert (first.cpus, first.memory_mib, second.index) == ("0-31,64-95", 515778, 1)
    arrays = {a.name: (a.level, a.wanted, a.working) for a in parse_mdstat(samples.MDSTAT)}
    assert arrays == {"md127": ("raid1", 2, 2), "md1": ("raid1", 2, 1), "md0": ("raid0", None, None)}
    assert parse_mdstat("Personalities : \nunused devices: <none>\n") == ()


def test_the_state_of_a_host() -> None:
    host = parse_host_state(samples.HOST_STATE)
    assert (host.virtual, host.guest, host.container) == ("none", False, False)
    assert host.governors == ("performance", "schedutil")
    assert (host.thp, host.secure_boot, host.clock_synchronized) == ("madvise", True, False)
    assert (host.docker_memlock, host.docker_nofile, host.hugepages_free) == ("8388608", "infinity", 16)


def test_secrets_of_the_command_line_stay_out() -> None:
    host = parse_host_state("kernel=6.1\ncmdline=ro systemd.set_credential=x:hush rd.luks.key=/k iommu=pt\n")
    assert host.cmdline == "ro systemd.set_credential=*** rd.luks.key=*** iommu=pt"


@pytest.mark.parametrize(
    ("lines", "virtual", "guest", "container"),
    [
        ("virt=kvm\nhypervisor=1", "kvm", True, False),
        ("virt=\nhypervisor=1", "vm-other", True, False),
        ("virt=\nhypervisor=0", None, False, False),
        ("virt=systemd-nspawn\nhypervisor=1", "systemd-nspawn", False, True),
    ],
)
def test_what_kind_of_machine_it_is(lines: str, virtual: str | None, guest: bool, container: bool) -> None:
    host = parse_host_state(f"kernel=6.1\n{lines}\n")
    assert (host.virtual, host.guest, host.container) == (virtual, guest, container)


@pytest.mark.parametrize(
    ("said", "synchronized"),
    [
        ("Leap status     : Normal", True),
        ("Leap status     : Insert second", True),
        ("NTPSynchronized=yes", True),
        ("NTPSynchronized=no", False),
        ("506 Cannot talk to daemon", None),
        ("", None),
    ],
)
def test_the_clock(said: str, synchronized: bool | None) -> None:
    assert parse_host_state(f"kernel=6.1\nclock={said}\n").clock_synchronized is synchronized


def test_smart_logs_of_several_drives_and_versions() -> None:
    first, second, third = parse_drive_health(samples.DRIVE_HEALTH)
    assert (first.critical_warning, first.percent_used, first.temperature_c) == (0, 1, 37.0)
    assert (second.critical_warning, second.percent_used, second.media_errors) == (5, 104, 12)
    assert (third.controller, third.critical_warning, third.percent_used) == ("/dev/nvme2", None, None)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("nvme nvme0: I/O tag 512 (1200) QID 1 timeout, completion polled", "nvme0"),
        ("nvme nvme3: controller is down; will reset: CSTS=0x3, PCI_STATUS=0x10", "nvme3"),
        ("nvme1n1: I/O Error (sct 0x2 / sc 0x81)", "nvme1"),
        ("nvme nvme0: 32/0/0 default/read/poll queues", None),
        ("nvme nvme0: pci function 0000:57:00.0", None),
        ("nvme nvme0: Shutdown timeout set to 10 seconds", None),
    ],
)
def test_drive_troubles(line: str, name: str | None) -> None:
    assert list(drive_troubles(f"[  12.5] {line}\n")) == ([name] if name else [])


def test_contradictions_are_said() -> None:
    tree = Section(samples.PCIE_TREE)
    found = machine(Reader({"pcie-tree": tree}))
    gpu = Gpu(0, pci="0000:3b:00.0", pcie_width_current=8)
    elsewhere = PciDevice("0000:af:00.0", "0302", "10de", "26b9")
    said = contradictions(found, (elsewhere,), (gpu,), {0: "1"})
    assert said == [
        "GPU 0000:3b:00.0 is listed by sysfs, but not by lspci",
        "GPU 0000:af:00.0 is listed by lspci, but not by sysfs",
        "GPU 0: nvidia-smi says PCIe x8, sysfs x16",
        "GPU 0: topo says NUMA node 1, sysfs 0",
    ]
    here = PciDevice("0000:3b:00.0", "0302", "10de", "26b9")
    agreeing = Gpu(0, pci="0000:3b:00.0", pcie_width_current=16)
    assert contradictions(found, (here,), (agreeing,), {0: "0"}) == []


def test_names_come_from_lspci_or_nvidia_smi() -> None:
    lspci = Section("0000:3b:00.0 3D controller [0302]: NVIDIA Corporation AD102GL [L40S] [10de:26b9] (rev a1)\n")
    hardware = node_hardware({"pcie-tree": Section(samples.PCIE_TREE), "lspci": lspci})
    assert hardware.pcie_tree[2].description == "NVIDIA Corporation AD102GL [L40S]"


@pytest.mark.parametrize(("virtual", "bridges", "needed"), [("none", "", True), ("kvm", "", False), ("kvm", "b", True)])
def test_fabric_manager_in_a_guest_only_with_the_board_s_bridges(virtual: str, bridges: str, needed: bool) -> None:
    b200 = "0000:1b:00.0 3D controller [0302]: NVIDIA Corporation [B200] [10de:2901] (rev a1)\n"
    vpd = "0000:05:00.0 Infiniband controller: ConnectX-7\n\t\t[V3] Vendor specific: SMDL=SW_MNG\n"
    hardware = node_hardware(
        {
            "lspci": Section(b200),
            "host-state": Section(f"kernel=6.8\nvirt={virtual}\n"),
            "nvlink5-bridges": Section(vpd if bridges else ""),
        }
    )
    assert hardware.needs_fabric_manager is needed


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (samples.XID_HISTORY, 3),
        ("\n", 0),
        ("journalctl: not found\n", None),
        ("journalctl: not searched in time\n\n", None),
    ],
)
def test_xids_of_earlier_boots(text: str, count: int | None) -> None:
    hardware = node_hardware({"xid-history": Section(text)})
    assert (None if hardware.xid_history is None else len(hardware.xid_history)) == count
    assert not any(p.startswith("xid-history") for p in hardware.problems)


def test_what_was_not_observed_is_unread_and_what_failed_is_told() -> None:
    assert {"pcie-tree", "host-state", "drive-health"} <= set(node_hardware({}).unread)
    hung = node_hardware({"pcie-tree": Section("", 124), "host-state": Section("sh: not found", 127)})
    assert hung.pcie_tree == ()
    assert hung.host is None
    assert any(p.startswith("pcie-tree: the command did not end in time") for p in hung.problems)


@pytest.mark.parametrize("name", sorted(MACHINE_COMMANDS))
def test_commands_run_on_this_machine_in_no_time(name: str) -> None:
    started = time.monotonic()
    done = subprocess.run(["sh", "-c", COMMANDS[name]], capture_output=True, text=True, timeout=30)
    assert time.monotonic() - started < 5, "every one is ended by its own limits"
    if name == "host-state":
        assert parse_host_state(done.stdout).cpus
    if name in ("pcie-tree", "numa") and done.returncode == 0:
        assert done.stdout.strip()


@pytest.mark.parametrize("parser", list(PARSERS), ids=lambda p: p.__name__)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_parsers_raise_only_their_own_error(parser: object, data: st.DataObject) -> None:
    text = PARSERS[parser]  # type: ignore[index]
    a = data.draw(st.integers(0, len(text)))
    b = data.draw(st.integers(a, len(text)))
    middle = data.draw(st.one_of(st.sampled_from(["", "\n", "9" * 40, "-1", "{", "\x00"]), st.text(max_size=40)))
    try:
        parser(data.draw(st.sampled_from([text[:a] + middle + text[b:], middle])))  # type: ignore[operator]
    except ParseError as error:
        assert str(error)


@pytest.mark.parametrize("parser", list(PARSERS), ids=lambda p: p.__name__)
def test_parsers_do_not_hang_on_long_hostile_text(parser: object) -> None:
    started = time.process_time()
    for text in ("a" * 200_000, "0000:" * 40_000, "/pci0000:00" * 20_000, "nvme0: " * 30_000, "{" * 100_000):
        try:
            parser(text)  # type: ignore[operator]
        except ParseError:
            continue
    assert time.process_time() - started < 5
