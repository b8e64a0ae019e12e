"""Evidence of a node in trouble, as values: logs, hardware, findings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from metalserve.hardware.node import NodeHardware
from metalserve.recovery.bmc_values import BmcEvidence
from metalserve.verify.finding import Finding


@dataclass(frozen=True, slots=True)
class Evidence:
    """What there is to judge by; a part that is missing is `None` or empty, and named in `lacking`.

    Attributes:
        kernel: kernel log of this boot, or `None`.
        earlier: kernel log of the boot before, or `None`: tells why a host went down.
        fabric: log of fabric manager, or `None`.
        engines: name of an engine -> its log.
        smi: what nvidia-smi said when it did not answer as it should; empty when it did, or was not asked.
        smi_status: its exit status then; 124 for one that did not end in time.
        hardware: what the host's tools said, or `None`.
        findings: what the checks said of it.
        silent_engines: names of engines that say they are healthy while no token comes.
        bmc: what the BMC saw, or `None` when it was not asked.
        lacking: what could not be had, in words.
    """

    kernel: str | None = None
    earlier: str | None = None
    fabric: str | None = None
    engines: Mapping[str, str] = field(default_factory=dict)
    smi: str = ""
    smi_status: int = 0
    hardware: NodeHardware | None = None
    findings: tuple[Finding, ...] = ()
    silent_engines: tuple[str, ...] = ()
    bmc: BmcEvidence | None = None
    lacking: tuple[str, ...] = ()
