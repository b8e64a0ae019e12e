"""Times of installing a template on an emulated machine, from power-on to SSH: by network boot or by virtual media.

    sudo python -m bench.templates.install SHELF_HOME PUBLIC_KEY network|cd OUT.json [NAME]

SHELF_HOME is a templates directory with a signed build of NAME (debian-13-base unless given) on its shelf. The machine
is QEMU without KVM: its times are for comparing runs of one machine, not for what metal takes. The slow test writes the
same record when METALSERVE_INSTALL_RECORDS names a directory.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from metalserve.templates.shelf import Shelf
from metalserve.templates.toolroot import tool_root
from tests.real_templates.netboot import Way, install, record, yard


def main(home: Path, key: Path, way: Way, out: Path, name: str) -> None:
    """Install once, look at what came up, and write the record."""
    build = Shelf(home / "shelf").build(name)
    place = Path(tempfile.mkdtemp(prefix="bench-", dir=home))
    began, load = time.monotonic(), os.getloadavg()
    try:
        with yard(home, place / "machine", tool_root(), build, key) as found:
            said = install(found, way)
            made = record(found, way, said, load)
        out.write_text(json.dumps({**made, "whole_run_s": round(time.monotonic() - began, 1)}, indent=1) + "\n")
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
