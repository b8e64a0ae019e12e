"""The storage probe reads real files here, past the page cache where the file system allows it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from metalserve.verify.measurement import Storage, read_value
from tests.probes.conftest import load, run


def test_the_largest_files_of_a_directory_are_read(tmp_path: Path) -> None:
    deep = tmp_path / "models" / "a"
    deep.mkdir(parents=True)
    (deep / "weights").write_bytes(os.urandom(9 << 20))
    (deep / "config.json").write_text("{}")
    rc, told = run("storage", "--path", str(tmp_path), "--seconds", "0.3", "--no-fio")
    assert rc == 0, told
    assert told["read_gb_s"] > 0 and told["bytes"] >= 9 << 20 and told["method"] == "threads"
    assert isinstance(told["direct"], bool) and told["temperature_start_c"] is None
    assert read_value(Storage, told).read_gb_s == told["read_gb_s"]


def test_nothing_to_read_is_an_error_not_a_rate(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        rc, told = run("storage", "--path", str(path), "--seconds", "0.1")
        assert rc == 1 and told["error"] and told["read_gb_s"] is None


@pytest.mark.parametrize(
    ("read", "rate"),
    [({"bw_bytes": 6_700_000_000, "bw": 1}, 6.7), ({"bw": 1_000_000}, 1.024)],
)
def test_fio_is_read_with_the_notes_it_puts_before_its_json(read: dict[str, int], rate: float) -> None:
    text = json.dumps({"fio version": "fio-3.36", "jobs": [{"read": {"io_bytes": 7, "runtime": 20001, **read}}]})
    told = load("storage").read_fio(f"note: both iodepth >= 1 and synchronous I/O engine are selected\n{text}")
    assert (told["read_gb_s"], told["seconds"], told["bytes"]) == (rate, 20.0, 7)
