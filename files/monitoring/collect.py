#!/usr/bin/python3 -IS
"""What node_exporter and the DCGM exporter do not tell of a host, for node_exporter's textfile directory.

Written by metalserve (roles/node_metrics). Python 3.9, standard library only. Run by metalserve-metrics.timer.

    collect-metrics [CONFIG]      CONFIG: JSON, /etc/metalserve/monitoring/collector.json

Each part stands alone: one that cannot be read says so (metalserve_collector_success 0) and leaves its metrics out,
since a value that was not read is not known. No part prints a secret: states, numbers, names of models and versions.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Config = Any  # the parsed JSON: see metalserve/monitoring/exporters.py, collector_config
Metric = tuple[str, dict[str, str], float]
"""Name without prefix, labels, value."""

CONFIG = "/etc/metalserve/monitoring/collector.json"
ROOT = os.environ.get("MS_ROOT", "")
COMMAND_S = 20
"""Seconds after which a command is ended: a GPU that hangs makes nvidia-smi hang."""

XID = re.compile(r"NVRM: Xid \((?:PCI:)?[0-9a-fA-F:.]+\): (\d+)")

HELP = {
    "gpus_answering": "GPUs that nvidia-smi lists without an error",
    "gpus_expected": "GPUs that the inventory, or the first look at the host, says it has",
    "gpu_fabric_completed": "1 when the GPU has joined the NVLink fabric; absent where it needs none",
    "xid_events": "Xid errors in the kernel log since boot, by number",
    "xid_last_timestamp_seconds": "when the collector last saw this Xid come (seconds since 1970)",
    "nvme_link_speed_gts": "speed of the drive's PCIe link (GT/s)",
    "nvme_link_speed_gts_max": "highest speed of the drive's PCIe link (GT/s)",
    "nvme_link_width": "lanes of the drive's PCIe link",
    "nvme_link_width_max": "most lanes of the drive's PCIe link",
    "nvme_temperature_celsius": "composite temperature of the drive (C)",
    "weights_verified_timestamp_seconds": "when the bytes of the weights were last proved (seconds since 1970)",
    "release_info": "the release that the host was last given",
    "release_drift": "1 when a component is not of the release's version",
    "engine_state": "1 for the state that an engine is in",
    "engine_gate_open": "0 when the gate did not let the engine start the last time",
    "engine_restarts": "how often systemd has restarted the engine by itself since it was last started",
    "reboot_pending": "1 when a package asks for a reboot",
    "collector_success": "1 when this part could be read",
    "collector_timestamp_seconds": "when this was written (seconds since 1970)",
    "collector_duration_seconds": "how long it took (seconds)",
}
ENGINE_STATES = ("ready", "starting", "stalled", "down")


class Unreadable(Exception):
    """A part that could not be read, and why."""


def read(path: str) -> str:
    """Text of a file below the root."""
    with open(ROOT + path, encoding="utf-8", errors="replace") as stream:
        return stream.read()


def ran(*command: str) -> str:
    """Output of a command; Unreadable when it fails, hangs or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=COMMAND_S, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreadable(f"{command[0]}: {error}") from error
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        said = (text + done.stderr.decode(errors="replace")).strip().splitlines()
        raise Unreadable(f"{' '.join(command)}: status {done.returncode}: {said[-1] if said else 'no message'}")
    return text


def gpus(config: Config) -> Iterator[Metric]:
    """GPUs that answer, and whether each has joined the fabric."""
    yield "gpus_expected", {}, config["gpus"]
    try:
        text = ran("nvidia-smi", "-q")
    except Unreadable as error:
        # Not a part that failed but the news itself: no GPU answers.
        print(f"gpus: {error}", file=sys.stderr)
        yield "gpus_answering", {}, 0
        return
    found = parse_gpus(text)
    yield "gpus_answering", {}, sum(1 for gpu in found if gpu["uuid"])
    for gpu in found:
        if gpu["uuid"] and gpu["fabric"] not in ("", "N/A"):
            labels = {"gpu": gpu["minor"], "UUID": gpu["uuid"]}
            yield (
                "gpu_fabric_completed",
                labels,
                int(gpu["fabric"] == "Completed" and gpu["status"] in ("Success", "N/A")),
            )


