"""The bandwidth probe on the CPU: its logic and its JSON are proved without a GPU, and it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalserve.verify.measurement import Nvlink, read_value
from tests.probes.conftest import load, run


@pytest.mark.usefixtures("torch")
def test_two_processes_with_gloo(tmp_path: Path) -> None:
    rc, told = run("bandwidth", "--cpu", "2", "--sizes", "65536,1048576", "--out", str(tmp_path / "told.json"))
    assert rc == 0, told
    assert (told["backend"], told["simulated"], told["wrong"], told["error"]) == ("gloo", False, 0, None)
    assert [(row["gpus"], row["size_bytes"]) for row in told["all_reduce"]] == [([0, 1], 65536), ([0, 1], 1048576)]
    for row in told["all_reduce"]:
        # for two, what the bus carries is what the program sees: 2 (n - 1) / n is 1
        assert row["busbw_gb_s"] == row["algbw_gb_s"] > 0
    (pair,) = told["pairs"]
    assert (pair["a"], pair["b"], pair["right"]) == (0, 1, True) and pair["gb_s"] > 0
    assert (tmp_path / "told.json").read_text().strip() == _line(told)
    value = read_value(Nvlink, told)
    assert value.largest() is not None and value.backend == "gloo"


def _line(told: dict[str, object]) -> str:
    import json

    return json.dumps(told)


@pytest.mark.usefixtures("torch")
def test_every_pair_of_three_is_measured() -> None:
    _, told = run("bandwidth", "--cpu", "3", "--sizes", "65536", "--iterations", "1")
    assert [(p["a"], p["b"]) for p in told["pairs"]] == [(0, 1), (0, 2), (1, 2)]
    assert [row["gpus"] for row in told["all_reduce"]] == [[0, 1], [0, 1, 2]]
    three = told["all_reduce"][1]
    assert three["busbw_gb_s"] == pytest.approx(three["algbw_gb_s"] * 4 / 3, rel=0.02)


@pytest.mark.usefixtures("torch")
def test_what_takes_too_long_is_ended_and_said() -> None:
    rc, told = run("bandwidth", "--cpu", "2", "--timeout", "0")
    assert rc == 1
    assert told["error"] == "no result within 0 s"


def test_without_pytorch_or_gpus_it_says_so() -> None:
    rc, told = run("bandwidth")
    assert rc == 1
    assert told["error"] == "PyTorch sees no GPU" or told["error"].startswith("PyTorch cannot be imported")


@pytest.mark.parametrize(
    ("log", "environment", "nvls"),
    [
        ("NCCL INFO Connected NVLS tree", {}, True),
        ("NCCL INFO NVLS comm 0x55d0c8 headRank 0 nHeads 8", {}, True),
        ("NCCL INFO NVLS multicast support is not available on dev 0", {}, False),
        ("NCCL INFO NVLS multicast support is available on dev 0 (NVLS_NCHANNELS 16)", {}, None),
        ("NCCL INFO Connected NVLS tree", {"NCCL_NVLS_ENABLE": "0"}, False),
        ("", {}, None),
    ],
)
def test_nvls_is_told_from_nccls_log(log: str, environment: dict[str, str], nvls: bool | None) -> None:
    assert load("bandwidth")._nvls(log, environment) is nvls
