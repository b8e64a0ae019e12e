"""The stand-in image in the lab's real Docker, on a converged host: loaded by the role, run here by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from metalserve.errors import MetalserveError
from metalserve.lab.api import Lab

pytestmark = [pytest.mark.lab, pytest.mark.fleet]
IMAGE = "vllm/vllm-openai:v0.33.0"
NAME = "metalserve-test-engine"


@dataclass
class Docker:
    lab: Lab
    host: str
    weights: str

    def run(self, *words: str, options: str = "-e METALSERVE_LAB_REQUIRE_GPUS=0") -> tuple[int, str]:
        mount = f"-v {self.weights}:/models/tiny:ro"
        done = self.lab.ssh(
            self.host, f"docker run --rm --name {NAME} {options} {mount} {IMAGE} {' '.join(words)} 2>&1"
        )
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    lab = Lab()
    try:
        host = lab.hosts[0]
    except MetalserveError as error:
        pytest.skip(str(error))
    find = f"docker image inspect {IMAGE} >/dev/null 2>&1 && ls -d /srv/models/*/*/config.json"
    done = lab.ssh(host, find)
    if done.returncode != 0:
        pytest.skip(f"{host} is not converged: no image or no staged model")
    yield Docker(lab, host, done.stdout.split()[0].removesuffix("/config.json"))
    lab.ssh(host, f"docker rm -f {NAME} >/dev/null 2>&1")


def test_the_image_says_that_it_is_simulated(docker: Docker) -> None:
    done = docker.lab.ssh(docker.host, f"docker image inspect {IMAGE} --format '{{{{json .Config}}}}'")
    config = json.loads(done.stdout)
    assert config["Labels"]["simulated"] == "true"
    assert config["Entrypoint"] == ["vllm", "serve"]


def test_a_removed_flag_is_refused_as_by_the_release(docker: Docker) -> None:
    code, text = docker.run("/models/tiny", "--swap-space", "16")
    assert code == 2
    assert "error: unrecognized arguments: --swap-space 16" in text


def test_no_gpu_in_the_container(docker: Docker) -> None:
    code, text = docker.run("/models/tiny", options="-e NVIDIA_VISIBLE_DEVICES=void")
    assert code == 1
    assert "no GPU was passed to this container" in text


def test_no_weights(docker: Docker) -> None:
    code, text = docker.run("/models/nothing")
    assert code == 1
    assert "Repo id must be in the form" in text


def test_it_serves_and_stops(docker: Docker) -> None:
    serve = "/models/tiny --served-model-name probe --host 127.0.0.1 --port 18999 --max-model-len 256"
    options = f"-d --name {NAME} --network host -e METALSERVE_LAB_REQUIRE_GPUS=0 -v {docker.weights}:/models/tiny:ro"
    ask = """curl -sS -m 5 127.0.0.1:18999/v1/completions -d '{"model":"probe","prompt":"hi","max_tokens":2}'"""
    wait = "for i in $(seq 60); do curl -sf 127.0.0.1:18999/health && break; sleep 0.5; done"
    stop = f"docker stop -t 20 {NAME} >/dev/null && docker inspect {NAME} --format '{{{{.State.ExitCode}}}}'"
    script = (
        f"docker run {options} {IMAGE} {serve} >/dev/null && {wait}; {ask}; echo; {stop}; docker rm {NAME} >/dev/null"
    )
    done = docker.lab.ssh(docker.host, script)
    answer, code = done.stdout.splitlines()[:2]
    assert json.loads(answer)["choices"][0]["text"] == "Simulated completion:", done
    assert code == "0"
