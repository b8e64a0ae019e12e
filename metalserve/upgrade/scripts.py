"""Shell of what upgrades and recoveries have in common: engines stopped, GPUs freed, modules exchanged, units started.

Each is a piece of a mending script: POSIX sh, root, `set -eu`, after the prelude (desired/prelude.sh).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def stop_engines(units: Sequence[str]) -> str:
    """Return what stops engines as gracefully as their units say: running requests are finished first.

    Args:
        units: systemd names; all at once, since each takes as long as its longest request.
    """
    words = " ".join(map(shlex.quote, units))
    # A unit that gives up by itself has not been stopped.
    return f"systemctl stop {words}\nsystemctl reset-failed {words} 2>/dev/null || :\n"


def stop_in_order(units: Sequence[str]) -> str:
    """Return what stops units one after the other."""
    return "".join(f"systemctl stop {shlex.quote(name)}\n" for name in units)


def start_in_order(units: Sequence[str]) -> str:
    """Return what starts units one after the other; one that does not start is told and stops nothing."""
    return "".join(f"systemctl start {shlex.quote(u)} || echo '{u} did not start'\n" for u in units)


def exchange_modules(unload: Sequence[str], load: Sequence[str], driver: str) -> str:
    """Return what exchanges the modules in the running kernel.

    What cannot be unloaded is told, with status 0: the modules are loaded again after a reboot.

    Args:
        unload: modules in the order in which they go.
        load: modules that are loaded then.
        driver: what is loaded, in words ("driver 580.1"), for the failure.
    """
    return f"""
ms_was=; ms_left=
for m in {" ".join(unload)}; do
  lsmod | grep -q "^$m " || continue
  if [ -z "$ms_left" ] && rmmod "$m"; then ms_was="$m $ms_was"; else ms_left="$ms_left $m"; fi
done
if [ -n "$ms_left" ]; then echo "could not be unloaded:$ms_left"; exit 0; fi
for m in {" ".join(load)}; do
  modprobe "$m" || {{
    dmesg 2>/dev/null | grep NVRM | tail -n 3
    ms_fail "module $m of {driver} does not load -> read dmesg on the host"
  }}
done
# What stood on the driver before (nvidia-peermem, gdrdrv ...) and is not loaded by itself.
for m in $ms_was; do modprobe "$m" || echo "module $m is not loaded again"; done
"""
