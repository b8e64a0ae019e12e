"""What the inventory says about GPUs against what the catalogue knows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metalserve.catalogue.loader import load_gpus
from metalserve.catalogue.models import CatalogueError, GpuSpec

if TYPE_CHECKING:
    from metalserve.settings.host import HostSettings

_JOINED_BY: dict[str, tuple[str, ...]] = {
    "nvswitch": ("nvswitch", "nvlink5", "imex", "mixed"),
    "bridge": ("bridge", "mixed"),
}
"""`expect.links` to the catalogue's words for the fabric of a GPU that can be joined so."""


def gpu_contradictions(settings: HostSettings) -> list[tuple[str, str]]:
    """Return, as (key, what), settings that the GPU named in `expect.gpu` cannot have."""
    if settings.expect.gpu is None:
        return []
    try:
        spec = load_gpus().by_id(settings.expect.gpu)
    except CatalogueError as error:
        return [("expect.gpu", str(error))]
    return [*_links(settings, spec), *_modules(settings, spec)]


def _links(settings: HostSettings, spec: GpuSpec) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    links, count = settings.expect.links, settings.expect.nvlinks_per_gpu
    if links in ("nvswitch", "bridge", "direct") and spec.nvlink is None:
        found.append(("expect.links", f"{spec.id} has no NVLink; only 'pcie' is possible"))
    elif links in _JOINED_BY and spec.fabric not in _JOINED_BY[links]:
        found.append(("expect.links", f"{spec.id} is not joined by '{links}' (the catalogue says: {spec.fabric})"))
    elif links == "direct" and spec.fabric == "bridge":
        found.append(("expect.links", f"{spec.id} is a card joined by 'bridge' or 'pcie', not 'direct'"))
    if count is not None and count > (spec.nvlink.links if spec.nvlink else 0):
        most = spec.nvlink.links if spec.nvlink else 0
        found.append(("expect.nvlinks_per_gpu", f"{count} is more than the {most} of {spec.id}"))
    return found


def _modules(settings: HostSettings, spec: GpuSpec) -> list[tuple[str, str]]:
    chosen = settings.driver.modules
    if chosen == "proprietary" and spec.kernel_modules == "open-required":
        return [("driver.modules", f"'proprietary' modules do not drive {spec.id}; take 'auto' or 'open'")]
    if chosen == "open" and spec.kernel_modules == "proprietary-only":
        return [("driver.modules", f"'open' modules do not drive {spec.id}; take 'auto' or 'proprietary'")]
    return []
