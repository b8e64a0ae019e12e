"""dcgmi: version and discovery. Diagnostics are not simulated: a pass that nothing stands behind would be a lie."""

from __future__ import annotations

from .container import driver_works
from .state import Lab
from .view import gpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Out = Callable[[str], None]


def main(lab: Lab, args: list[str], out: Out, err: Out) -> int:
    """Run `dcgmi ARGS`."""
    if args[:1] in (["--version"], ["-v"]):
        out(f"\ndcgmi  version: {lab.stand_in('datacenter-gpu-manager-4-core') or ''}\n")
        return 0
    if args[:1] == ["discovery"]:
        found = [gpu for gpu in gpus(lab) if not gpu.lost] if driver_works(lab) else []
        rule = "+--------+----------------------------------------------------------------------+"
        out(f"{len(found)} GPU{'s' if len(found) != 1 else ''} found.\n{rule}")
        out(f"| GPU ID | {'Device Information':<68} |\n{rule}")
        for gpu in found:
            out(f"| {gpu.index:<6} | {'Name: ' + gpu.model['name']:<68} |")
            out(f"|        | {'PCI Bus ID: ' + gpu.smi_bus:<68} |")
            out(f"|        | {'Device UUID: ' + gpu.uuid:<68} |\n{rule}")
        return 0
    err(f"dcgmi {' '.join(args)}: not simulated in the metalserve lab")
    return 1
