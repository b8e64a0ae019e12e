"""Entries of /etc/fstab for the models' mount: the mount unit takes their place, so that there is one truth. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial

from metalserve.desired.model import Action
from metalserve.desired.observed import Observation
from metalserve.errors import MetalserveError
from roles.storage.choice import Volume
from roles.storage.drives import LABEL

SECTION = "storage-fstab"
COMMAND = r"""awk '$1 !~ /^#/ && NF >= 2 { print $1 "\t" $2 "\t" $3 }' /etc/fstab 2>/dev/null; :"""

_TURN_OFF = r"""ms_new=$(mktemp /etc/.fstab.XXXXXXXX)
awk -v t="$ms_at" '$1 !~ /^#/ && NF >= 2 { at = $2; sub(/\/+$/, "", at)
  if (at == t) { print "# metalserve mounts it by a unit: " $0; next } } { print }' /etc/fstab >"$ms_new"
chmod --reference=/etc/fstab "$ms_new" && sync "$ms_new" && mv -f "$ms_new" /etc/fstab
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of /etc/fstab: what is mounted, where, as what."""

    source: str
    target: str
    filesystem: str


def entries(observed: Observation, target: str) -> tuple[Entry, ...]:
    """Return the entries for exactly this target."""
    found = []
    for line in observed.text(SECTION).splitlines():
        words = [*line.split("\t"), "", "", ""]
        if words[1].rstrip("/") == target:
            found.append(Entry(words[0], words[1], words[2]))
    return tuple(found)


def refuse_other(observed: Observation, volume: Volume, target: str) -> None:
    """Refuse an entry that mounts something else there, before anything is written to a drive.

    Raises:
        MetalserveError: with what it mounts.
    """
    for entry in entries(observed, target):
        same = {f"UUID={volume.uuid}", f"/dev/disk/by-uuid/{volume.uuid}", f"LABEL={LABEL}", volume.device}
        if entry.source.replace('"', "") not in same:
            raise MetalserveError(
                f"mounts {entry.source} on {target}, but the models' file system is to be on {volume.device}",
                where="/etc/fstab",
                remedy="remove that line, set storage.mount to another place, or storage.device: none to use it so",
            )


def taken_over(observed: Observation, volume: Volume, target: str) -> tuple[Action, ...]:
    """Return what turns off an entry that mounts the very same file system; nothing where there is none.

    systemd would prefer the unit, but `mount -a` and whoever reads the file would go by the entry.

    Raises:
        MetalserveError: an entry mounts something else there.
    """
    refuse_other(observed, volume, target)
    found = entries(observed, target)
    if not found:
        return ()
    return (
        Action(
            name=f"turn off the entry of {target} in /etc/fstab: the mount unit takes its place",
            why=", ".join(entry.source for entry in found),
            phase="early",
            done=partial(_none_left, target=target),
            script=f"ms_at={shlex.quote(target)}\n{_TURN_OFF}",
        ),
    )


def _none_left(seen: Observation, target: str) -> bool:
    return not entries(seen, target)
