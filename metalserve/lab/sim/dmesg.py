"""The simulated dmesg: only the simulated kernel log, since the machine's own is not this host's.

Where only the GPUs are simulated the machine's own log comes first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from .state import Lab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Out = Callable[[str], None]

REAL_DMESG = "/usr/metalserve-lab/dmesg"
LEVELS = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")


def main(lab: Lab, args: list[str], out: Out, err: Out) -> int:
    """Run `dmesg ARGS`: -T, --time-format, -t, -x, -l LEVELS; others are taken and change nothing."""
    if lab.only_gpus and lab.system == "/" and os.path.exists(REAL_DMESG):
        sys.stdout.flush()
        status = subprocess.run([REAL_DMESG, *args], check=False).returncode
        if status:
            return status
    form, decode, levels = "raw", False, set(range(8))
    words = list(args)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word in ("-T", "--ctime"):
            form = "ctime"
        elif word in ("-t", "--notime"):
            form = "notime"
        elif word in ("-x", "--decode"):
            decode = True
        elif name == "--time-format":
            form = value if equals else (words.pop(0) if words else "raw")
        elif word in ("-l", "--level") or name == "--level":
            chosen = value if equals else (words.pop(0) if words else "")
            levels = {LEVELS.index(each) for each in chosen.split(",") if each in LEVELS}
        elif word in ("-C", "--clear"):
            err("dmesg: clear kernel buffer failed: not simulated in the metalserve lab")
            return 1
    boot = lab.booted_at()
    for line in lab.log_lines():
        if line["level"] not in levels:
            continue
        stamp = _stamp(form, float(line["at"]), boot)
        prefix = f"kern  :{LEVELS[line['level']]:<6}: " if decode else ""
        out(f"{prefix}{stamp}{line['text']}")
    return 0


def _stamp(form: str, at: float, boot: float) -> str:
    since = max(0.0, at - boot)
    if form == "notime":
        return ""
    if form in ("ctime", "reltime"):
        return f"[{time.strftime('%a %b %e %H:%M:%S %Y', time.localtime(at))}] "
    if form == "iso":
        zone = time.strftime("%z", time.localtime(at))
        micro = f"{at % 1:.6f}"[2:]
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(at))},{micro}{zone[:3]}:{zone[3:]} "
    return f"[{since:12.6f}] "
