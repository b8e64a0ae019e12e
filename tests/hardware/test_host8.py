"""One host read as a whole: everything is understood, and it costs little."""

from __future__ import annotations

import time

from metalserve.hardware.node import node_hardware
from metalserve.hardware.readable import KINDS, read_any
from metalserve.hardware.section import Section

from . import host8

LIMIT_MS = 50.0
"""The project's figure for one 8-GPU host. One run that stays under it is enough: a busy machine is no fault."""


def test_every_output_is_recognised_and_read_without_a_note() -> None:
    for kind, text in host8.outputs().items():
        found, read = read_any(text)
        assert (found.name, read.get("notes", [])) == (kind, [])
    assert len(KINDS["smi-xml"].read(host8.xml())["gpus"]) == 8


def test_the_node_has_all_its_parts() -> None:
    node = node_hardware({name: Section(text) for name, text in host8.sections().items()})
    assert (len(node.gpus), len(node.nvlinks), node.nvswitch_count, len(node.nvme)) == (8, 8, 4, 8)
    assert set(node.links.values()) == {"NV18"}
    assert {g.memory_mib for g in node.gpus} == {81559}


def test_reading_one_host_stays_under_its_figure() -> None:
    texts = [(KINDS[kind], text) for kind, text in host8.outputs().items()]
    best = float("inf")
    for _ in range(40):
        if best < LIMIT_MS:
            break
        started = time.process_time()
        for kind, text in texts:
            kind.read(text)
        best = min(best, (time.process_time() - started) * 1000)
    assert best < LIMIT_MS, f"{best:.1f} ms"
