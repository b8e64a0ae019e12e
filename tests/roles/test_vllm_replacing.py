"""Role vllm: what is done when units change, when the GPUs are cut anew, and when the runtime is another one."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metalserve.desired.diff import difference
from metalserve.desired.model import NotYetKnown
from metalserve.desired.node import Node
from metalserve.desired.observed import ObservedFile
from metalserve.desired.render import render
from metalserve.errors import MetalserveError
from metalserve.hardware.node import NodeHardware
from metalserve.hardware.section import Section
from roles.vllm import desired as role
from roles.vllm import records
from roles.vllm.paths import CACHE
from tests.roles.engines import DOCKER, UUID, answer, host, serving
from tests.roles.helpers import after, changes, make_node, unit, with_hardware
from tests.roles.models import REVISION


def served(node: Node, replicas: int) -> Node:
    """Return the host with its engines running, and what its units hand out as an observation tells it."""
    done = serving(node, range(8000, 8000 + replicas))
    lines = [
        f"{f.path}:{line}\n"
        for f in role.serve(node).files
        for line in (f.content or "").splitlines()
        if line.startswith("Environment=MS_GPUS=")
    ]
    told = {**done.observed.sections, "engine-units": Section("".join(lines))}
    return done.with_observation(replace(done.observed, sections=told))


def other(node: Node, manifest: str, **engine: Any) -> Node:
    return replace(host(manifest, engine=engine), observed=node.observed)


def test_engines_are_replaced_one_by_one_behind_the_gate(manifest: str) -> None:
    node = other(served(host(manifest), 4), manifest, max_model_len=4096)
    text = render(difference(role.serve(node), node.observed))
    assert text.index("export MS_MEMORY=0") < text.index("/engine-replace --roll 0 1 2 3")
    assert "systemctl restart" not in text.replace("ms_step", "")
    done = after(node, role.serve(node), sections={"engine-answers": "".join(answer(8000 + i) for i in range(4))})
    # `after` writes the units but runs no action: the engines still run as they were before
    assert len(changes(role.serve(done), done)) == 1


def test_an_engine_that_fails_again_and_again_is_begun_as_it_is_wanted_now(manifest: str) -> None:
    done = served(host(manifest, engine={"replicas": 1}), 1)
    name = "metalserve-vllm-0.service"
    failing = done.with_observation(
        replace(done.observed, units={**done.observed.units, name: unit(name, active="activating", started=None)})
    )
    assert f"systemctl start --no-block {name}" in render(difference(role.serve(failing), failing.observed))
    node = other(failing, manifest, replicas=1, max_model_len=4096)
    assert f"systemctl restart --no-block {name}" in render(difference(role.serve(node), node.observed))


def test_gpus_that_are_cut_anew_are_let_go_of_first(manifest: str) -> None:
    node = other(served(host(manifest), 4), manifest, tensor_parallel=2)
    wanted = changes(role.serve(node), node)
    assert "replace engines 0 1 2 3 by 0 1: the GPUs are cut anew, so the old ones end first" in wanted
    assert not any(c.startswith(("begin", "replace engine ")) for c in wanted)
    text = render(difference(role.serve(node), node.observed))
    assert text.index("--swap '0 1 2 3' '0 1'") < text.index("remove engine 2")


def test_compile_caches_are_kept_by_what_they_are_made_for(manifest: str) -> None:
    node = host(manifest, engine={"replicas": 1})
    wish = role.serve(node)
    key = f"v0.33.0--NVIDIA-L40S--org--model@{REVISION[:12]}"
    assert [d.path for d in wish.directories] == [f"{CACHE}/{key}/0"]
    current = wish.directories[0].path.rpartition("/")[0]
    there = {
        path: ObservedFile(path, "directory", "0755", "root", "root", time)
        for path, time in ((current, 1.0), (f"{CACHE}/before", 9.0), (f"{CACHE}/older", 8.0), (f"{CACHE}/oldest", 2.0))
    }
    seen = node.with_observation(replace(node.observed, files={**node.observed.files, **there}))
    text = render(difference(role.serve(seen), seen.observed))
    assert f"rm -rf {CACHE}/older {CACHE}/oldest\n" in text


def test_an_archive_s_image_is_named_by_what_it_is(manifest: str) -> None:
    image = "a" * 64
    archive = {"image_archive": "http://mirror/vllm.tar", "image_archive_sha256": "c" * 64}
    node = host(manifest, engine=archive, sections={"engine-image": f"sha256:{image}\n"})
    text = role.serve(node).files[0].content or ""
    assert f"\n    {image} \\\n" in text and "Environment=MS_IMAGE=vllm/vllm-openai:v0.33.0\n" in text


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "Error response from daemon: manifest for x@sha256:d not found: manifest unknown",
            "the registry has no image",
        ),
        ("error pulling image: manifest verification failed for digest sha256:d", "its content has another digest"),
        ("write /var/lib/docker/x: no space left on device", "the disk is full"),
        ("dial tcp: lookup registry: no such host", "could not pull"),
    ],
)
def test_why_an_image_could_not_be_pulled(manifest: str, tmp_path: Path, said: str, words: str) -> None:
    node = host(manifest, sections={"engine-image": Section("Error: No such image", 1)})
    pinned = node.release.vllm.model_copy(update={"digest": f"sha256:{'d' * 64}"})
    node = replace(node, release=node.release.model_copy(update={"vllm": pinned}))
    script = next(a for a in role.install(node).actions if a.name.startswith("pull")).script
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    docker.chmod(0o755)
    whole = f"set -eu\nms_fail() {{ printf '%s\\n' \"$1\" >&2; exit 1; }}\n(\n{script}\n)\n"
    done = subprocess.run(
        ["sh", "-c", whole], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, timeout=10
    )
    assert done.returncode == 1
    assert words in done.stderr and " -> " in done.stderr
    assert said in done.stdout
    docker.write_text("#!/bin/sh\nexit 0\n")
    assert subprocess.run(["sh", "-c", whole], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, timeout=10).returncode == 0


PODMAN = {**DOCKER, "podman": "5.4.2+ds1-2+b2"}


def test_podman_gets_a_quadlet_that_says_the_same(manifest: str) -> None:
    node = host(manifest, engine={"runtime": "podman", "memory_limit": "200g"}, packages=PODMAN)
    wish = role.serve(node)
    assert [f.path for f in wish.files] == [f"/etc/containers/systemd/metalserve-vllm-{i}.container" for i in range(4)]
    text = wish.files[2].content or ""
    assert "Image=docker.io/vllm/vllm-openai:v0.33.0\n" in text
    assert f"AddDevice=nvidia.com/gpu={UUID.format(2)}\n" in text
    assert "PodmanArgs=--ipc=host --memory=200g\n" in text and "PidsLimit=32768\n" in text
    assert "ExecStartPost=/usr/local/lib/metalserve/engine-probe --wait 1800 8002\n" in text
    assert "docker" not in text.replace("docker.io", "")
    assert any(p.name == "podman" for p in role.install(node).packages)
    assert "podman pull" in str(
        role.install(host(manifest, engine={"runtime": "podman"}, sections={"engine-image": Section("", 1)})).actions
    )


def test_podman_that_is_too_old_or_not_there_yet(manifest: str) -> None:
    with pytest.raises(NotYetKnown, match="after Podman is installed"):
        role.serve(host(manifest, engine={"runtime": "podman"}))
    old = {**DOCKER, "podman": "4.9.3+ds1-1ubuntu0.2"}
    with pytest.raises(MetalserveError, match=r"Podman 4.9.3\S* is older than 5.1"):
        role.serve(host(manifest, engine={"runtime": "podman"}, packages=old))


def test_the_unit_of_the_other_runtime_goes_first(manifest: str) -> None:
    done = served(host(manifest), 4)
    node = replace(host(manifest, engine={"runtime": "podman"}, packages=PODMAN))
    node = node.with_observation(replace(done.observed, packages=node.observed.packages))
    wanted = changes(role.serve(node), node)
    assert wanted[:4] == [f"remove the unit of engine {i} for another runtime" for i in range(4)]


QUADLET = "/usr/libexec/podman/quadlet"


def test_the_quadlet_stands_up_to_podman(manifest: str, tmp_path: Path) -> None:
    if not Path(QUADLET).exists():
        pytest.skip("needs podman 5")
    extra = ["--override-generation-config", '{"top_p": 0.9, "x": "5%$"}']
    node = host(manifest, engine={"runtime": "podman", "extra_args": extra}, packages=PODMAN)
    for file in role.serve(node).files:
        (tmp_path / Path(file.path).name).write_text(file.content or "")
    done = subprocess.run(
        [QUADLET, "-dryrun"], env={"QUADLET_UNIT_DIRS": str(tmp_path)}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    start = next(line for line in done.stdout.splitlines() if line.startswith("ExecStart="))
    assert f"--device nvidia.com/gpu={UUID.format(0)}" in done.stdout and "--ipc=host" in start
    assert '{\\"top_p\\": 0.9, \\"x\\": \\"5%%$$\\"}' in done.stdout


@pytest.mark.parametrize(("tensor", "links", "told"), [(2, "NODE", True), (1, "NODE", False), (2, "NV12", False)])
def test_tensor_parallel_over_pcie_through_an_iommu_is_told_before_the_start(
    manifest: str, tensor: int, links: str, told: bool
) -> None:
    def translated(hardware: NodeHardware) -> NodeHardware:
        tree = tuple(replace(n, iommu="DMA-FQ") if n.kind == "gpu" else n for n in hardware.pcie_tree)
        return replace(hardware, pcie_tree=tree, links=dict.fromkeys(hardware.links, links))

    node = with_hardware(host(manifest, engine={"tensor_parallel": tensor}), translated)
    found = role.preflight(node)
    assert [f.check for f in found if f.check == "iommu"] == ["iommu"] * told
    assert all(f.warning and "--disable-custom-all-reduce" in f.remedy for f in found)
    assert role.preflight(make_node()) == ()


def test_limits_and_restarts_are_as_the_settings_say(manifest: str) -> None:
    engine = {
        "memory_limit": "256g",
        "pids_limit": 5000,
        "start_attempts": 2,
        "restart_delay_s": 7,
        "restart_delay_max_s": 60,
        "stop_timeout_s": 30,
        "start_timeout_s": 100,
    }
    text = role.serve(host(manifest, engine=engine)).files[0].content or ""
    assert "--pids-limit 5000 --memory 256g \\\n" in text
    assert "StartLimitBurst=2\n" in text and f"StartLimitIntervalSec={(100 + 240 + 60 + 30) * 2}\n" in text
    assert "RestartSec=7\n" in text and "RestartMaxDelaySec=60\n" in text
    assert "--shutdown-timeout 30\n" in text and "docker stop -t 50 " in text and "TimeoutStopSec=80\n" in text


def test_what_the_logs_said_of_the_start(manifest: str) -> None:
    lines = [
        "(Worker pid=1) INFO 11-25 18:13:48 [runner.py:1] Model loading took 15.02 GiB memory and 9.2 seconds",
        "(EngineCore pid=1) INFO 11-25 18:13:49 [kv_cache_utils.py:1] GPU KV cache size: 38,224 tokens",
    ]
    record = {"schema": 1, "replica": 0, "ready_after_s": 30.4, "lines": lines}
    text = "".join(json.dumps({**record, "replica": i, "ready_after_s": 30.4 + i}) + "\n" for i in (1, 0, 2))
    node = host(manifest, sections={"engine-launches": text + '{"schema": 2}\nno json\n'})
    assert [launch.replica for launch in records.launches(node.observed)] == [0, 1, 2]
    assert records.in_words(node.observed) == (
        "engine 0 to 2: weights 15.02 GiB a GPU, KV cache 38,224 tokens, loaded in 9 s, a token after 30 to 32 s"
    )
    assert records.in_words(host(manifest).observed) == ""


def test_an_engine_that_lost_its_gpus_is_told(manifest: str) -> None:
    node = host(manifest, engine={"replicas": 1})
    lost = answer(8000) + "detached sh: cannot open /dev/nvidiactl: Operation not permitted\n"
    done = serving(node, range(8000, 8001), **{"engine-answers": lost})
    (finding,) = role.check(done)
    assert finding.status == "warn" and "Operation not permitted" in finding.observed
    assert changes(role.serve(done), done) == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_watch_and_beacon_stand_up_to_systemd(manifest: str, tmp_path: Path) -> None:
    group = {"hosts": {"node": "10.0.0.1", "other": "fd00::2"}}
    for file in role.watched(host(manifest, engine={"group": group, "host": "10.0.0.1"})).files:
        text = (file.content or "").replace("/usr/local/lib/metalserve/engine-", "/bin/true -")
        (tmp_path / Path(file.path).name).write_text(text.replace("/bin/true -watch", "/bin/true"))
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *tmp_path.iterdir()], capture_output=True, text=True, timeout=30
    )
    assert [line for line in said.stderr.splitlines() if "metalserve-vllm" in line] == []
