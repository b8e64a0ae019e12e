"""No text makes a parser raise anything but `ParseError`, and none makes `node_hardware` or the checks raise at all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.commands import COMMANDS
from metalserve.hardware.node import node_hardware
from metalserve.hardware.parsers.driver import parse_loaded_driver, parse_modules, parse_version
from metalserve.hardware.parsers.kernel_log import parse_kernel_log
from metalserve.hardware.parsers.lspci import parse_lspci, parse_pcie_links
from metalserve.hardware.parsers.nvlink import parse_nvlink_status
from metalserve.hardware.parsers.nvme import parse_nvme_list
from metalserve.hardware.parsers.smi import parse_smi_csv, parse_smi_list, smi_failure
from metalserve.hardware.parsers.smi_q import parse_smi_q
from metalserve.hardware.parsers.text import ParseError
from metalserve.hardware.parsers.topo import parse_topo
from metalserve.hardware.section import Section
from metalserve.releases import load_release
from metalserve.settings import ExpectSettings
from metalserve.verify.next_boot import next_boot
from metalserve.verify.topology import check_node
from tests.verify.boots import Boot

from . import machine_samples, samples

PARSERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "topo": (parse_topo, samples.TOPO_2_BRIDGED),
    "nvlink": (parse_nvlink_status, samples.NVLINK_PAIR),
    "csv": (parse_smi_csv, samples.SMI_CSV),
    "list": (parse_smi_list, samples.SMI_LIST),
    "q": (parse_smi_q, samples.SMI_Q),
    "failure": (smi_failure, "Failed to initialize NVML: Driver/library version mismatch"),
    "lspci": (parse_lspci, samples.LSPCI),
    "links": (parse_pcie_links, samples.LSPCI_LINKS),
    "nvme": (parse_nvme_list, samples.NVME_V2),
    "nvme-1": (parse_nvme_list, samples.NVME_V1),
    "nvme-table": (parse_nvme_list, samples.NVME_TABLE),
    "kernel-log": (parse_kernel_log, samples.KERNEL_LOG),
    "module": (parse_loaded_driver, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.129.06  Thu\n"),
    "version": (parse_version, "Fabric Manager version is : 580.178.04\n"),
    "modules": (parse_modules, "nvidia 1 2\n"),
}

SECTIONS = {
    "lspci": samples.LSPCI,
    "nvme-links": samples.LSPCI_LINKS,
    "nvme-list": samples.NVME_V2,
    "nvme-controllers": "nvme0\t0000:57:00.0\n",
    "nvlink5-bridges": "",
    "modules": "nvidia\n",
    "driver-module": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.178.04  Release Build\n",
    "driver-disk": "580.178.04\n",
    "fm-version": "Fabric Manager version is : 580.178.04\n",
    "smi-csv": samples.SMI_CSV,
    "smi-q": samples.SMI_Q,
    "topo": samples.TOPO_2_BRIDGED,
    "nvlink-status": samples.NVLINK_PAIR,
    "kernel-log": samples.KERNEL_LOG,
    "pcie-tree": machine_samples.PCIE_TREE,
    "pcie-acs": machine_samples.ACS,
    "numa": machine_samples.NUMA,
    "host-state": machine_samples.HOST_STATE,
    "drive-health": machine_samples.DRIVE_HEALTH,
    "xid-history": machine_samples.XID_HISTORY,
    "raid": machine_samples.MDSTAT,
    "next-boot": Boot().text,
}


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """A text with parts cut out, doubled, moved or replaced."""
    for _ in range(draw(st.integers(0, 4))):
        a = draw(st.integers(0, len(text)))
        b = draw(st.integers(a, min(len(text), a + 60)))
        middle = draw(st.sampled_from(["", text[a:b] * 2, "\n", "\t", " ", "N/A", "ERR!", "-1", "9" * 40, "\x00", "é"]))
        text = text[:a] + middle + text[b:]
    return text


@pytest.mark.parametrize("name", sorted(PARSERS))
@settings(max_examples=150, deadline=timedelta(seconds=2))
@given(data=st.data())
def test_parsers_raise_only_their_own_error(name: str, data: st.DataObject) -> None:
    parser, sample = PARSERS[name]
    text = data.draw(st.one_of(damaged(sample), st.text(max_size=400)))
    try:
        parser(text)
    except ParseError as error:
        assert str(error)


@settings(max_examples=60, deadline=timedelta(seconds=3))
@given(data=st.data())
def test_merging_and_checking_never_raise(data: st.DataObject) -> None:
    sections = {}
    for name in COMMANDS:
        if data.draw(st.booleans()) or data.draw(st.booleans()):
            rc = data.draw(st.sampled_from([0, 0, 0, 1, 127, 124]))
            sections[name] = Section(data.draw(damaged(SECTIONS[name])), rc)
    hardware = node_hardware(sections)
    expect = ExpectSettings(gpu=data.draw(st.sampled_from([None, "h100-sxm", "l40s", "h100-nvl"])), count=2)
    outlook = next_boot(hardware, load_release("2026.11-lts"), today=date(2026, 11, 25))
    for finding in (*check_node(hardware, expect, load_gpus()), *outlook.findings):
        assert str(finding)


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_parsers_do_not_hang_on_long_hostile_text(name: str) -> None:
    parser, sample = PARSERS[name]
    started = time.process_time()
    for text in ("a" * 200_000, "[" * 50_000, "GPU0 " * 40_000, "0000:" * 40_000, sample * 200, "Xid (" * 40_000):
        with contextlib.suppress(ParseError):
            parser(text)
    assert time.process_time() - started < 5
