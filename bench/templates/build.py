"""What a template costs over its plain distribution: time and size against mmdebstrap with the very same packages.

    sudo python -m bench.templates.build HOME OUT.json [NAME]

HOME is a templates directory; its package cache is warm after a first build of NAME (debian-13-base unless given). Both
are made from that cache, one after the other, and packed as tar.zst alike.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from metalserve.templates.archive import keyring_of, mirrors_for, read_archive
from metalserve.templates.build import build_template
from metalserve.templates.packages import read_tsv
from metalserve.templates.rootfs import apt_recipe
from metalserve.templates.shelf import Shelf
from metalserve.templates.spec import load_spec
from metalserve.templates.toolroot import tool_root
from metalserve.trees.debian import apt_network_options, bootstrap, remove_tree


def plain(home: Path, name: str, packages: tuple[str, ...]) -> dict[str, float]:
    """Make and pack a plain root file system of these packages; returns seconds and bytes."""
    spec = load_spec(name)
    archive = read_archive(spec.os, mirrors_for(spec.os))
    recipe = apt_recipe(
        spec, archive.mirrors, keyring_of(spec.os), cache=home / "cache" / spec.os.id,
        options=tuple(apt_network_options()),
    )  # fmt: skip
    place = home / "plain"
    remove_tree(place)
    place.mkdir()
    try:
        began = time.monotonic()
        bootstrap(replace(recipe, packages=packages), place / "root", place / "log", epoch=archive.epoch)
        tree = time.monotonic() - began
        shutil.rmtree(place / "root/var/lib/apt/lists")
        packed = place / "root.tar.zst"
        command = f"tar -C {place / 'root'} --numeric-owner -cf - . | zstd -q -3 -T2 -o {packed}"
        subprocess.run(["sh", "-c", command], check=True)
        return {"tree_s": tree, "packed_s": time.monotonic() - began, "packed_bytes": packed.stat().st_size}
    finally:
        remove_tree(place)


def main(home: Path, out: Path, name: str) -> None:
    """Build both, write the record."""
    os.environ["METALSERVE_TEMPLATES_DIR"] = str(home)
    load, began, tools = os.getloadavg(), time.monotonic(), tool_root()
    build = build_template(load_spec(name), shelf=Shelf(home / "shelf"), tools=tools)
    seconds = time.monotonic() - began
    installed = read_tsv(build.path / "packages.tsv")
    other = plain(home, name, tuple(package.name for package in installed))
    ours = build.manifest.files["root.tar.zst"].size
    record = {
        "schema": 1,
        "template": name,
        "packages": len(installed),
        "host": {"cpus": os.cpu_count(), "load_before": load, "load_after": os.getloadavg()},
        "build_s": round(seconds, 1),
        "root_tar_bytes": ours,
        "disk_bytes": build.manifest.files["disk.raw.zst"].size,
        "plain": {key: round(value, 1) for key, value in other.items()},
        "ratio": {"size": round(ours / other["packed_bytes"], 3), "time": round(seconds / other["packed_s"], 2)},
    }
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["ratio"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "debian-13-base")
