"""A lab host that is installed from a template: the real roles have built it, and find nothing left to do on it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from metalserve.lab import guest, hosts, operate
from metalserve.lab.api import Lab
from metalserve.templates.building_roles import converge
from metalserve.templates.clean import clean
from metalserve.templates.spec import TemplateSpec, load_spec
from metalserve.trees.mirrors import Mirrors
from tests.lab.fleet import Fleet
from tests.templates.trees import real_tree

pytestmark = [pytest.mark.lab, pytest.mark.slow]

ROLES = ["base", "nvidia_driver", "container_runtime"]
LIVE = {"activate", "devices", "reboot", "build for the next boot"}
"""Stages that are for a machine that runs."""


def template(lab: Lab, name: str, place: Path) -> Path:
    """Build the root of a template from the lab's base and the lab's packages; returns it packed."""
    host = lab.fleet.host(name)
    value = load_spec("debian-13-base").model_dump(mode="json")
    settings = {
        "expect": dict(host.expect) or {"gpu": "l40s", "count": 4},
        "repositories": {
            "nvidia": {
                "url": f"{lab.fleet.service_url}/nvidia/{{distro}}/{{arch}}/",
                "key": {"url": f"{lab.fleet.service_url}/keys/lab.asc", "fingerprint": lab.fleet.key_fingerprint},
            }
        },
        "simulated": True,
    }
    changed = {"roles": ROLES, "release": lab.fleet.release, "settings": settings}
    spec = TemplateSpec.model_validate({**value, **changed})
    with real_tree(place, host.suite, lab.layout) as root:
        guest.point_apt(root, lab.layout, host.suite)
        key = root / "usr/share/keyrings/metalserve-lab.asc"
        key.write_bytes((lab.layout.www / "keys/lab.asc").read_bytes())
        (root / f"boot/vmlinuz-{os.uname().release}").touch()  # a lab host's kernel is the machine's
        work, cache = place / "place", place / "cache"
        for path in (work, cache):
            path.mkdir()
        assert converge(spec, root, epoch=1_795_486_335, cache=cache, place=work)
        assert converge(spec, root, epoch=1_795_486_335, cache=cache, place=work) == []
        clean(root, spec.os, Mirrors("http://nowhere.invalid/debian"))
        packed = place / "root.tar.zst"
        subprocess.run(["tar", "--zstd", "-cf", packed, "--numeric-owner", "--xattrs", "-C", root, "."], check=True)
    return packed


def test_a_host_made_from_a_template_has_nothing_left_to_do(lab: Lab, tmp_path: Path) -> None:
    name = "second"
    host = lab.fleet.host(name)
    packed = template(lab, name, tmp_path)
    hosts.reinstall(lab.layout, host, lab.fleet.hosts, root=packed)
    try:
        hosts.start(lab.layout, host)
        operate.wait_until_up(lab.layout, [host])
        assert lab.ssh(name, "docker --version").returncode == 0, "it came with the template"
        ran = Fleet(lab, tmp_path).run("--dry", "--limit", name)
        found = ran.report["hosts"][name]
        assert found["failure"] is None, ran.out
        left = [line for line in found["planned"] if line[0] in ROLES and line[1] not in LIVE]
        assert left == [], ran.out
    finally:
        lab.reset(name)
