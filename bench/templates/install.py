"""Times of installing a template on an emulated machine, from power-on to SSH: by network boot or by virtual media.

    sudo python -m bench.templates.install SHELF_HOME PUBLIC_KEY network|cd OUT.json [NAME]

SHELF_HOME is a templates directory with a signed build of NAME (debian-13-base unless given) on its shelf. The machine
is QEMU without KVM: its times are for comparing runs of one machine, not for what metal takes.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

from metalserve.templates.manifest import DISK
from metalserve.templates.proving import SIMULATED
from metalserve.templates.proving_boot import LOOK, sections
from metalserve.templates.shelf import Shelf
from metalserve.templates.toolroot import tool_root
from tests.real_templates.netboot import Way, install, yard


def main(home: Path, key: Path, way: Way, out: Path, name: str) -> None:
    """Install once, look at what came up, and write the record."""
    build = Shelf(home / "shelf").build(name)
    place = Path(tempfile.mkdtemp(prefix="bench-", dir=home))
    began, load = time.monotonic(), os.getloadavg()
    try:
        with yard(home, place / "machine", tool_root(), build, key) as found:
            times = install(found, way, patience_s=2400.0)
            order, asked = found.state(), found.asked()
            with found.on("disk") as machine:
                shell = found.shell()
                times["second_boot_ssh"] = shell.wait(machine, 2400)
                said = sections(shell.run(LOOK.read_text(), timeout_s=2400).stdout)
        manifest = build.manifest
        record = {
            "schema": 1,
            "simulated": True,
            "machine": SIMULATED,
            "way": "network boot (PXE, iPXE, HTTP)" if way == "network" else "virtual media (ISO)",
            "host": {
                "cpus": os.cpu_count(),
                "load_before": load,
                "load_after": os.getloadavg(),
                "kernel": platform.release(),
            },
            "template": manifest.name,
            "packed_bytes": manifest.files[DISK].size,
            "raw_bytes": manifest.raw.size,
            "seconds_since_power_on": {key: round(value, 1) for key, value in times.items()},
            "whole_run_s": round(time.monotonic() - began, 1),
            "order": {"state": order.state, "words": order.words},
            "asked": [f"{each['asked']} {each['status']} {each['words']}" for each in asked],
            "booted": {key: said.get(key) for key in ("state", "failed", "cloud-init", "kernel", "boot-time")},
        }
        out.write_text(json.dumps(record, indent=1) + "\n")
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    _, where, public, how, to, *rest = sys.argv
    assert how in ("network", "cd")
    main(
        Path(where).absolute(),
        Path(public),
        "network" if how == "network" else "cd",
        Path(to),
        (rest or ["debian-13-base"])[0],
    )
