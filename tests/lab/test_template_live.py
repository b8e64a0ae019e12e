"""A lab host that is installed from a template: the real roles have built it, and find nothing left to do on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalserve.lab import hosts, operate
from metalserve.lab.api import Lab
from metalserve.templates.spec import IMAGE_ROLES
from tests.lab.fleet import Fleet
from tests.lab.template_trees import packed_template

pytestmark = pytest.mark.lab

LIVE = {"activate", "devices", "format", "mount", "reboot", "build for the next boot"}
"""Stages that are for a machine that runs."""


def test_a_host_made_from_a_template_has_nothing_left_to_do(lab: Lab, tmp_path: Path) -> None:
    name = "second"
    host = lab.fleet.host(name)
    packed = packed_template(lab, name, tmp_path / "template")
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
    finally:
        lab.reset(name)
