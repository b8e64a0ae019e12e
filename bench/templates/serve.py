"""From power-on to serving: a node from a template against one from the plain distribution, on the lab, side by side.

    sudo python -m bench.templates.serve OUT.json [--host NAME] [--rounds 2] [--image]

The lab that the environment names must be up; HOST is one of it with Debian 13. Its system disk is written anew before
every run, by the plain base of the lab (`plain`) or by a template that the real roles have built on that very base
(`template`); writing is not measured. Then it is switched on, and as soon as SSH answers the whole of
deploys/gpu_node.py runs on it. A run ends when every engine has completed a prompt.

The models' drive keeps its content in both arms alike, as on a node that is re-imaged: the weights are there, and are
checked. Both arms load the engine's image and start the engines; with --image the template carries its archive, and
only the plain arm fetches it. What roles take is read from the run's own output.

The lab's driver is a stand-in that compiles nothing. `with_real_driver` puts the measurement of the real one
(bench/templates/driver.py, on this kind of machine) in its place in the plain arm; the template's arm has nothing to do
for either. It is put together from two measurements and not measured as one, and leaves out that the modules of a real
driver are loaded too, in both arms alike. `at_least` is the same with no more than the real role's processor time,
shared out; `processors` the same with the compiling as long as another machine took (modules.json), all else unchanged.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from metalserve.lab import hosts, operate
from metalserve.lab.api import Lab
from metalserve.paths import ROOT
from tests.lab.fleet import Fleet
from tests.lab.template_trees import packed_template

SHARED = ("Weights", "vLLM")
"""Roles that do in both arms the same: check the weights, load the engine's image, start the engines."""

DRIVER = "NVIDIA driver"
HERE = Path(__file__).parent

_OPERATION = re.compile(r"--> Starting operation: (.+?) \|")


def main() -> None:
    """Measure both arms in turn and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--host", default="second")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--image", action="store_true", help="the template carries the engine's image")
    arguments = parser.parse_args()
    lab = Lab()
    with tempfile.TemporaryDirectory(prefix="bench-serve-", dir=lab.layout.root) as scratch:
        place = Path(scratch)
        fleet = Fleet(lab, place)
        began = time.monotonic()
        packed = packed_template(lab, arguments.host, place / "template", carries=arguments.image)
        made_s = time.monotonic() - began
        first = fleet.run("--limit", arguments.host)
        if first.rc != 0:
            raise SystemExit(first.out)
        runs = []
        for number in range(arguments.rounds):
            for arm, root in (("plain", None), ("template", packed)):
                runs.append({"round": number, **measure(lab, fleet, arguments.host, arm, root)})
                print(json.dumps(runs[-1]), flush=True)
        record = {
            "schema": 1,
            "simulated": True,
            "host": {"profile": lab.fleet.host(arguments.host).profile, "cpus": os.cpu_count()},
            "weights": "on the models' drive in both arms",
            "template": {
                "made_s": round(made_s, 1), "bytes": packed.stat().st_size, "engine_image": arguments.image,
            },
            "runs": runs,
            **compared(runs),
        }  # fmt: skip
        real = HERE / "driver.json"
        if real.exists():
            modules = HERE / "modules.json"
            compiled = json.loads(modules.read_text())["runs"] if modules.exists() else []
            record |= with_real_driver(runs, json.loads(real.read_text()), compiled)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(compared(runs)))
        hosts.cut_power(lab.layout, arguments.host)
    lab.reset(arguments.host)


def measure(lab: Lab, fleet: Fleet, name: str, arm: str, root: Path | None) -> dict[str, Any]:
    """Write the host's disk, switch it on, converge it, wait for every engine; returns where the seconds went."""
    host = lab.fleet.host(name)
    hosts.reinstall(lab.layout, host, lab.fleet.hosts, root=root)
    os.sync()  # what was written and removed would else be brought to the disk while the host works
    load, began = os.getloadavg()[0], time.monotonic()
    hosts.start(lab.layout, host)
    operate.wait_until_up(lab.layout, [host])
    booted = time.monotonic()
    report = fleet.directory / "report.json"
    report.unlink(missing_ok=True)
    roles = converged(fleet, name)
    done = time.monotonic()
    found = json.loads(report.read_text())["hosts"][name]
    engines = len({each["replica"] for each in found["loads"]})
    fleet.wait_for_tokens(name, range(8000, 8000 + engines))
    serving = time.monotonic()
    return {
        "arm": arm,
        "engines": engines,
        "seconds": round(serving - began, 1),
        "boot_s": round(booted - began, 1),
        "converge_s": round(done - booted, 1),
        "roles_s": {role: round(seconds, 1) for role, seconds in roles.items()},
        "changes": len(found["changes"]),
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
    }


