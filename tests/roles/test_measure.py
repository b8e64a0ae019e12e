"""Role measure: what it refuses to disturb, what it tells the host's script, and what it makes of the answers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from metalserve.desired.node import Node
from metalserve.desired.observed import ObservedUnit
from metalserve.errors import MetalserveError
from metalserve.hardware.node import Gpu, NodeHardware
from metalserve.hardware.section import Section
from metalserve.verify.finding import Finding
from roles.measure import desired as role
from roles.vllm.image import SECTION
from tests.roles.helpers import make_node, unit, with_hardware

DRIVER = {"docker.io": "26.1.5+dfsg1-9"}
IMAGE = {SECTION: f"sha256:{'c' * 64}"}
ENGINE = "metalserve-vllm-0.service"


def node(
    *,
    units: Mapping[str, ObservedUnit] | None = None,
    sections: Mapping[str, Any] | None = None,
    smi: str = "ok",
    gpus: int = 8,
    **verify: Any,
) -> Node:
    made = make_node(
        packages=DRIVER,
        units=units,
        sections=IMAGE if sections is None else sections,
        settings={"verify": {"depth": "standard", **verify}},
    )

    def hardware(seen: NodeHardware) -> NodeHardware:
        cards = tuple(Gpu(index=n, uuid=f"GPU-{n}", device_id="2330") for n in range(gpus))
        return replace(seen, smi_state=smi, gpus=cards)  # type: ignore[arg-type]

    return with_hardware(made, hardware)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (
            node(units={ENGINE: unit(ENGINE)}),
            "1 engine(s) hold the GPUs: metalserve-vllm-0.service; nothing was disturbed",
        ),
        (node(units={ENGINE: unit(ENGINE, active="activating")}), "hold the GPUs"),
        (node(sections={SECTION: Section("No such image", 1)}), "the image that the probes run in is not on the host"),
        (node(sections={}), "the image that the probes run in is not on the host"),
        (node(smi="no-driver"), "nvidia-smi does not answer (no-driver)"),
        (node(gpus=0), "nvidia-smi does not answer"),
    ],
)
def test_what_stands_in_the_way_is_said_and_condemns_nobody(host: Node, words: str) -> None:
    found = role.obstacle(host)
    assert found is not None and words in found.observed and found.remedy
    assert found.status == "inconclusive" and not found.failing


@pytest.mark.parametrize(
    "host",
    [
        node(),
        node(units={ENGINE: unit(ENGINE)}, stop_engines=True),
        node(units={ENGINE: unit(ENGINE, active="failed")}),
        node(units={"metalserve-measure.service": unit("metalserve-measure.service"), ENGINE: unit(ENGINE)}),
    ],
)
def test_nothing_stands_in_the_way(host: Node) -> None:
    assert role.obstacle(host) is None


def test_engines_that_a_measurement_stopped_are_no_fault_of_theirs() -> None:
    silent = Finding("answers", "fail", "engine 0", "a completion", "no answer")
    other = Finding("xid", "fail", "GPU 0", "none", "79")
    measuring = node(units={"metalserve-measure.service": unit("metalserve-measure.service")})
    assert not role.excused(measuring, silent).failing
    assert "no answer" in role.excused(measuring, silent).observed
    assert role.excused(measuring, other) is other
    assert role.excused(node(), silent) is silent


def read(text: str) -> dict[str, str]:
    """Have a shell read the parameters, as the host's script does."""
    done = subprocess.run(["sh", "-c", f"{text}set"], capture_output=True, text=True, check=True, env={})
    return {k: v.strip("'") for k, _, v in (line.partition("=") for line in done.stdout.splitlines()) if k[:3] == "MS_"}


def test_the_parameters_are_what_the_shell_reads() -> None:
    told = read(role.parameters(node(soak_seconds=120, nvls="off")))
    assert (told["MS_SECONDS"], told["MS_DCGM"], told["MS_NVLS"], told["MS_STOP_ENGINES"]) == ("120", "2", "off", "0")
    assert told["MS_IMAGE"].startswith("vllm/vllm-openai")
    assert told["MS_LIMIT_C"] == "89", "the catalogue's slowdown temperature of an H100"
    assert (
        "NVIDIA_VISIBLE_DEVICES=GPU-0,GPU-1" in told["MS_GPU_OPTIONS"] or "nvidia.com/gpu=all" in told["MS_GPU_OPTIONS"]
    )
    deep = read(role.parameters(node(depth="deep", stop_engines=True)))
    assert (deep["MS_SECONDS"], deep["MS_DCGM"], deep["MS_STOP_ENGINES"]) == ("3600", "3", "1")


def test_what_is_sent_is_a_shell_script() -> None:
    for text in (role.script(node(), "attach"), role.script(node(), "start"), role.follow(15), role.RESULT):
        done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_an_answer_that_broke_off_is_refused() -> None:
    assert role.sections(["noise", "@@ms:soak", "{}", "@@ms:failed", "", "@@ms:end"])["soak"] == "{}"
    with pytest.raises(MetalserveError, match="broke off"):
        role.sections(["@@ms:soak", "{}"])


def test_answers_become_one_measurement() -> None:
    soak = {"backend": "cuda", "seconds": 5.0, "interval_s": 1, "gpus": [], "simulated": True, "stopped": None}
    storage = {"path": "/dev/measured", "device": "nvme0n1", "read_gb_s": 6.5, "direct": True, "error": None}
    answer = {"soak": json.dumps(soak), "storage": json.dumps(storage), "failed": "", "running": "", "end": ""}
    told = role.assembled(node(), answer, "2026-11-25T14:00:00Z")
    assert told.simulated and told.depth == "standard" and told.nvlink is None
    assert told.storage is not None and told.storage.path == "/srv/models"
    missing = [f for f in role.judged(node(), told) if f.check == "measurement"]
    assert [f.observed for f in missing] == ["no answer from: bandwidth"]


def test_a_probe_that_says_nonsense_is_inconclusive() -> None:
    told = role.assembled(node(), {"bandwidth": "Traceback", "soak": '{"error": "ended with 125: no image"}'}, "now")
    findings = role.judged(node(), told)
    assert findings and all(f.status == "inconclusive" for f in findings)
    assert any("no image" in f.observed for f in findings) and any("Traceback" in f.observed for f in findings)


def test_what_the_host_refused_is_said_with_its_remedy() -> None:
    told = role.assembled(node(), {"failed": "the GPUs are in use by process 7 -> end it"}, "now")
    (found,) = role.judged(node(), told)
    assert "in use by process 7" in found.observed and found.remedy == "end it"
