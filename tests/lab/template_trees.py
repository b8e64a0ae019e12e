"""The tree of a template for hosts of the lab: the lab's base, made further by the real roles in a container.

The roles that have something to do in an image are all there. What the lab simulates of the hardware is simulated here
too: the kernel is a text in /boot, as on every lab host, and while the image is built it has the lab's `modinfo` and
the tools behind the stand-ins of NVIDIA's packages, which a lab host is given at its start.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from metalserve.lab import guest
from metalserve.lab.api import Lab
from metalserve.lab.fleet import RunningHost
from metalserve.lab.profiles import load_profile
from metalserve.lab.sim.grub import install as install_kernel
from metalserve.lab.sim.state import Lab as SimulatedHost
from metalserve.lab.sim_setup import prepare_host
from metalserve.templates.building_roles import converge
from metalserve.templates.clean import clean
from metalserve.templates.engine_image import engine_image, fetch_archive, place_archive
from metalserve.templates.spec import IMAGE_ROLES, TemplateSpec, load_spec
from metalserve.trees.mirrors import Mirrors
from tests.templates.trees import real_tree

EPOCH = 1_795_486_335
TOOLS = "opt/metalserve-lab"
MODINFO = "usr/local/sbin/modinfo"


def settings(lab: Lab, host: RunningHost) -> dict[str, Any]:
    """Return the host settings of the template: the lab's repository, and the GPUs that it is for."""
    profile, fleet = load_profile(host.profile), lab.fleet
    nvidia = {
        "url": f"{fleet.service_url}/nvidia/{{distro}}/{{arch}}/",
        "key": {"url": f"{fleet.service_url}/keys/lab.asc", "fingerprint": fleet.key_fingerprint},
    }
    expect = dict(host.expect) or {"gpu": profile["gpu"]["catalogue_id"], "count": len(profile["gpus"])}
    return {"repositories": {"nvidia": nvidia}, "expect": expect, "simulated": True}


def packed_template(lab: Lab, name: str, place: Path, *, carries: bool = False) -> Path:
    """Build the root of a template for host `name` below `place` (empty); returns it packed, as tar.zst.

    With `carries` it has the archive of the engine's image that the lab's inventory names.
    """
    host = lab.fleet.host(name)
    value = load_spec("debian-13-base").model_dump(mode="json")
    given = settings(lab, host)
    if carries:
        given["engine"] = {"image_archive": lab.fleet.image, "image_archive_sha256": lab.fleet.image_sha256}
    changed = {"roles": list(IMAGE_ROLES), "release": lab.fleet.release, "settings": given, "engine_image": carries}
    spec = TemplateSpec.model_validate({**value, **changed})
    with real_tree(place, host.suite, lab.layout) as root:
        guest.point_apt(root, lab.layout, host.suite)
        key = root / "usr/share/keyrings/metalserve-lab.asc"
        key.write_bytes((lab.layout.www / "keys/lab.asc").read_bytes())
        lend_tools(root, host)
        work, cache = place / "place", place / "cache"
        for path in (work, cache):
            path.mkdir()
        changes = converge(spec, root, epoch=EPOCH, cache=cache, place=work)
        assert {line.split(" / ")[0] for line in changes} >= {"base", "nvidia_driver", "container_runtime"}, changes
        take_tools(root)
        clean(root, spec.os, Mirrors("http://nowhere.invalid/debian"))
        if (image := engine_image(spec)) is not None:
            place_archive(image, fetch_archive(image, place / "images"), root, EPOCH)
        packed = place / "root.tar.zst"
        squeeze = ["tar", "-I", "zstd -1 -T2", "-cf", str(packed), "--numeric-owner", "--xattrs"]
        subprocess.run([*squeeze, "-C", str(root), "."], check=True)
    return packed


def lend_tools(root: Path, host: RunningHost) -> None:
    """Give a tree the simulated tools, and the kernel that lab hosts are said to run."""
    prepare_host(host.profile, root / TOOLS, host=host.name)
    modinfo = root / MODINFO
    modinfo.write_text(f'#!/bin/sh\nexec /{TOOLS}/bin/modinfo "$@"\n')
    modinfo.chmod(0o755)
    install_kernel(SimulatedHost(str(root / TOOLS), str(root)), os.uname().release)


def take_tools(root: Path) -> None:
    """Take the tools away again: a lab host has its own."""
    shutil.rmtree(root / TOOLS)
    (root / MODINFO).unlink()
