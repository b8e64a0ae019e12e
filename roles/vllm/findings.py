"""What is said of an engine that was asked: pure."""

from __future__ import annotations

from metalserve.settings import ModelSettings
from metalserve.verify.finding import Finding
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
