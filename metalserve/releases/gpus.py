"""Which GPUs of the catalogue a release serves, and why it does not serve the others. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from metalserve.catalogue.models import Architecture, CudaDrivers, GpuCatalogue, GpuSpec
from metalserve.releases.model import Release, version_key
from metalserve.releases.rules import ReleaseRules, load_rules


@dataclass(frozen=True, slots=True)
class GpuService:
    """Whether a release serves one GPU.

    Attributes:
        gpu: id of the GPU catalogue.
        status: `served`, `not served`, or `unknown` where the catalogue does not tell.
        why: reasons, empty when it is served.
        sources: where the reasons come from.
    """

    gpu: str
    status: Literal["served", "not served", "unknown"]
    why: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {**asdict(self), "why": list(self.why), "sources": list(self.sources)}


def served_gpus(release: Release, gpus: GpuCatalogue, drivers: CudaDrivers) -> list[GpuService]:
    """Judge every GPU of the catalogue, in its order.

    Whether the driver runs the image at all is another rule (`driver-runs-image`).

    Args:
        release: the release.
        gpus: the GPU catalogue.
        drivers: the CUDA and driver rules.
    """
    return [_service(spec, release, drivers, load_rules()) for spec in gpus.gpus]


def _service(spec: GpuSpec, release: Release, drivers: CudaDrivers, rules: ReleaseRules) -> GpuService:
    architecture = _architecture(spec, drivers)
    if architecture is None:
        return GpuService(spec.id, "unknown", (f"architecture {spec.architecture} is not in the catalogue",))
    against = [*_by_driver(spec, architecture, release, rules), *_by_cuda(architecture, release)]
    built, unknown = _by_image(spec, release, rules)
    against += built
    unknown = _first_branch_unknown(architecture, release, drivers) or unknown
    if against:
        why, sources = zip(*against, strict=True)
        return GpuService(spec.id, "not served", why, tuple(dict.fromkeys(sources)))
    if unknown:
        return GpuService(spec.id, "unknown", (unknown,))
    return GpuService(spec.id, "served")


def _architecture(spec: GpuSpec, drivers: CudaDrivers) -> Architecture | None:
    # By capability first: GB10 is of the name Blackwell and has a row of its own.
    own = (a for a in drivers.architectures if spec.compute_capability in a.compute_capabilities)
    return next(own, None) or drivers.architecture(spec.architecture)


def _by_driver(spec: GpuSpec, limits: Architecture, release: Release, rules: ReleaseRules) -> list[tuple[str, str]]:
    branch, open_only = release.driver.branch, rules.open_modules_only
    found = []
    if limits.min_branch is not None and branch < limits.min_branch:
        found.append((f"{limits.name} needs driver branch {limits.min_branch} or newer, not {branch}", limits.source))
    if limits.last_branch is not None and branch > limits.last_branch:
        found.append((f"driver branch {limits.last_branch} was the last for {limits.name}", limits.source))
    elif spec.kernel_modules == "proprietary-only" and branch >= open_only.branch:
        words = f"it needs proprietary kernel modules, branch {branch} has open ones only"
        found.append((words, rules.sources[open_only.source]))
    return found


def _first_branch_unknown(limits: Architecture, release: Release, drivers: CudaDrivers) -> str:
    branch = drivers.branch(release.driver.branch)
    if limits.min_branch is not None or limits.first_cuda is None or branch is None or branch.cuda is None:
        return ""
    if version_key(branch.cuda) >= version_key(limits.first_cuda):
        return ""
    return (
        f"the first driver branch for {limits.name} is not in the catalogue, and branch {branch.branch} brings CUDA "
        f"{branch.cuda}, before its first toolkit {limits.first_cuda}"
    )


def _by_cuda(limits: Architecture, release: Release) -> list[tuple[str, str]]:
    cuda = release.vllm.cuda
    found = []
    if limits.first_cuda is not None and version_key(cuda) < version_key(limits.first_cuda):
        found.append((f"{limits.name} needs CUDA {limits.first_cuda}, the image has {cuda}", limits.source))
    if limits.last_cuda is not None and version_key(cuda)[0] > version_key(limits.last_cuda)[0]:
        found.append((f"CUDA {limits.last_cuda} was the last for {limits.name}, the image has {cuda}", limits.source))
    return found


def _by_image(spec: GpuSpec, release: Release, rules: ReleaseRules) -> tuple[list[tuple[str, str]], str]:
    image = rules.image(release.vllm.version)
    if image is None:
        return [], f"what vLLM {release.vllm.version} was compiled for is not in the catalogue"
    compiled = rules.compiled_for[image.compiled]
    # GPUs with a link to the processor (Grace) stand in ARM hosts.
    machine = "aarch64" if "c2c" in spec.features else "x86_64"
    listed = compiled.aarch64 if machine == "aarch64" else compiled.x86_64
    if listed is None:
        return [], f"what vLLM {release.vllm.version} was compiled for on {machine} is not in the catalogue"
    major, minor = spec.capability
    for entry in listed:
        built = version_key(entry)
        if built[0] == major and built[1] <= minor:
            return [], ""
    capability = spec.compute_capability
    words = f"the {machine} image of vLLM {release.vllm.version} is compiled for {', '.join(listed)}, not {capability}"
    return [(words, rules.sources[compiled.source])], ""
