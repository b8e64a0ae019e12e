"""What is said of an engine that was asked: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.node import NodeHardware
from metalserve.planning import LaunchPlan
from metalserve.planning.placement import joined_by_nvlink
from metalserve.settings import ModelSettings
from metalserve.verify.finding import Finding
from metalserve.verify.numa import check_numa
from roles.vllm.answers import Answer
from roles.vllm.paths import unit_name


def about(model: ModelSettings, answer: Answer, replica: int) -> Finding:
    """Return the finding about one engine: a token is good, one that is busy or has lost its GPUs is a warning."""
    name = model.served_as
    busy = answer.busy(name)
    good = answer.serves(name)
    observed = "busy: no token in 15 s, but its counters move" if busy else answer.in_words()
    impact, remedy = ("requests wait" if busy else "clients get nothing from it"), ""
    status = "ok" if good else "warn" if busy else "fail"
    if good and answer.detached:
        status, observed = "warn", f"it answers, but a program started in its container has no GPU: {answer.detached}"
        impact = "it fails when it next opens a GPU"
        remedy = (
            f"systemctl restart {unit_name(replica)} when it may pause; with container.gpu_access: cdi it stays away"
        )
    return Finding(
        check="answers",
        status=status,  # type: ignore[arg-type]
        subject=f"engine {replica} on port {answer.port}",
        expected=f"{name} completes a prompt",
        observed=observed,
        impact=impact,
        remedy=remedy or f"journalctl -u {unit_name(replica)} -u metalserve-vllm-watch.service -n 50",
        source="/v1/models and one completion",
    )


def over_pcie(hardware: NodeHardware, plan: LaunchPlan) -> Sequence[Finding]:
    """Tell before a start whether GPUs that share layers over PCIe talk through an IOMMU or ports that redirect (ACS).

    vLLM trusts the driver about peer-to-peer copies (VLLM_SKIP_P2P_CHECK is on); where these are translated or
    redirected they hang or give wrong data (vLLM issues 33041 and 51513, NCCL issue 2079).

    Args:
        hardware: the host's.
        plan: its launch plan.
    """
    size = plan.tensor_parallel
    stages = [group[i : i + size] for group in plan.gpus_per_replica for i in range(0, len(group), size)]
    if size < 2 or all(joined_by_nvlink(hardware, stage) for stage in stages):
        return ()
    return tuple(
        replace(
            finding,
            impact=f"{size} GPUs share each layer over PCIe: their copies may hang or give wrong data",
            remedy=f"{finding.remedy}; until then engine.extra_args: ['--disable-custom-all-reduce']",
        )
        for finding in check_numa(hardware, load_gpus())
        if finding.check in ("iommu", "acs") and finding.warning
    )
