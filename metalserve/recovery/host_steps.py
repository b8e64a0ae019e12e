"""The steps of the ladder that run on the host, each as one script. Pure: text out.

A script finds out by itself what runs on the host, since a host in trouble may not be observable; and it writes down
what it stops before it does, so that the next step starts that again when this one is cut off. Engines are killed, not
stopped: the router has drained them already, and one that hangs finishes no request.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

from metalserve.catalogue.driver_reload import load_driver_reload
from metalserve.desired.diff import Change
from metalserve.desired.model import Action
from metalserve.desired.render import render
from metalserve.errors import MetalserveError
from metalserve.recovery.values import Subject
from metalserve.upgrade import scripts

ON_HOST: Final = ("restart-engine", "restart-services", "reset-gpu", "reload-driver", "reboot", "converge")
"""Rungs for which the host itself is enough: no BMC, no boot server."""

BUSY: Final = 75
"""Exit status of a script that found another run at work on the host (sysexits: EX_TEMPFAIL)."""

IDLE: Final = (
    f"for f in lock apply; do [ ! -e /run/metalserve/$f ] || flock -n /run/metalserve/$f true || exit {BUSY}; done"
)
"""Script that ends with `BUSY` while a run, or a script that a run left, is at work (pyinfra_seam/lock.py)."""

STOPPED: Final = "/run/metalserve/recovery-stopped"
"""Units that a step has stopped and nobody has started again."""

_PCI = re.compile(r"[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]")

BOOT_MODULES: Final = ("nvidia", "nvidia-uvm")

_FUNCTIONS = rf"""
ms_engines() {{
  for f in /etc/systemd/system/metalserve-vllm-*.service /etc/containers/systemd/metalserve-vllm-*.container; do
    n=${{f##*metalserve-vllm-}}; n=${{n%.*}}
    case "$n" in ''|*[!0-9]*) ;; *) echo "metalserve-vllm-$n.service" ;; esac
  done | sort -u
}}
ms_runs() {{
  case $(systemctl is-active "$1" 2>/dev/null) in active|activating|deactivating|reloading) ;; *) return 1 ;; esac
}}
ms_end() {{ # UNIT: end its container, a frozen one too
  for r in docker podman; do
    command -v $r >/dev/null || continue
    timeout 20 $r unpause "${{1%.service}}" >/dev/null 2>&1 || :
    timeout 20 $r kill "${{1%.service}}" >/dev/null 2>&1 || :
  done
}}
ms_kill() {{ # UNIT...: end engines at once, without letting systemd start them again
  systemctl stop --no-block "$@"
  for u in "$@"; do ms_end "$u"; done
  ms_until=$(($(date +%s) + 60))
  for u in "$@"; do
    ms_turn=0
    while ms_runs "$u"; do
      [ "$(date +%s)" -lt "$ms_until" ] ||
        ms_fail "$u does not end although it was killed -> a program hangs in the kernel: only a reboot helps"
      sleep 0.2
      ms_turn=$((ms_turn + 1))
      [ $((ms_turn % 25)) -ne 0 ] || ms_end "$u"  # a busy runtime answers late, and a frozen container hears no signal
    done
  done
  systemctl reset-failed "$@" 2>/dev/null || :
}}
ms_free() {{ # stop what has the GPUs open, noted first
  mkdir -p /run/metalserve
  for u in "$@"; do
    ms_runs "$u" || continue
    grep -qsxF "$u" {STOPPED} || echo "$u" >>{STOPPED}
    timeout 90 systemctl stop "$u" || ms_fail "$u does not stop"
  done
}}
ms_again() {{ # start what was stopped, in the opposite order
  [ -s {STOPPED} ] || return 0
  tac {STOPPED} | while read -r u; do
    systemctl reset-failed "$u" 2>/dev/null || :
    timeout 120 systemctl start "$u" || echo "$u did not start"
  done
  rm -f {STOPPED}
}}
ms_serve() {{
  ms_all=$(ms_engines)
  [ -z "$ms_all" ] || {{ systemctl reset-failed $ms_all 2>/dev/null || :; systemctl start --no-block $ms_all; }}
}}
"""


def step_script(rung: str, subjects: Sequence[Subject] = (), *, together: bool = False, who: str = "") -> str:
    """Return the script that makes a step on the host.

    It ends with status 0 when the step was made, `BUSY` when another run is at work there; what it brought is for a
    look to tell.

    Args:
        rung: one of `ON_HOST` without `reboot` and `converge`, which are more than a script.
        subjects: what it is done to; empty for the whole host.
        together: `reset-gpu`: all GPUs of the host together.
        who: who does it, for others that want the host meanwhile; empty: the caller holds the host's lock.

    Raises:
        MetalserveError: no such step, or a subject that is none.
    """
    change = step_change(rung, subjects, together=together)
    script = render((change,))
    return _locked(script, who) if who else script


def step_change(rung: str, subjects: Sequence[Subject] = (), *, together: bool = False) -> Change:
    """Return a step as a change of a role; see `step_script`."""
    bodies = {
        "restart-engine": _restart_engine,
        "restart-services": _restart_services,
        "reset-gpu": _reset_all if together else _reset_gpu,
        "reload-driver": _reload_driver,
    }
    if rung not in bodies:
        raise MetalserveError(f"{rung} is not a step that a script makes on the host")
    about = "" if together else f" {', '.join(s.name for s in subjects[:8])}" if subjects else ""
    words = f"{rung}{about}"
    return Change(Action(words, lambda seen: False, _FUNCTIONS + bodies[rung](subjects)), words)


def _restart_engine(subjects: Sequence[Subject]) -> str:
    numbers = sorted({n for s in subjects if s.kind == "engine" and (n := _engine(s.name)) is not None})
    given = " ".join(f"metalserve-vllm-{n}.service" for n in numbers)
    return f"""