def parse_gpus(text: str) -> list[dict[str, str]]:
    """The GPUs of `nvidia-smi -q`: uuid, minor number, fabric state and status; empty where it does not say."""
    found: list[dict[str, str]] = []
    block = ""
    for line in text.splitlines():
        if re.match(r"GPU [0-9A-Fa-f]{8}:", line):
            found.append({"uuid": "", "minor": str(len(found)), "fabric": "", "status": ""})
            block = ""
            continue
        name, colon, value = line.partition(" : ")
        if not found:
            continue
        if not colon:
            # A heading four or eight deep: its lines are deeper than itself.
            block = line.strip() if len(line) - len(line.lstrip()) == 4 else block
            continue
        name, value = name.strip(), value.strip()
        if name == "GPU UUID":
            found[-1]["uuid"] = value if value.startswith("GPU-") else ""
        elif name == "Minor Number" and value.isdigit():
            found[-1]["minor"] = value
        elif block == "Fabric" and name in ("State", "Status"):
            found[-1]["fabric" if name == "State" else "status"] = value
    return found


def xids(config: Config) -> Iterator[Metric]:
    """Xids since boot. The ring buffer forgets and the journal may not have all: whichever has seen more counts."""
    failed: list[str] = []
    told: list[dict[int, int]] = []
    for command in (["dmesg"], ["journalctl", "-q", "-k", "-b", "-o", "cat", "--no-pager"]):
        try:
            told.append(count_xids(ran(*command)))
        except Unreadable as error:
            failed.append(str(error))
    if not told:
        raise Unreadable("; ".join(failed))
    before = last_output(config)
    for number in sorted({number for each in told for number in each}):
        count, labels = max(each.get(number, 0) for each in told), {"xid": str(number)}
        had = before.get("metalserve_xid_events" + spelled(labels))
        when = before.get("metalserve_xid_last_timestamp_seconds" + spelled(labels))
        # Another count than before (a smaller one after a reboot): it has come since. The log's own times are the
        # kernel's uptime, which is no time of day.
        yield "xid_events", labels, count
        yield (
            "xid_last_timestamp_seconds",
            labels,
            int(when) if when is not None and had == count else round(time.time()),
        )


def last_output(config: Config) -> dict[str, float]:
    """Series -> value of the last run, {} when there was none."""
    found: dict[str, float] = {}
    with contextlib.suppress(OSError):
        for line in read(config["output"]).splitlines():
            name, _, value = line.rpartition(" ")
            with contextlib.suppress(ValueError):
                found[name] = float(value)
    return found


def count_xids(text: str) -> dict[int, int]:
    """Number -> how often it stands in a kernel log."""
    counts: dict[int, int] = {}
    for found in XID.finditer(text):
        number = int(found.group(1))
        counts[number] = counts.get(number, 0) + 1
    return counts


def drives(config: Config) -> Iterator[Metric]:
    """Links and temperatures of the NVMe drives."""
    for place in sorted(glob.glob(ROOT + "/sys/bus/pci/devices/*")):
        try:
            with open(place + "/class", encoding="ascii") as stream:
                if not stream.read().startswith("0x0108"):
                    continue
        except OSError:
            continue
        address = os.path.basename(place)
        names = sorted(os.listdir(place + "/nvme")) if os.path.isdir(place + "/nvme") else []
        labels = {"device": names[0] if names else address, "pci": address}
        for metric, name in (
            ("nvme_link_speed_gts", "current_link_speed"),
            ("nvme_link_speed_gts_max", "max_link_speed"),
            ("nvme_link_width", "current_link_width"),
            ("nvme_link_width_max", "max_link_width"),
        ):
            with (
                contextlib.suppress(OSError, ValueError, IndexError),
                open(f"{place}/{name}", encoding="ascii") as stream,
            ):
                yield metric, labels, float(stream.read().split()[0])
    problems: list[str] = []
    for path in sorted(glob.glob(ROOT + "/dev/nvme*")):
        if not re.fullmatch(r"nvme\d+", os.path.basename(path)):
            continue
        try:
            value = json.loads(ran("nvme", "smart-log", "-o", "json", path))["temperature"]
            # Kelvin in the log itself; a nvme-cli that converts it gives less than any drive has in Kelvin.
            yield "nvme_temperature_celsius", {"device": os.path.basename(path)}, value - 273 if value > 200 else value
        except (Unreadable, ValueError, KeyError, TypeError) as error:
            problems.append(f"{path}: {error}")
    if problems:
        raise Unreadable("; ".join(problems))


