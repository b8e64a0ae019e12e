"""Which causes are only what others bring about, or say again: tables for the verdict. Pure."""

from __future__ import annotations

from typing import Final

CONSEQUENCES: Final = frozenset(
    {"collective-hang", "engine-hang", "engine-died", "engine-gpu-error", "engine-memory-error", "program-fault"}
)
"""What an engine shows when its GPU, its fabric or its host is to blame."""
EXPLAINED_BY: Final = frozenset({"gpu", "fabric", "host", "pcie", "drive", "filesystem"})
WHY_ENGINES_DIE: Final = frozenset({
    "bad-flags", "model-does-not-fit", "memory-taken", "gpu-out-of-memory", "weights-missing", "out-of-memory",
    "fabric-not-ready", "cuda-mismatch", "collective-hang", "engine-memory-error", "driver-absent", "driver-too-old",
    "gpu-not-shown", "container-runtime", "container-lost-gpus", "image-missing", "port-taken", "shm-small",
    "build-unfit", "model-unsupported", "nccl-network", "compile-failed", "disk-full",
})  # fmt: skip
"""An engine that died for one of these has that for its cause, not its death."""
WHY_NOT_COMPILED: Final = ("model-does-not-fit", "gpu-out-of-memory", "memory-taken", "disk-full", "build-unfit")
"""What a compiler meets, and tells inside its own failure."""
WHY_NO_CONTAINER: Final = ("gpu-off-bus", "driver-mismatch", "driver-absent", "driver-too-old", "gpu-not-shown", "uvm")
"""What the container runtime meets, and tells beside its own failure."""

AFTERMATH: Final = frozenset({"engine-died", "nccl-network", "collective-hang"})
"""What the other ranks of an engine tell when one of them ended, and what its supervisor tells."""
_ENDS_A_RANK: Final = (
    "gpu-out-of-memory", "model-does-not-fit", "memory-taken", "out-of-memory", "weights-missing", "model-unsupported",
    "build-unfit", "compile-failed", "bad-flags", "shm-small", "disk-full", "gpu-not-shown",
)  # fmt: skip

TOLD_BETTER_BY: Final = {
    "nccl-network": _ENDS_A_RANK,
    "collective-hang": _ENDS_A_RANK,
    "kernel-oops": ("driver-crash",),
    "task-stuck": (
        "driver-hang", "gpu-off-bus", "io-stuck", "storage-remote", "drive-gone", "array-failed", "host-hang",
        "kernel-oops", "driver-crash", "nic-fault", "out-of-memory", "drive-slow",
    ),
    "gpu-removed": ("gpu-off-bus", "gpu-no-init", "gsp", "reset-asked", "reboot-asked", "gpu-fault", "driver-hang"),
    "cpu-corrected": ("host-memory-corrected", "host-memory", "cpu-fault"),
    "cpu-fault": ("host-memory", "board-power"),
    "cpu-recorded": ("host-memory", "host-memory-corrected", "cpu-fault"),
    "host-memory-corrected": ("host-memory",),
    "pcie-corrected": ("pcie-uncorrected", "pcie-fatal"),
    "pcie-uncorrected": ("pcie-fatal",),
    "memory-short": ("out-of-memory",),
    "nic-link-down": ("nic-fault", "nic-cable"),
    "drive-warning": ("drive-bad", "drive-gone"),
    "container-lost-gpus": ("gpu-off-bus", "gpu-no-init", "driver-crash", "driver-hang"),
    "bad-flags": ("model-unsupported",),  # the configuration that is refused is the model's own
    "model-unsupported": ("build-unfit",),  # a model's file that cannot be imported is one that vLLM does not know
    "gpu-out-of-memory": ("model-does-not-fit",),
}  # fmt: skip
"""What several lines tell of one event: the record of a memory error comes with one of the processor that met it."""

BY_ENGINES: Final = "log of "
"""How the origin begins of what engines and containers say."""
