#!/usr/bin/env python3
"""The second half of tools/hardware_check.sh: what metalserve reads, judges and plans from what the first half left.

    python3 tools/hardware_report.py DIRECTORY [--model MODEL]

Reads captures.txt, smi.xml and the probes' JSON in DIRECTORY; writes verify.json (pyinfra's `@local` run of
deploys/verify.py, with the measurements and their findings added) and report.html, and prints the summary.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Sections of captures.txt that a parser reads, by the kind's name.
READ = {
    "smi-table": "smi-table",
    "smi-list": "smi-list",
    "smi-q": "smi-q",
    "smi-version": "smi-version",
    "topo": "topo",
    **{f"p2p-{kind}": "p2p" for kind in "rwnap"},
    "nvlink-status": "nvlink-status",
    "nvlink-caps": "nvlink-caps",
    "nvlink-errors": "nvlink-errors",
    "smi-csv": "smi-csv",
    "smi-apps": "smi-csv",
    "lspci": "lspci",
    "lspci-vv": "lspci",
    "nvme-list": "nvme-list",
    "kernel-log": "kernel-log",
}
NOT_FOUND = 127


def main() -> int:
    """Write the report; 0 when every part could be made, also when the hardware is bad."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--model", default="meta-llama/Llama-3.3-70B-Instruct")
    arguments = parser.parse_args()
    place: Path = arguments.directory.resolve()
    try:
        import pydantic  # noqa: F401
        import pyinfra  # noqa: F401
    except ImportError as error:
        print(f"not read, judged or planned: {error}; `./run setup` installs what metalserve needs")
        return 1
    well = read_captures(place)
    well &= verify(place)
    well &= measured(place)
    well &= page(place)
    plans(place, arguments.model)
    return 0 if well else 1


def sections(text: str) -> dict[str, tuple[int, str]]:
    """Split captures.txt into name -> (exit status, output)."""
    found = {}
    for name, body, code in re.findall(r"^@@ms:section (\S+): .*\n((?s:.*?))\n@@ms:rc (\d+)$", text, re.MULTILINE):
        found[name] = int(code), body
    return found


def read_captures(place: Path) -> bool:
    """Read every capture with its parser and say what was not understood."""
    from metalserve.hardware.parsers.text import ParseError
    from metalserve.hardware.readable import KINDS

    captured = sections((place / "captures.txt").read_text(errors="replace"))
    texts = {name: captured[name] for name in READ if name in captured}
    xml = (place / "smi.xml").read_text(errors="replace") if (place / "smi.xml").exists() else ""
    texts["smi-xml"] = NOT_FOUND if "not found" in xml[:200] else 0, xml
    print("captures")
    bad = 0
    for name, (code, text) in texts.items():
        kind = KINDS.get(READ.get(name, name))
        if code == NOT_FOUND:
            print(f"  {name:15} not on this host")
        elif not text.strip():
            print(f"  {name:15} said nothing")
        elif kind is None:
            print(f"  {name:15} no parser")
        else:
            try:
                value = kind.read(text)
            except ParseError as error:
                bad += 1
                print(f"  {name:15} NOT READ: {error}")
                continue
            notes = value.get("notes") or []
            bad += bool(notes)
            print(f"  {name:15} read{'; not understood: ' + '; '.join(map(str, notes))[:200] if notes else ''}")
    return bad == 0


def verify(place: Path) -> bool:
    """Run deploys/verify.py on this machine through pyinfra's @local."""
    print("verify")
    if os.geteuid() != 0:
        print("  left out: observing a host takes root; run the kit as root to have it")
        return True
    target = place / "verify.json"
    with tempfile.TemporaryDirectory() as directory:
        inventory = Path(directory) / "inventory.py"
        inventory.write_text(f"gpu_nodes = [('@local', {host_data()!r})]\n")
        done = subprocess.run(
            [sys.executable, "-m", "pyinfra", "-y", str(inventory), "deploys/verify.py", "--data", "depth=quick"],
            cwd=ROOT,
            env={**environment(), "METALSERVE_REPORT": str(target)},
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=75,
        )
    if not target.exists():
        print(f"  no report (exit status {done.returncode}): {done.stdout.strip().splitlines()[-1:]}")
        return False
    host = json.loads(target.read_text())["hosts"]["@local"]
    for finding in host["findings"]:
        if finding["status"] not in ("ok", "skipped"):
            print(f"  {finding['status']}: {finding['check']}: {finding['subject']}: {finding['observed']}")
    if host["failure"]:
        print(f"  stopped in {host['failure']['role']}: {host['failure']['what']}")
    good = sum(finding["status"] == "ok" for finding in host["findings"])
    print(f"  {good} of {len(host['findings'])} findings ok; {host['sessions']} sessions")
    return True