def converged(fleet: Fleet, name: str) -> dict[str, float]:
    """Run the main job on a host; returns the seconds of each role's operations, and of what comes before them."""
    seconds: dict[str, float] = {}
    role, since, said = "observe", time.monotonic(), []
    environment = {**fleet.environment(), "PYTHONUNBUFFERED": "1", "COLUMNS": "400"}
    with subprocess.Popen(
        fleet.command("--limit", name), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            found = _OPERATION.search(line)
            if found is not None:
                now = time.monotonic()
                seconds[role] = seconds.get(role, 0.0) + now - since
                role, since = found[1], now
    seconds[role] = seconds.get(role, 0.0) + time.monotonic() - since
    if process.returncode != 0:
        raise SystemExit("".join(said))
    return seconds


def compared(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of both arms and their ratios: of all of it, and without what both arms do alike."""
    whole, own = {}, {}
    for arm in ("plain", "template"):
        mine = [run for run in runs if run["arm"] == arm]
        whole[arm] = statistics.median(run["seconds"] for run in mine)
        own[arm] = statistics.median(
            run["seconds"] - sum(run["roles_s"].get(role, 0.0) for role in SHARED) for run in mine
        )
    return {
        "median_s": {arm: round(value, 1) for arm, value in whole.items()},
        "median_without_shared_s": {arm: round(value, 1) for arm, value in own.items()},
        "shared": list(SHARED),
        "ratio": round(whole["plain"] / whole["template"], 2),
        "ratio_without_shared": round(own["plain"] / own["template"], 2),
    }


def with_real_driver(
    runs: list[dict[str, Any]], real: dict[str, Any], compiled: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the ratio with the measured role of the real driver in the place of the stand-in's, in the plain arm.

    Args:
        runs: of this bench.
        real: the record of bench/templates/driver.py.
        compiled: what compiling the same modules took elsewhere (modules.json).
    """
    whole = compared(runs)["median_s"]
    stand_in = statistics.median(run["roles_s"].get(DRIVER, 0.0) for run in runs if run["arm"] == "plain")

    def put_together(role_s: float) -> dict[str, float]:
        plain = whole["plain"] - stand_in + role_s
        return {"role_s": round(role_s, 1), "plain_s": round(plain, 1), "ratio": round(plain / whole["template"], 2)}

    rest = real["role_s"] - (real["compile_s"] or 0)
    # only a whole machine at work is a node that converges
    full = {str(each["cpus"]): rest + each["seconds"] for each in compiled if each["jobs"] == each["cpus"]}
    own = put_together(real["role_s"])
    return {
        "ratio_with_real_driver": own["ratio"],
        "with_real_driver": {
            "put_together_from": "this bench, and bench/templates/driver.json in place of the stand-in's role",
            "stand_in_role_s": round(stand_in, 1),
            **own,
            "at_least": put_together(real["least_s"]),
            "cpus": real["cpus"],
            "processors": {cpus: put_together(role_s) for cpus, role_s in full.items()} if real["compile_s"] else {},
        },
    }


if __name__ == "__main__":
    main()
