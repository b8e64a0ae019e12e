"""Watching a unit in which the agent works: the shell that looks, and what it says. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from metalserve.desired.follow import Follow, Look
from metalserve.weights.host import RUN
from metalserve.weights.progress import Progress, read_progress
from metalserve.weights.units import Verb, unit_name

_RUNNING = ("active", "activating", "deactivating", "reloading")


def follow(verb: Verb, key: str) -> Follow:
    """Return how the unit that works on a model is followed until it has ended."""
    unit = unit_name(verb, key)
    # A check tells how far it is in a file of its own, so that it hides no staging.
    job = f"{key}-check" if verb == "check" else key
    return Follow(script=lambda seconds: follow_script(unit, job, seconds), read=lambda lines: look(unit, lines))


def follow_script(unit: str, job: str, seconds: int) -> str:
    """Return the shell that waits until a unit has ended, `seconds` at most, and says how far its job is."""
    quoted = shlex.quote(unit)
    return f"""
LC_ALL=C; export LC_ALL
ms_n=0
while [ "$ms_n" -lt {seconds * 5} ]; do
  case $(systemctl is-active {quoted} 2>/dev/null) in {"|".join(_RUNNING)}) ;; *) break ;; esac
  ms_n=$((ms_n + 1))
  sleep 0.2
done
systemctl show -p ActiveState -p Result {quoted} | sed 's/^/@@/'
printf '@@progress %s\n' "$(tr -d '\n' <{RUN}/{shlex.quote(job)}.json 2>/dev/null)"
ms_run=$(systemctl show -p InvocationID --value {quoted})
[ -z "$ms_run" ] || {{ journalctl -q -o cat --no-pager -n 20 "_SYSTEMD_INVOCATION_ID=$ms_run" || :; }} 2>/dev/null |
  sed 's/^/@@said /'
"""


def look(unit: str, lines: Sequence[str]) -> Look:
    """Read what `follow_script` printed.

    A unit that ended badly says why in its progress, or in the last line of its journal: what, `->`, what to do.
    """
    told = dict(line[2:].split("=", 1) for line in lines if line.startswith("@@") and "=" in line.split(" ")[0])
    progress = next((read_progress(line[11:]) for line in lines if line.startswith("@@progress ")), None)
    words = progress.in_words() if progress is not None else ""
    data = as_dict(progress) if progress is not None else {}
    if told.get("ActiveState") in _RUNNING:
        return Look(running=True, words=words or f"{unit} runs", data=data)
    if told.get("ActiveState") == "inactive" and told.get("Result") in ("success", ""):
        return Look(running=False, words=words, data=data)
    said = [line[7:].strip() for line in lines if line.startswith("@@said ") and line[7:].strip()]
    what, remedy = _why(unit, told.get("Result", ""), progress, said)
    return Look(running=False, words="", failed=what, remedy=remedy, data=data)


def _why(unit: str, result: str, progress: Progress | None, said: Sequence[str]) -> tuple[str, str]:
    if result in ("signal", "core-dump", "oom-kill", "watchdog", "timeout"):
        return f"{unit} was ended from outside ({result})", "run again: what came is kept, it goes on from there"
    if progress is not None and progress.error:
        return progress.error, progress.remedy or f"journalctl -u {unit} -n 50"
    named = next((line for line in reversed(said) if " -> " in line), said[-1] if said else "")
    what, _, remedy = named.partition(" -> ")
    return what or f"{unit} failed ({result or 'not known why'})", remedy or f"journalctl -u {unit} -n 50"


def as_dict(progress: Progress) -> dict[str, object]:
    """Return a look at a job for JSON; bytes and seconds."""
    return {
        "job": progress.job,
        "phase": progress.phase,
        "bytes_total": progress.bytes_total,
        "bytes_done": progress.bytes_done,
        "bytes_from_peers": progress.from_peers,
        "bytes_from_source": progress.from_source,
        "rate_bytes_s": round(progress.rate),
        "eta_s": None if progress.eta_s is None else round(progress.eta_s),
        "files_total": progress.files_total,
        "files_done": progress.files_done,
        "error": {"what": progress.error, "remedy": progress.remedy} if progress.error else None,
    }
