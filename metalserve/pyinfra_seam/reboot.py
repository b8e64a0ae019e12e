"""Restart a host and wait until it has really come back.

pyinfra's own reboot compares uptimes, which a container shares with its machine, and counts tries instead of time.
Here a marker in /run (gone with the boot) proves the restart on metal, in a VM and in a container alike.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import gevent

from metalserve.desired.model import Reboot
from metalserve.errors import MetalserveError

if TYPE_CHECKING:
    from metalserve.pyinfra_seam.hostrun import HostRun

# Prints nothing; the host goes down a second later.
REQUEST = """
mkdir -p /run/metalserve && : >/run/metalserve/reboot-marker && sync
( sleep 1; systemctl reboot || reboot ) </dev/null >/dev/null 2>&1 &
"""
# Prints "old" in the boot that was asked to end, "new" in the next one, when its services have started.
LOOK = """
[ ! -e /run/metalserve/reboot-marker ] || { echo old; exit 0; }
# A host that answers SSH may still be starting services; what fails to start is for the roles to say.
timeout 180 systemctl is-system-running --wait >/dev/null 2>&1 || :
echo new
"""


def reboot_and_wait(run: HostRun, reboot: Reboot) -> None:
    """Restart the host of `run` and return when it answers in its new boot.

    Raises:
        MetalserveError: it has not come back within `reboot.timeout_s` seconds of real time.
    """
    run.host.log(f"rebooting: {reboot.reason}")
    run.shell(REQUEST, timeout_s=60)
    run.release_lock()
    deadline = time.monotonic() + reboot.timeout_s
    while True:
        gevent.sleep(2)
        if time.monotonic() >= deadline:
            raise MetalserveError(
                f"did not come back within {reboot.timeout_s} s of its reboot ({reboot.reason})",
                remedy="look at its console through the BMC; raise driver.reboot_timeout_s if it only POSTs slowly",
            )
        with contextlib.suppress(Exception):  # the old connection may be dead already, which is what is wanted
            run.host.disconnect()
        run.host.connected = False
        run.host.connect(show_errors=False)
        if not run.host.connected:
            continue
        try:
            _, lines = run.shell(LOOK, timeout_s=240)
        except MetalserveError:
            continue  # it went down while we looked
        if "new" in lines:
            break
    run.fresh = False
    run.hold_lock()
