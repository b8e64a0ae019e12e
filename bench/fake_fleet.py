"""What the controller itself costs: gpu_node.py over 100, 300 and 1,000 hosts that answer at once.

    python bench/fake_fleet.py [--sizes 100 300 1000] [--profile]

The hosts are pyinfra's `@fake` ones: nothing is contacted. Each answers with what a lab host that is as it should be
answered a moment ago (the lab must be up and converged), so that the whole of it is parsed, compared and proved, and
nothing is changed: the second run of a fleet. Seconds are the controller's CPU and wall time, MiB its peak resident
size; a host's share is the slope over one host's run, so that starting Python counts for nothing. Growth is linear
when a host of 1,000 costs what a host of 100 does: that ratio is the figure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from metalserve.desired.model import Watch  # noqa: E402
from metalserve.desired.observe_script import observation_script  # noqa: E402
from metalserve.desired.render import RUN_FROM_STDIN  # noqa: E402
from metalserve.hardware.commands import COMMANDS  # noqa: E402
from metalserve.pyinfra_seam.inventory import load_inventory  # noqa: E402
from metalserve.releases import load_release  # noqa: E402
from metalserve.settings import HostSettings  # noqa: E402

DEPLOY = "deploys/gpu_node.py"
LINEAR = 1.25
"""A host of the largest fleet may cost this much more than one of the smallest before the growth counts as worse
than linear: two cores that others use too do not measure finer."""


def main() -> int:
    """Print a table and one JSON line; exit 1 when a run failed or the growth is worse than linear."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--profile", action="store_true", help="print where the time goes for the smallest fleet")
    arguments = parser.parse_args()
    name, data, answer = captured()
    print(f"answer of {name} (simulated GPUs): {len(answer.encode()) / 1024:.0f} KiB, {answer.count(chr(10))} lines")
    with tempfile.TemporaryDirectory(prefix="metalserve-fleet-") as work:
        directory = Path(work)
        if arguments.profile:
            run(directory, data, answer, min(arguments.sizes), profile=True)
            return 0
        one = run(directory, data, answer, 1)
        rows = {size: run(directory, data, answer, size) for size in sorted(arguments.sizes)}
    print(f"{'hosts':>6} {'wall s':>8} {'CPU s':>8} {'MiB':>7} {'ms CPU/host':>12} {'KiB/host':>9}")
    shares = {}
    for size, row in rows.items():
        share = {key: (row[key] - one[key]) / (size - 1) for key in ("wall_s", "cpu_s", "mib")}
        shares[size] = share
        print(
            f"{size:6} {row['wall_s']:8.1f} {row['cpu_s']:8.1f} {row['mib']:7.0f} "
            f"{share['cpu_s'] * 1000:12.1f} {share['mib'] * 1024:9.0f}"
        )
    small, large = shares[min(shares)], shares[max(shares)]
    growth = {key: round(large[key] / small[key], 2) for key in ("wall_s", "cpu_s", "mib")}
    print(f"a host of {max(shares)} against a host of {min(shares)}: {growth} (linear is 1.0)")
    figures = {
        "bench": "fake_fleet",
        "simulated": True,
        "one_host": one,
        "sizes": {str(size): {**rows[size], "per_host": shares[size]} for size in rows},
        "growth": growth,
    }
    print(json.dumps(figures))
    return 0 if growth["cpu_s"] <= LINEAR and growth["mib"] <= LINEAR else 1


def captured() -> tuple[str, dict[str, Any], str]:
    """Return name, host data and the observation of the first lab host that can be reached."""
    try:
        hosts = load_inventory(str(ROOT / "inventories/lab.py"))
    except Exception as error:
        sys.exit(f"fake_fleet: {error} -> bring the lab up and converge it first: ./run demo")
    name, data = hosts[0]
    settings = HostSettings.from_data(data, host=name, source="inventories/lab.py")
    script = observation_script(_watch(settings), COMMANDS)
    command = ["ssh", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={data['ssh_known_hosts_file']}"]
    command += ["-i", data["ssh_key"], f"root@{data['ssh_hostname']}", RUN_FROM_STDIN]
    done = subprocess.run(command, check=False, input=script.encode(), capture_output=True, timeout=120)
    answer = done.stdout.decode(errors="replace")
    if "@@ms:end" not in answer:
        sys.exit(f"fake_fleet: {name} did not answer: {done.stderr.decode(errors='replace').strip()}")
    return name, {k: v for k, v in data.items() if not k.startswith("ssh_")}, answer


def _watch(settings: HostSettings) -> Watch:
    from roles import base, container_runtime, cuda, fabric_manager, nvidia_driver, storage, topology, vllm, weights

    watch = Watch()
    for role in (base, nvidia_driver, cuda, container_runtime, fabric_manager, topology, storage, weights, vllm):
        watch = watch | role.desired.watch(settings, load_release(settings.release))
    return watch


def run(directory: Path, data: Mapping[str, Any], answer: str, hosts: int, *, profile: bool = False) -> dict[str, Any]:
    """Run the deploy over `hosts` fake hosts in a process of its own; wall_s, cpu_s and mib (peak) of it."""
    (directory / "answer.txt").write_text(answer)
    inventory = directory / "fleet.py"
    inventory.write_text(
        "from pathlib import Path\n"
        f"_answer = (Path({str(directory)!r}) / 'answer.txt').read_text()\n"
        "_fake = {'fake_responses': {'eval': _answer}, 'fake_delay': 0.0, 'fake_delay_jitter': 0.0}\n"
        f"_data = {dict(data)!r}\n"
        f"nodes = [(f'@fake/gpu-{{i:04d}}', {{**_data, **_fake}}) for i in range({hosts})]\n"
    )
    report = directory / "report.json"
    report.unlink(missing_ok=True)
    profiler = ["-m", "cProfile", "-s", "tottime"] if profile else []
    command = [sys.executable, *profiler, "-m", "pyinfra", str(inventory), DEPLOY, "-y"]
    environment = {**os.environ, "METALSERVE_REPORT": str(report), "PYINFRA_PROGRESS": "off"}
    begun = time.monotonic()
    with open(directory / "output.txt", "w") as output:
        child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - begun
    if profile:
        text = (directory / "output.txt").read_text()
        print("\n".join(text[text.rfind("Ordered by") :].splitlines()[:45]))
        return {}
    if child.returncode != 0 or not report.exists():
        sys.exit("fake_fleet: the run failed:\n" + (directory / "output.txt").read_text()[-3000:])
    found = json.loads(report.read_text())["hosts"].values()
    wrong = [h["name"] for h in found if h["status"] != "unchanged" or h["sessions"] != 1]
    if wrong or len(found) != hosts:
        text = "\n".join(f"{r}: {w}" for h in list(found)[:1] for r, _, w in h["planned"])
        sys.exit(
            f"fake_fleet: {len(wrong)} hosts are not as they should be; converge the lab first: ./run demo\n{text}"
        )
    return {
        "wall_s": round(wall, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "mib": round(usage.ru_maxrss / 1024, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
