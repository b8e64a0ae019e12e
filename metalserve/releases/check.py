"""Do the versions of a release fit together? Rules are data with sources: `catalogue/release_rules.yaml`."""

from __future__ import annotations

from datetime import date, timedelta
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import yaml
from pydantic import Field

from metalserve.releases.model import Release, version_key
from metalserve.settings.common import Section

if TYPE_CHECKING:
    from metalserve.catalogue.models import CudaDrivers

SOON = timedelta(days=90)
"""How long before a driver branch's end of life a warning begins: a quarter is what a fleet's upgrade takes."""


class ToolkitFix(Section):
    """A toolkit version and the vulnerabilities it closed."""

    version: str
    cves: list[str]
    source: str


class ToolkitRule(Section):
    """The oldest toolkit without a known way out of a container."""

    minimum_safe: str
    source: str
    fixes: list[ToolkitFix]


class MinimumRule(Section):
    """An oldest version and the reason."""

    version: str
    why: str
    source: str


class CdiRule(Section):
    """The oldest Docker that reads the CDI specs of a toolkit from `toolkit` on."""

    toolkit: str
    version: str
    source: str


class DockerRule(Section):
    """Docker's lower bounds."""

    minimum: MinimumRule
    cdi: CdiRule


class ImageRule(Section):
    """The CUDA version inside a vLLM image; `variants` are tag suffixes with another one."""

    version: str
    cuda: str
    variants: dict[str, str] = Field(default_factory=dict)
    source: str


class ReleaseRules(Section):
    """All rules."""

    sources: dict[str, str]
    container_toolkit: ToolkitRule
    docker: DockerRule
    vllm_images: list[ImageRule]


@cache
def load_rules() -> ReleaseRules:
    """Return the rules of `catalogue/release_rules.yaml`."""
    text = resources.files("metalserve.catalogue").joinpath("release_rules.yaml").read_text(encoding="utf-8")
    return ReleaseRules.model_validate(yaml.safe_load(text))


def check_release(release: Release, catalogue: CudaDrivers) -> list[str]:
    """Return what makes `release` unusable, each `key: what (source)`; empty when its versions fit together.

    Args:
        release: the release.
        catalogue: the CUDA and driver rules (`metalserve.catalogue.loader.load_cuda_drivers`).
    """
    return [*_driver(release, catalogue), *_containers(release), *_image(release, catalogue)]


def _driver(release: Release, catalogue: CudaDrivers) -> list[str]:
    found: list[str] = []
    driver, fabric = release.driver.version, release.fabric_manager.version
    if fabric != driver:
        found.append(f"fabric_manager.version: {fabric} is not the driver's {driver}; it refuses any other driver")
    branch = catalogue.branch(release.driver.branch)
    if branch is None:
        known = ", ".join(str(row.branch) for row in catalogue.branches if row.status == "supported")
        found.append(f"driver.branch: {release.driver.branch} is not in the catalogue (supported: {known})")
    elif branch.cuda is not None and version_key(release.cuda.toolkit) > version_key(branch.cuda):
        found.append(
            f"cuda.toolkit: {release.cuda.toolkit} is newer than the {branch.cuda} that branch {branch.branch} brings"
            f" ({branch.source})"
        )
    return found


def _containers(release: Release) -> list[str]:
    found: list[str] = []
    rules = load_rules()
    toolkit = release.container_toolkit.version
    if version_key(toolkit) < version_key(rules.container_toolkit.minimum_safe):
        open_to = [
            cve
            for fix in rules.container_toolkit.fixes
            if version_key(toolkit) < version_key(fix.version)
            for cve in fix.cves
        ]
        found.append(
            f"container_toolkit.version: {toolkit} is open to {', '.join(open_to)}; "
            f"take {rules.container_toolkit.minimum_safe} or newer ({rules.sources[rules.container_toolkit.source]})"
        )
    minimum, cdi = rules.docker.minimum, rules.docker.cdi
    if version_key(release.docker.minimum) < version_key(minimum.version):
        found.append(
            f"docker.minimum: {release.docker.minimum} is below {minimum.version}: {minimum.why}"
            f" ({rules.sources[minimum.source]})"
        )
    if version_key(toolkit) >= version_key(cdi.toolkit) and version_key(release.docker.cdi_minimum) < version_key(
        cdi.version
    ):
        found.append(
            f"docker.cdi_minimum: {release.docker.cdi_minimum} cannot read the CDI specs of toolkit {toolkit}; "
            f"they need Docker {cdi.version} ({rules.sources[cdi.source]})"
        )
    return found


def _image(release: Release, catalogue: CudaDrivers) -> list[str]:
    found: list[str] = []
    rules, vllm = load_rules(), release.vllm
    needed = catalogue.min_driver(vllm.cuda)
    if needed is None:
        found.append(f"vllm.cuda: no driver is known for CUDA {vllm.cuda}")
    elif version_key(release.driver.version) < version_key(needed):
        found.append(
            f"driver.version: {release.driver.version} cannot run the CUDA {vllm.cuda} of {release.image}; "
            f"it needs {needed} or newer (CUDA compatibility guide)"
        )
    if not (vllm.tag == f"v{vllm.version}" or vllm.tag.startswith(f"v{vllm.version}-")):
        found.append(f"vllm.tag: {vllm.tag!r} is not an image of vLLM {vllm.version} ('v{vllm.version}' is)")
    rule = next((row for row in rules.vllm_images if row.version == vllm.version), None)
    if rule is not None:
        suffix = vllm.tag.removeprefix(f"v{vllm.version}").lstrip("-")
        cuda = next((value for name, value in rule.variants.items() if name in suffix.split("-")), rule.cuda)
        if vllm.cuda != cuda:
            found.append(f"vllm.cuda: {vllm.tag} carries CUDA {cuda}, not {vllm.cuda} ({rules.sources[rule.source]})")
    return found


def release_warnings(release: Release, catalogue: CudaDrivers, *, today: date) -> list[str]:
    """Return what a user of `release` should know, each `key: what`.

    Args:
        release: the release.
        catalogue: the CUDA and driver rules.
        today: the day to compare ends of life with.
    """
    found: list[str] = []
    branch = catalogue.branch(release.driver.branch)
    end = release.end_of_life or (last_day(branch.eol) if branch and branch.eol else None)
    if end is not None and end < today:
        found.append(f"driver.branch: {release.driver.branch} had its end of life on {end}: no security fixes any more")
    elif end is not None and end - today < SOON:
        found.append(
            f"driver.branch: {release.driver.branch} has its end of life on {end}, in {(end - today).days} days"
        )
    elif branch is not None and branch.status == "eol":
        found.append(f"driver.branch: {release.driver.branch} had its end of life: no security fixes any more")
    if release.vllm.digest is None:
        found.append(f"vllm.digest: not recorded, so {release.image} is what the registry says it is on that day")
    if not any(row.version == release.vllm.version for row in load_rules().vllm_images):
        found.append(f"vllm.version: {release.vllm.version} is not in the catalogue, its CUDA version is unchecked")
    return found


def last_day(text: str) -> date:
    """Return the last day of `YYYY-MM` or `YYYY`, the forms in which NVIDIA gives ends of life."""
    year, _, month = text.partition("-")
    number = int(month or 12)
    return date(int(year) + number // 12, number % 12 + 1, 1) - timedelta(days=1)
