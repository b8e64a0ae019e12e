"""What `cuda` wants of a host: pure."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.catalogue.loader import load_cuda_drivers, load_gpus
from metalserve.desired.model import Desired, Watch
from metalserve.desired.node import Node
from metalserve.driver.packages import toolkit_package
from metalserve.errors import MetalserveError
from metalserve.releases import Release, version_key
from metalserve.settings import HostSettings
from metalserve.verify.finding import Finding
from roles.nvidia_driver.chosen import plan


def watch(settings: HostSettings, release: Release) -> Watch:
    """Nothing beside packages and hardware, which every observation has."""
    return Watch()


def check_release(node: Node) -> str:
    """Return the oldest driver that runs the engine's image.

    Raises:
        MetalserveError: the release's driver is older, or a GPU of the host is too old for the image's CUDA.
    """
    rules, cuda = load_cuda_drivers(), node.release.vllm.cuda
    needed = rules.min_driver(cuda)
    if needed is None:
        raise MetalserveError(
            f"no driver is known for CUDA {cuda} of {node.release.image}",
            remedy="take a release that the catalogue knows",
        )
    driver = node.release.driver.version
    if node.settings.driver.source == "distro":
        _check_archive(node, needed)
    elif version_key(driver) < version_key(needed):
        raise MetalserveError(
            f"driver {driver} cannot run the CUDA {cuda} of {node.release.image}: it takes {needed} or newer",
            remedy="give this host a release with a newer driver, or with an image of an older CUDA",
        )
    gpus = load_gpus()
    for device_id in dict.fromkeys(d.device_id for d in node.hardware.pci_gpus):
        spec = gpus.by_pci_id(device_id)
        limits = rules.architecture(spec.architecture) if spec is not None else None
        if spec is None or limits is None or limits.last_cuda is None:
            continue
        if version_key(limits.last_cuda)[0] < version_key(cuda)[0]:
            raise MetalserveError(
                f"{spec.id} ({limits.name}): CUDA {limits.last_cuda} was the last with support for it, "
                f"{node.release.image} has {cuda}",
                remedy="take this host out of the serving group, or give it a release with an older image",
            )
    return needed


def _check_archive(node: Node, needed: str) -> None:
    # The archive decides the version: what is known before is its branch. The loaded driver is proved as ever.
    chosen = plan(node)
    if chosen.cuda.met is False and not chosen.cuda.too_old:
        raise MetalserveError(
            f"{chosen.origin.name} has driver branch {chosen.branch}, which cannot run the CUDA {chosen.cuda.image} of "
            f"{node.release.image}: it takes {needed} or newer",
            remedy="set driver.source to 'nvidia', or give this host a release with an image of an older CUDA",
        )


def install(node: Node) -> Desired:
    """The toolkit where it is asked for; containers bring their own CUDA."""
    check_release(node)
    if not node.settings.cuda.toolkit:
        return Desired()
    return Desired(packages=(toolkit_package(node.release.cuda.toolkit),))


def findings(node: Node) -> Sequence[Finding]:
    """Prove that the loaded driver runs the image's CUDA."""
    needed = check_release(node)
    node.need_driver("whether the driver runs the image's CUDA")
    loaded = node.hardware.module_version
    return (
        Finding(
            check="cuda-driver",
            status="ok" if loaded is not None and version_key(loaded) >= version_key(needed) else "fail",
            subject=node.name,
            expected=f"driver {needed} or newer, for CUDA {node.release.vllm.cuda}",
            observed=loaded or "none",
            impact="the engine would stop with CUDA error 803 or 35",
            remedy="run roles.nvidia_driver",
            source="CUDA compatibility guide",
        ),
    )
