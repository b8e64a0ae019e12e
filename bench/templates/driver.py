"""What the real driver costs a plain node: the role nvidia_driver with the driver of Debian's own archive, timed alone.

    sudo python -m bench.templates.driver HOME OUT.json [NAME]

HOME is a templates directory, NAME a template whose driver DKMS compiles (debian-13-l40s unless given). Its plain root
file system is made and given the role base; then the role nvidia_driver runs on it as `metalserve template build` and a
node's first converge run it, and only that is timed. It is done twice, from the same tree: the first may fetch packages
(`fetched_bytes`), the second finds them. The faster of the two is the figure (`role_s`): other work on the machine only
makes it larger. `least_s` is the processor time shared out to all processors: about what an idle machine of this kind
would take if no step of it had to wait. `compile_s` is what DKMS itself says of its compiling, `dpkg_s` what apt's
history says of unpacking and setting up, which holds the compiling.

The tree has no GPU and no running kernel of its own: loading the modules is not in it, nor a reboot. All of it that a
node does beside (unpacking, compiling, the initial RAM disk) is.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from metalserve.templates.archive import mirrors_for, read_archive
from metalserve.templates.building_roles import converge
from metalserve.templates.machine import prepare
from metalserve.templates.rootfs import make_rootfs
from metalserve.templates.spec import load_spec
from metalserve.trees.debian import installed_packages, remove_tree
from metalserve.trees.system import mount_overlay


def main(home: Path, out: Path, name: str) -> None:
    """Make the tree, run the role on it twice, write the record."""
    spec = load_spec(name)
    archive = read_archive(spec.os, mirrors_for(spec.os))
    cache, place = home / "cache" / spec.os.id, home / "driver"
    remove_tree(place)
    place.mkdir(parents=True)
    try:
        plain = place / "plain"
        make_rootfs(spec, archive, plain, cache=cache, log=place / "log")
        prepare(plain)
        base = spec.model_copy(update={"roles": ["base"]})
        converge(base, plain, epoch=archive.epoch, cache=cache, place=place)
        runs = []
        for number in range(2):
            view = Path(place / f"view-{number}")
            for part in ("root", "upper", "work"):
                (view / part).mkdir(parents=True)
            (view / "upper").chmod(0o755)
            mount_overlay(view / "root", lower=[plain], upper=view / "upper", work=view / "work")
            runs.append(
                timed(spec.model_copy(update={"roles": ["nvidia_driver"]}), view / "root", archive.epoch, cache)
            )
            print(json.dumps(runs[-1]), flush=True)
            if number == 0:
                remove_tree(view)
        installed = installed_packages(place / "view-1/root")
        kernel = next((place / "view-1/root/boot").glob("vmlinuz-*")).name.removeprefix("vmlinuz-")
    finally:
        remove_tree(place)
    record = {
        "schema": 1,
        "template": name,
        "kernel": kernel,
        "driver": {name: version for name, version in installed.items() if name.endswith("-dkms")},
        "cpus": os.cpu_count(),
        "runs": runs,
        **chosen(runs, os.cpu_count() or 1),
    }
    out.write_text(json.dumps(record, indent=1) + "\n")


def chosen(runs: list[dict[str, Any]], cpus: int) -> dict[str, Any]:
    """Return the figures of the record: the faster run's, and what the processors' time alone comes to."""
    best = min(runs, key=lambda run: run["role_s"])
    least = min(run["cpu_s"] for run in runs) / cpus
    return {"role_s": best["role_s"], "compile_s": best["compile_s"], "least_s": round(least, 1)}


def timed(spec: Any, root: Path, epoch: int, cache: Path) -> dict[str, Any]:
    """Run the roles of `spec` on a tree; returns the seconds, and where they went."""
    before, load = {path.name for path in cache.glob("*.deb")}, os.getloadavg()[0]
    place = root.parent / "roles"
    place.mkdir()
    used = _spent()
    began = time.monotonic()
    changes = converge(spec, root, epoch=epoch, cache=cache, place=place)
    seconds = time.monotonic() - began
    fetched = [path for path in cache.glob("*.deb") if path.name not in before]
    if not list(root.glob("usr/lib/modules/*/updates/dkms/nvidia*.ko*")):
        raise SystemExit("DKMS has compiled nothing: this is no measurement of a driver")
    return {
        "role_s": round(seconds, 1),
        "dpkg_s": _dpkg_s(root),
        "compile_s": _compile_s(root),
        "cpu_s": round(_spent() - used, 1),
        "fetched_bytes": sum(path.stat().st_size for path in fetched),
        "changes": len(changes),
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
    }


def _dpkg_s(root: Path) -> int:
    """Return the seconds between begin and end of what apt's history has, added up; whole seconds."""
    text = (root / "var/log/apt/history.log").read_text()
    found = [
        datetime.fromisoformat(" ".join(word.split())) for word in re.findall(r"^(?:Start|End)-Date: (.+)$", text, re.M)
    ]
    spans = zip(found[-2::-2], found[-1::-2], strict=False)
    return round(max((end - start).total_seconds() for start, end in spans))


def _compile_s(root: Path) -> int | None:
    """Return the seconds that DKMS says it took to compile; None where its log does not tell."""
    logs = list(root.glob("var/lib/dkms/*/*/*/*/log/make.log"))
    told = [re.search(r"^# elapsed time: (\d+):(\d+):(\d+)", log.read_text(errors="replace"), re.M) for log in logs]
    found = [int(t[1]) * 3600 + int(t[2]) * 60 + int(t[3]) for t in told if t is not None]
    return sum(found) if found else None


def _spent() -> float:
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]), given.get(3, "debian-13-l40s"))
