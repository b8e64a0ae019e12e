"""What a template costs over its plain distribution: time and size against mmdebstrap with the very same packages.

    sudo python -m bench.templates.build HOME OUT.json [NAME [ROUNDS]]

HOME is a templates directory; its package cache is warm after a first build of NAME (debian-13-base unless given). Both
are made from that cache, in turn, and packed as tar.zst alike. `cpu_s` is processor time, which a busy machine changes
less than the seconds that pass.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

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
        return {
            "seconds": time.monotonic() - began,
            "tree_s": tree,
            "root_tar_bytes": packed.stat().st_size,
        }
    finally:
        remove_tree(place)


def ours(home: Path, name: str) -> tuple[dict[str, float], tuple[str, ...]]:
    """Build the template; returns seconds and bytes, and its packages."""
    began, tools = time.monotonic(), tool_root()
    build = build_template(load_spec(name), shelf=Shelf(home / "shelf"), tools=tools)
    seconds, files = time.monotonic() - began, build.manifest.files
    sizes = {"root_tar_bytes": files["root.tar.zst"].size, "disk_bytes": files["disk.raw.zst"].size}
    packages = tuple(package.name for package in read_tsv(build.path / "packages.tsv"))
    return {"seconds": seconds, **sizes}, packages


def spent() -> float:
    """Return the processor seconds of this process and of what it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main(home: Path, out: Path, name: str, rounds: int) -> None:
    """Build both in turn, write the record; the ratios are of the medians."""
    os.environ["METALSERVE_TEMPLATES_DIR"] = str(home)
    runs: list[dict[str, Any]] = []
    packages: tuple[str, ...] = ()
    for number in range(rounds):
        for arm in ("template", "plain"):
            load, before = os.getloadavg()[0], spent()
            if arm == "template":
                made, packages = ours(home, name)
            else:
                made = plain(home, name, packages)
            values = {key: round(value, 1) for key, value in made.items()}
            runs.append(
                {"round": number, "arm": arm, **values, "cpu_s": round(spent() - before, 1), "load": round(load, 2)}
            )
            print(json.dumps(runs[-1]), flush=True)
    record = {
        "schema": 2,
        "template": name,
        "packages": len(packages),
        "cpus": os.cpu_count(),
        "runs": runs,
        "ratio": {key: ratio(runs, key) for key in ("seconds", "cpu_s", "root_tar_bytes")},
    }
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["ratio"]))


def ratio(runs: list[dict[str, Any]], key: str) -> float:
    """Return how often the plain arm's median goes into the template's."""
    median = {arm: statistics.median(run[key] for run in runs if run["arm"] == arm) for arm in ("template", "plain")}
    return round(median["template"] / median["plain"], 3)


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]), given.get(3, "debian-13-base"), int(given.get(4, "2")))
