"""A lab host that is installed from a template: the real roles have built it, and find nothing left to do on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalserve.desired.diff import difference
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.desired.render import RUN_FROM_STDIN, render
from metalserve.lab import hosts, operate
from metalserve.lab.api import Lab
from metalserve.releases import load_release
from metalserve.settings import HostSettings
from metalserve.templates.spec import IMAGE_ROLES
from roles.vllm import image
from roles.vllm.paths import ARCHIVES
from tests.lab.fleet import Fleet
from tests.lab.template_trees import packed_template

pytestmark = pytest.mark.lab

LIVE = {"activate", "devices", "format", "mount", "reboot", "build for the next boot"}
"""Stages that are for a machine that runs."""


def loads_what_it_carries(lab: Lab, name: str) -> str:
    """Have the role load the engine's image with nobody to fetch it from; returns what went wrong."""
    archive = {"image_archive": "http://127.0.0.1:9/vllm.tar", "image_archive_sha256": lab.fleet.image_sha256}
    settings = HostSettings.from_data({"release": lab.fleet.release, "engine": archive}, host=name, source="test")
    node = Node(name, settings, load_release(settings.release), Observation(facts={"live": "1"}))
    done = lab.ssh(name, RUN_FROM_STDIN, stdin=render(difference(image.install(node), node.observed)))
    there = lab.ssh(name, f"docker image inspect {image.reference(settings, node.release)} >/dev/null && ls {ARCHIVES}")
    right = done.returncode == 0 and "on this host already" in done.stdout and there.returncode == 0
    return "" if right and not there.stdout else done.stdout + done.stderr + there.stdout + there.stderr


def test_a_host_made_from_a_template_has_nothing_left_to_do(lab: Lab, tmp_path: Path) -> None:
    name = "second"
    host = lab.fleet.host(name)
    packed = packed_template(lab, name, tmp_path / "template", carries=True)
    lab.reset(name)  # its drives may hold what other tests have left there
    hosts.reinstall(lab.layout, host, lab.fleet.hosts, root=packed)
    try:
        hosts.start(lab.layout, host)
        operate.wait_until_up(lab.layout, [host])
        came = lab.ssh(name, "docker --version && nvidia-smi -L | grep -c UUID")
        assert came.returncode == 0 and came.stdout.splitlines()[-1] == "4", came.stdout + came.stderr
        ran = Fleet(lab, tmp_path).run("--dry", "--limit", name)
        found = ran.report["hosts"][name]
        assert found["failure"] is None, ran.out
        left = [line for line in found["planned"] if line[0] in IMAGE_ROLES and line[1] not in LIVE]
        assert left == [], ran.out
        assert loads_what_it_carries(lab, name) == ""
    finally:
        lab.reset(name)