def weights(config: Config) -> Iterator[Metric]:
    """When every byte of the served weights was last proved: at publishing, or by a full check since."""
    for each in config["weights"]:
        path = each["marker"]
        try:
            when, text = os.stat(ROOT + path).st_mtime, read(path)
        except OSError:
            continue  # nothing is published: there is nothing that could be old
        when = _data(text).get("published_at") or when
        directory = os.path.dirname(path)
        # The agent keeps what its last full check said beside the published directory. Wrong bytes: never proved.
        with contextlib.suppress(OSError):
            checked = _data(read(f"{os.path.dirname(directory)}/.checked-{os.path.basename(directory)}"))
            when = 0 if checked.get("problems") else max(when, checked.get("at") or 0)
        labels = {"model": each["model"], "revision": each["revision"]}
        yield "weights_verified_timestamp_seconds", labels, round(when)


def _data(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def release(config: Config) -> Iterator[Metric]:
    """The release, and what is not of it."""
    yield "release_info", {"release": config["release"], "simulated": str(bool(config["simulated"])).lower()}, 1
    installed = packages([each["package"] for each in config["components"] if each.get("package")])
    for each in config["components"]:
        if each.get("package"):
            found = installed.get(each["package"])
            if found is None:
                continue  # not every host needs it
        else:
            found = driver_version()
        drifted = int(not same_version(found, each["version"]))
        labels = {"component": each["name"], "wanted": each["version"], "installed": found}
        yield "release_drift", labels, drifted


def driver_version() -> str:
    """Version of the loaded NVIDIA kernel module, "none" when it is not loaded."""
    try:
        found = re.search(r"\s(\d+\.\d[\d.]*)\s", read("/proc/driver/nvidia/version"))
    except OSError:
        return "none"
    return found.group(1) if found else "unknown"


def packages(names: Sequence[str]) -> dict[str, str]:
    """Package -> version of those that are wholly installed."""
    if not names:
        return {}
    # Status 1 when one of them is unknown to dpkg: the others are printed all the same.
    form = "${db:Status-Abbrev}\t${Package}\t${Version}\n"
    try:
        done = subprocess.run(
            ["dpkg-query", "-W", "-f", form, *names], capture_output=True, timeout=COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreadable(f"dpkg-query: {error}") from error
    rows = [line.split("\t") for line in done.stdout.decode(errors="replace").splitlines()]
    return {row[1]: row[2] for row in rows if len(row) == 3 and row[0][1:2] == "i"}


def same_version(installed: str, wanted: str) -> bool:
    """Whether a version is the wanted one, with or without epoch and packaging revision."""
    bare = installed.split(":", 1)[1] if ":" in installed and ":" not in wanted else installed
    return bare == wanted or bare.startswith((wanted + "-", wanted + "+", wanted + "~"))


def engines(config: Config) -> Iterator[Metric]:
    """The state of each engine, and whether its gate lets it start."""
    numbers: set[int] = set()
    for pattern in (
        "/etc/systemd/system/metalserve-vllm-*.service",
        "/etc/containers/systemd/metalserve-vllm-*.container",
    ):
        for path in glob.glob(ROOT + pattern):
            found = re.search(r"metalserve-vllm-(\d+)\.", path)
            numbers |= {int(found.group(1))} if found else set()
    if not numbers:
        return
    names = [f"metalserve-vllm-{number}.service" for number in sorted(numbers)]
    wanted = ("Id", "ActiveState", "SubState", "NRestarts", "ExecStartPre")
    text = ran("systemctl", "show", "--no-pager", *(word for name in wanted for word in ("-p", name)), *names)
    for block in re.split(r"\n\s*\n", text.strip()):
        found = re.search(r"^Id=metalserve-vllm-(\d+)\.service$", block, re.MULTILINE)
        if found:
            yield from engine(found.group(1), block)


def engine(number: str, block: str) -> Iterator[Metric]:
    """The metrics of one engine from what systemd says of its unit, and the watch of the engine."""
    pairs = dict(
        line.split("=", 1) for line in block.splitlines() if "=" in line and not line.startswith("ExecStartPre")
    )
    active = pairs.get("ActiveState", "")
    try:
        seen = read(f"/run/metalserve/engines/{number}").strip()
    except OSError:
        seen = ""
    if active == "activating" and pairs.get("SubState") != "auto-restart":
        state = "starting"
    elif active != "active":
        state = "down"
    elif seen.startswith("stalled"):
        state = "stalled"
    else:
        # "not running" is what the watch saw a moment ago, before systemd said that it runs.
        state = "ready" if seen == "ready" else "starting"
    for each in ENGINE_STATES:
        yield "engine_state", {"replica": number, "state": each}, int(each == state)
    if pairs.get("NRestarts", "").isdigit():
        yield "engine_restarts", {"replica": number}, int(pairs["NRestarts"])
    gate = re.search(r"path=\S*engine-gate ;.*?code=(\S+) ; status=(\d+)", block)
    if active == "active":
        yield "engine_gate_open", {"replica": number}, 1
    elif gate and gate.group(1) != "(null)":
        yield "engine_gate_open", {"replica": number}, int(gate.group(2) == "0")


def reboot(config: Config) -> Iterator[Metric]:
    """Whether a package asks for a reboot (Debian's and Ubuntu's way to say so)."""
    yield (
        "reboot_pending",
        {},
        int(any(os.path.exists(ROOT + p) for p in ("/run/reboot-required", "/var/run/reboot-required"))),
    )


PARTS: dict[str, tuple[Callable[[Config], Iterator[Metric]], Callable[[Config], bool]]] = {
    "gpus": (gpus, lambda config: config["gpus"] > 0),
    "xids": (xids, lambda config: config["gpus"] > 0),
    "drives": (drives, lambda config: True),
    "weights": (weights, lambda config: True),
    "release": (release, lambda config: True),
    "engines": (engines, lambda config: True),
    "reboot": (reboot, lambda config: True),
}
"""Part -> what yields its (metric, labels, value), and whether the host has it."""


def collect(config: Config) -> str:
    """Everything in Prometheus' text format."""
    began = time.monotonic()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for part, (read_part, applies) in PARTS.items():
        if not applies(config):
            continue
        values: list[Metric] = []
        success = 1
        try:
            for metric in read_part(config):
                values.append(metric)
        except Exception as error:  # whatever is wrong with one part must not take the others
            print(f"{part}: {error}", file=sys.stderr)
            success = 0
        for name, labels, value in [*values, ("collector_success", {"part": part}, success)]:
            found.setdefault(name, []).append((labels, value))
    found["collector_duration_seconds"] = [({}, round(time.monotonic() - began, 3))]
    found["collector_timestamp_seconds"] = [({}, round(time.time()))]
    lines = []
    for name in sorted(found):
        lines += [f"# HELP metalserve_{name} {HELP[name]}", f"# TYPE metalserve_{name} gauge"]
        lines += [f"metalserve_{name}{spelled(labels)} {value}" for labels, value in found[name]]
    return "\n".join(lines) + "\n"


def spelled(labels: dict[str, str]) -> str:
    """Labels as Prometheus reads them."""
    escape = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}
    inside = ",".join(
        f'{name}="{"".join(escape.get(c, c) for c in str(value))}"' for name, value in sorted(labels.items())
    )
    return "{" + inside + "}" if inside else ""


def write(path: str, text: str) -> None:
    """Replace a file at once: the exporter reads it at any moment."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.new"  # not *.prom: node_exporter does not read it
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def main(arguments: Sequence[str]) -> int:
    """Collect once."""
    os.environ.update(
        LC_ALL="C",
        PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" if not ROOT else os.environ["PATH"],
    )
    try:
        with open(arguments[0] if arguments else CONFIG, encoding="utf-8") as stream:
            config = json.load(stream)
    except (OSError, ValueError) as error:
        print(f"collect-metrics: {error} -> run roles.node_metrics again", file=sys.stderr)
        return 1
    write(ROOT + config["output"], collect(config))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
