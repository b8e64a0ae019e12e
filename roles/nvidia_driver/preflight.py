"""Before the driver is touched: dpkg is whole, and there is room. Pure."""

from __future__ import annotations

from metalserve.catalogue.loader import threshold
from metalserve.desired.model import Action, Desired
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.errors import MetalserveError
from roles.nvidia_driver import desired

_CONFIGURE = r"""
ms_deadline=$(( $(date +%s) + ${MS_LOCK_TIMEOUT:-600} ))
while :; do
  if ms_said=$(dpkg --configure -a 2>&1); then break; fi
  case $ms_said in
    *"was locked by"* | *"nable to lock"* | *"Could not get lock"* | *"database area is locked"*)
      [ "$(date +%s)" -lt "$ms_deadline" ] ||
        ms_fail "dpkg is locked by another process after ${MS_LOCK_TIMEOUT:-600} s -> wait for it, then run again"
      echo "waiting for dpkg's lock"; sleep 3; continue ;;
  esac
  printf '%s\n' "$ms_said" | tail -n 15
  # What is half-way for want of a dependency, apt can complete.
  ms_apt -f install || :
  break
done
ms_left=$(dpkg-query -W -f='${db:Status-Abbrev} ${Package}\n' | awk '$1 !~ /^.[inc]/ {print $2}' | tr '\n' ' ')
if [ -n "$ms_left" ]; then
  ms_why=$(printf '%s\n' "$ms_said" | grep -m 1 -A 1 'error processing package' | tr '\n' ' ' | cut -c 1-240)
  ms_fail "dpkg cannot finish: $ms_left(${ms_why:-see the lines above}) -> mend that or purge it, then run again"
fi
"""


def preflight(node: Node) -> Desired:
    """What an earlier installation left half-way is finished; a host without room is refused before the first byte.

    Raises:
        MetalserveError: a file system has too little room for what is to be installed.
    """
    _check_room(node)
    half = _half(node.observed)
    interrupted = node.hardware.boot is not None and node.hardware.boot.interrupted
    if not half and not interrupted:
        return Desired()

    def whole(observed: Observation) -> bool:
        boot = node.with_observation(observed).hardware.boot
        return not _half(observed) and not (boot is not None and boot.interrupted)

    names = ", ".join(half[:8]) or "its journal is not empty"
    what = f"finish what dpkg was left half-way with (dpkg --configure -a): {names}"
    return Desired(
        actions=(Action(what, whole, _CONFIGURE, phase="early"),),
        notes=("an installation was cut off before this run; nothing can be installed until that is finished",),
    )


def _half(observed: Observation) -> list[str]:
    return [f"{p.name} ({p.status.strip()})" for p in observed.packages.values() if not p.installed]


def _check_room(node: Node) -> None:
    boot = node.hardware.boot
    if boot is None:
        return
    chosen = desired.plan(node)
    missing = [p for p in chosen.packages if not p.satisfied_by(node.observed.version_of(p.name))]
    if not missing:
        return
    # The initramfs of each kernel is written anew beside the old one, one kernel after the other.
    largest = max((k.initrd.size for k in boot.kernels if k.initrd is not None), default=0)
    driver = chosen.version or chosen.branch
    for path, need, why in (
        (
            "/var",
            threshold("driver-room").value,
            f"packages and build tree of driver {driver}",
        ),
        ("/boot", largest * 1.1 / 2**20, "the initramfs is written anew beside the old one"),
    ):
        space = boot.spaces.get(path)
        if space is None or space.free_kib / 1024 >= need:
            continue
        raise MetalserveError(
            f"{path} has {space.free_kib / 1024:.0f} MiB free (file system {space.mount}), "
            f"{need:.0f} MiB are needed: {why}",
            remedy="apt-get clean, apt-get autoremove --purge (old kernels), or a larger file system",
        )


__all__ = ["preflight"]
