"""Would the next reboot break this node? All checks of the next boot, and their verdict. Pure.

None of them fails a host: it serves, and what they tell of is yet to come (docs/decisions/0018).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final, Literal

from metalserve.hardware.node import NodeHardware
from metalserve.releases import Release
from metalserve.verify.finding import Finding, Status
from metalserve.verify.next_boot_case import HOST, Case, Look
from metalserve.verify.next_boot_kernel import check_headers, check_initramfs, check_kernel, check_nouveau
from metalserve.verify.next_boot_modules import (
    check_dkms,
    check_module,
    check_services,
    check_signature,
    check_versions,
)
from metalserve.verify.next_boot_packages import (
    check_branch,
    check_half_installed,
    check_pins,
    check_space,
    check_toolkit,
    check_upgrades,
)
from metalserve.verify.next_kernel import next_kernel

Answer = Literal["YES", "NO", "UNKNOWN", "NOT APPLICABLE"]

VERDICT: Final = "next-boot"
"""The check whose finding is the verdict; the others are called `next-boot-...`."""
_EXPECTED: Final = "the next reboot would not break this node"
_STATUS: Final[dict[Answer, Status]] = {
    "YES": "warn",
    "NO": "ok",
    "UNKNOWN": "inconclusive",
    "NOT APPLICABLE": "skipped",
}
_SOURCE: Final = "the files that the next boot reads"


@dataclass(frozen=True)
class Outlook:
    """What the next reboot would do to a node.

    Attributes:
        answer: would it break it: YES, NO, UNKNOWN, or NOT APPLICABLE (no driver yet, or no kernel of its own).
        reasons: why, in words; the first one is the root.
        kernel: the kernel that boots next, or `None`.
        findings: of all checks, good ones too, the verdict first.
    """

    answer: Answer
    reasons: tuple[str, ...]
    kernel: str | None
    findings: tuple[Finding, ...]

    @property
    def words(self) -> str:
        """The verdict as one line, without the host's name."""
        return _words(self.answer, self.reasons)


def next_boot(hardware: NodeHardware, release: Release, *, today: date, persistence: bool = True) -> Outlook:
    """Predict the next boot of a node.

    Args:
        hardware: all that was observed of it, `hardware.boot` above all.
        release: the pinned versions that it is held against.
        today: for ends of life.
        persistence: nvidia-persistenced is to run.
    """
    boot = hardware.boot
    if boot is None:
        return _outlook("UNKNOWN", ("what the next boot will find was not read",), None, [])
    chosen = next_kernel(boot)
    kernel = boot.kernel(chosen.release) if chosen.release is not None else None
    case = Case(hardware, boot, release, chosen, kernel, today, persistence)
    common = [
        check_half_installed(case),
        check_pins(case),
        *check_upgrades(case),
        check_branch(case),
        check_toolkit(case),
        *check_space(case),
    ]
    if not hardware.pci_gpus and not hardware.gpus:
        return _outlook("NOT APPLICABLE", ("no NVIDIA GPU",), chosen.release, common)
    if _no_driver(case):
        return _outlook("NOT APPLICABLE", ("no driver is installed yet",), chosen.release, common)
    if case.container and boot.menu is None and not any(k.image for k in boot.kernels):
        why = "a container boots no kernel of its own: the machine's beneath decides"
        return _outlook("NOT APPLICABLE", (why,), None, common)
    core = [
        check_kernel(case),
        check_module(case),
        *check_versions(case),
        check_signature(case),
        check_nouveau(case),
        check_initramfs(case),
        *check_services(case),
        check_headers(case),
        *check_dkms(case),
    ]
    looks = [*core, *common]
    breaks = tuple(dict.fromkeys(look.breaks for look in looks if look.breaks))
    unsure = tuple(dict.fromkeys(look.unsure for look in looks if look.unsure))
    if breaks:
        return _outlook("YES", breaks, chosen.release, looks)
    if unsure:
        return _outlook("UNKNOWN", unsure, chosen.release, looks)
    assert kernel is not None and kernel.module is not None  # each check that lacks them is unsure or breaks
    why = f"kernel {kernel.release} has nvidia {kernel.module.version}, which it can load and which fits"
    return _outlook("NO", (why,), kernel.release, looks)


def _no_driver(case: Case) -> bool:
    """Nobody has installed a driver: there is nothing to break."""
    modules = any(k.module is not None or k.module_files for k in case.boot.kernels)
    packages = any("nvidia" in p.name and "container" not in p.name for p in case.boot.packages)
    loaded = case.hardware.module_version is not None or case.hardware.smi_state != "absent"
    return not (modules or packages or loaded or case.boot.library or case.hardware.module_on_disk)


def _outlook(answer: Answer, reasons: tuple[str, ...], kernel: str | None, looks: list[Look]) -> Outlook:
    first = next((look.finding for look in looks if look.breaks), None)
    first = first or next((look.finding for look in looks if look.unsure), None)
    verdict = Finding(
        VERDICT,
        _STATUS[answer],
        HOST,
        _EXPECTED,
        _words(answer, reasons),
        "the node is dead after the next reboot, planned or not" if answer == "YES" else "",
        first.remedy if first is not None and answer in ("YES", "UNKNOWN") else "",
        _SOURCE,
        "; ".join(reasons),
    )
    return Outlook(answer, reasons, kernel, (verdict, *(look.finding for look in looks)))


def _words(answer: Answer, reasons: tuple[str, ...]) -> str:
    because = ", because" if answer == "YES" else ":"
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return f"{answer}{because} {reasons[0]}{more}"


def answer_of(observed: str) -> Answer:
    """Return the answer that a verdict's words begin with (reports keep findings as words)."""
    answers: tuple[Answer, ...] = ("YES", "NOT APPLICABLE", "NO")
    return next((answer for answer in answers if observed.startswith(answer)), "UNKNOWN")