def host_data() -> dict[str, Any]:
    """Return the least that a host must say of itself: nothing is served here, and no drive is expected."""
    from metalserve.releases import release_names

    return {"release": release_names()[0], "storage": {"device": "none"}}


def environment() -> dict[str, str]:
    """Return an environment in which a Python finds what this one finds."""
    found = os.pathsep.join(dict.fromkeys([str(ROOT), *filter(None, sys.path)]))
    return {**os.environ, "PYTHONPATH": found, "PYINFRA_PROGRESS": "off", "COLUMNS": "120"}


def measured(place: Path) -> bool:
    """Judge what the probes measured and put it into verify.json."""
    from metalserve.desired.node import Node
    from metalserve.desired.observed import Observation
    from metalserve.releases import load_release, release_names
    from metalserve.settings import HostSettings
    from metalserve.verify.measurement import Measurement
    from roles.measure.desired import judged

    print("measured")
    parts = {name: _json(place / f"{name}.json") for name in ("bandwidth", "soak", "storage")}
    measurement = Measurement.from_dict(
        {
            "schema": 1,
            "simulated": False,
            "depth": "standard",
            "started": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "nvlink": parts["bandwidth"],
            "soak": parts["soak"],
            "storage": parts["storage"],
        }
    )
    settings = HostSettings.from_data(host_data(), host="@local", source="hardware check")
    node = Node("@local", settings, load_release(release_names()[0]), Observation(sections=observed()))
    findings = [finding.as_dict() for finding in judged(node, measurement)]
    for finding in findings:
        print(f"  {finding['status']}: {finding['check']}: {finding['subject']}: {finding['observed']}")
    path = place / "verify.json"
    report = _json(path) or _empty_report()
    host = report["hosts"]["@local"]
    host["measurements"] = measurement.as_dict()
    host["findings"] = [f for f in host["findings"] if f.get("role") != "measure"]
    host["findings"] += [{"role": "measure", **finding} for finding in findings]
    if not host.get("hardware"):
        from metalserve.hardware.export import hardware_dict

        host["hardware"] = hardware_dict(node.hardware)
    new = path.with_name(".verify.json.new")
    new.write_text(json.dumps(report, indent=1) + "\n")
    new.replace(path)
    return all(parts.values())


def observed() -> dict[str, Any]:
    """Run the observation's hardware commands here, for who is not root too."""
    from metalserve.hardware.commands import COMMANDS
    from metalserve.hardware.section import Section

    found = {}
    for name, command in COMMANDS.items():
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, errors="replace", check=False)
        found[name] = Section(done.stdout + done.stderr, done.returncode)
    return found


def page(place: Path) -> bool:
    """Write the HTML report."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "metalserve",
            "report",
            str(place / "verify.json"),
            "--html",
            str(place / "report.html"),
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    there = (place / "report.html").exists()
    print("page\n  report.html" if there else f"page\n  none: {(done.stderr or done.stdout).strip()[-300:]}")
    return there


def plans(place: Path, model: str) -> None:
    """Print the launch plan of a model on the GPUs that are here."""
    from metalserve.catalogue.loader import load_gpus

    hardware = _json(place / "verify.json")["hosts"]["@local"]["hardware"]
    names = [(gpu.get("device_id"), gpu.get("name")) for gpu in hardware.get("gpus", [])]
    spec = load_gpus().find(*names[0]) if names else None
    if spec is None:
        print("plan\n  none: the GPUs are not in the catalogue")
        return
    done = subprocess.run(
        [sys.executable, "-m", "metalserve", "plan", "--gpu", f"{len(names)}x{spec.id}", "--model", model],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    print("plan")
    print("\n".join(f"  {line}" for line in (done.stdout + done.stderr).strip().splitlines()))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _empty_report() -> dict[str, Any]:
    from metalserve.pyinfra_seam.report import RunReport

    report = RunReport()
    report.host("@local")
    report.complete = True
    return report.as_dict()


if __name__ == "__main__":
    sys.exit(main())
