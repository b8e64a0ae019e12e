from __future__ import annotations

import subprocess

import pytest
from pyinfra.api.exceptions import FactProcessError

from metalserve.facts.hardware import Hardware
from tests.seam.conftest import BARE


def test_a_host_without_gpus_is_read() -> None:
    done = subprocess.run(Hardware().command(), shell=True, capture_output=True, text=True, check=False, timeout=120)
    told = Hardware().process(done.stdout.splitlines())
    assert told["schema"] == 1
    assert told["smi_state"] in ("absent", "no-driver", "mismatch", "error", "ok")
    assert isinstance(told["pcie_tree"], list) and told["host"] is not None


def test_sections_that_lack_are_named() -> None:
    told = Hardware().process(BARE.splitlines())
    assert "lspci" in told["unread"] and told["gpus"] == []


@pytest.mark.parametrize("answer", [[], ["Permission denied"], BARE.splitlines()[:4]])
def test_an_answer_that_cannot_be_used_fails_one_host(answer: list[str]) -> None:
    with pytest.raises(FactProcessError):
        Hardware().process(answer)