ms_mine={shlex.quote(given)}
[ -n "$ms_mine" ] || ms_mine=$(ms_engines)
[ -n "$ms_mine" ] || ms_fail "this host has no engine -> the main job makes them: deploys/gpu_node.py"
ms_kill $ms_mine
ms_again
systemctl start --no-block $ms_mine
"""


def _engine(name: str) -> int | None:
    found = re.fullmatch(r"(?:engine |metalserve-vllm-)?(\d{1,3})(?:\.service)?", name)
    return int(found[1]) if found else None


_KILL_ENGINES = 'ms_all=$(ms_engines); [ -z "$ms_all" ] || ms_kill $ms_all\n'


def _restart_services(subjects: Sequence[Subject]) -> str:
    units = " ".join(load_driver_reload().units)
    return f"""
{_KILL_ENGINES}ms_free {units}
# One that had died is not among those that ran.
for u in nvidia-persistenced.service nvidia-fabricmanager.service nvidia-imex.service; do
  case $(systemctl is-enabled "$u" 2>/dev/null) in enabled) grep -qsxF "$u" {STOPPED} || echo "$u" >>{STOPPED} ;; esac
done
ms_again
ms_serve
"""


def _reset_all(subjects: Sequence[Subject]) -> str:
    return _reset("")


def _reset_gpu(subjects: Sequence[Subject]) -> str:
    gpus = [s.name for s in subjects if s.kind == "gpu"]
    wrong = next((g for g in gpus if not _PCI.fullmatch(g)), None)
    if wrong is not None:
        raise MetalserveError(f"{wrong!r} is no PCI address of a GPU")
    return _reset(f" -i {','.join(gpus)}" if gpus else "")


def _reset(which: str) -> str:
    # The engines and pollers first, fabric manager last of all (FM User Guide); the persistence daemon may stay, and
    # goes with the others since it is among those that have the GPUs open.
    units = " ".join(load_driver_reload().units)
    return f"""
{_KILL_ENGINES}ms_free {units}
ms_rc=0
ms_said=$(timeout -k 5 120 nvidia-smi -r{which} 2>&1) || ms_rc=$?
printf '%s\\n' "$ms_said" | tail -n 12
ms_again
ms_serve
[ $ms_rc -eq 0 ] || ms_fail "nvidia-smi -r ended with $ms_rc: $(printf '%s\\n' "$ms_said" | grep -m1 . | cut -c1-200)"
"""


def _reload_driver(subjects: Sequence[Subject]) -> str:
    order = load_driver_reload()
    exchange = scripts.exchange_modules(order.unload, BOOT_MODULES, "the driver on disk")
    return f"""
{_KILL_ENGINES}ms_free {" ".join(order.units)}
ms_rc=0
ms_said=$( set -eu
{exchange}) || ms_rc=$?
printf '%s\\n' "$ms_said"
# Whatever came of it, the host is not left without its daemons.
lsmod | grep -q '^nvidia ' || modprobe nvidia || :
ms_again
ms_serve
[ $ms_rc -eq 0 ] || exit $ms_rc
case $ms_said in *'could not be unloaded:'*) ms_fail "modules in use: $(printf '%s\\n' "$ms_said" | tail -n 1)" ;; esac
"""


def _locked(script: str, who: str) -> str:
    """Hold the host's lock (pyinfra_seam/lock.py) while the script runs; daemons that it starts do not inherit it."""
    return (
        "mkdir -p /run/metalserve && exec 9>>/run/metalserve/lock || exit 1\n"
        "if ! flock -n 9; then\n"
        '  echo "another run is at work on this host: $(cat /run/metalserve/holder)"\n'
        f"  exit {BUSY}\nfi\nprintf '%s, process %s here\\n' {shlex.quote(who)} \"$$\" >/run/metalserve/holder\n"
        f"(\n{script}) 9>&-\nms_status=$?\nexit $ms_status\n"
    )
