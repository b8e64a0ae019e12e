"""A real vLLM on hosts of the lab: its image, a release that names it, and the settings of the host that gets it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import yaml

from metalserve.lab.engine.archive import file_digest
from metalserve.lab.engine.real import VERSION, build_real_image, settings, write_release
from metalserve.lab.fleet import running_fleet
from metalserve.lab.layout import Layout
from metalserve.lab.system import read_json, write_json

IMAGE = f"images/vllm-cpu-{VERSION}.tar"


def prepare(layout: Layout, site_packages: Path, host: str | None = None) -> tuple[str, dict[str, str]]:
    """Make the image, unless it is there, and what tells a run to use it.

    Returns:
        The host that shall have it (the first one when none is named), and the environment of the run.

    Raises:
        MetalserveError: the lab is not up, has no such host, or there is no vLLM to make the image of.
    """
    fleet = running_fleet(layout)
    name = fleet.host(host).name if host else fleet.hosts[0].name
    target, stamp = layout.www / IMAGE, layout.root / "made" / "real-image.json"
    record = site_packages / f"vllm_cpu-{VERSION}.dist-info" / "RECORD"
    source = hashlib.sha256(record.read_bytes() if record.is_file() else b"").hexdigest()
    before = read_json(stamp)
    if before and before["source"] == source and target.is_file() and file_digest(target) == before["sha256"]:
        sha256 = str(before["sha256"])
    else:
        sha256 = build_real_image(target, site_packages=site_packages, cache=layout.cache)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        write_json(stamp, {"source": source, "sha256": sha256})
    place = layout.root / "made" / "real-vllm"
    release = write_release(place / "releases")
    said = settings(release=release, archive=f"{layout.service_url}/{IMAGE}", sha256=sha256)
    overrides = place / "overrides.yaml"
    overrides.write_text(yaml.safe_dump({name: said}, sort_keys=False))
    return name, {"METALSERVE_RELEASES_DIR": str(place / "releases"), "METALSERVE_LAB_OVERRIDES": str(overrides)}
