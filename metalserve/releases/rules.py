"""The rules of releases and the known vulnerabilities, as data: `catalogue/{release_rules,vulnerabilities}.yaml`."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import Field

from metalserve.releases.model import version_key
from metalserve.settings.common import Section
from metalserve.yaml_text import read_yaml


class Rule(Section):
    """One rule: what it says, where it comes from, what mends a release that breaks it."""

    id: str
    says: str
    source: str
    fix: str
    severity: Literal["refused", "warning"] = "refused"


class MinimumRule(Section):
    """An oldest version and the reason."""

    version: str
    why: str
    source: str


class ToolkitRule(Section):
    """The oldest toolkit without a known way out of a container."""

    minimum_safe: str
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


class DcgmCuda(Section):
    """DCGM's parts for one CUDA major version: the package, and the oldest DCGM that has it."""

    major: int
    minimum: str
    package: str
    source: str


class DcgmGpus(Section):
    """The oldest DCGM that knows some GPUs (ids of the GPU catalogue)."""

    gpus: list[str]
    minimum: str
    source: str


class DcgmRule(Section):
    """DCGM's lower bounds."""

    cuda: list[DcgmCuda]
    gpus: list[DcgmGpus]

    def for_cuda(self, version: str) -> DcgmCuda | None:
        """Return the row of CUDA `version` ("13.0"), or None when none is known."""
        return next((row for row in self.cuda if row.major == version_key(version)[0]), None)


class CompiledFor(Section):
    """Compute capabilities that an image was built for, by machine; None where nothing is known."""

    x86_64: list[str]
    aarch64: list[str] | None = None
    source: str


class ImageRule(Section):
    """The CUDA version inside a vLLM image; `variants` are tag suffixes with another one."""

    version: str
    cuda: str
    variants: dict[str, str] = Field(default_factory=dict)
    compiled: str
    source: str


class BranchRule(Section):
    """A driver branch from which on something holds."""

    branch: int
    source: str


class ReleaseRules(Section):
    """All rules."""

    sources: dict[str, str]
    rules: list[Rule]
    open_modules_only: BranchRule
    container_toolkit: ToolkitRule
    docker: DockerRule
    dcgm: DcgmRule
    compiled_for: dict[str, CompiledFor]
    vllm_images: list[ImageRule]

    def rule(self, rule_id: str) -> Rule:
        """Return the rule called `rule_id`; a KeyError is a mistake in the code that names it."""
        found = next((rule for rule in self.rules if rule.id == rule_id), None)
        if found is None:
            raise KeyError(rule_id)
        return found

    def image(self, version: str) -> ImageRule | None:
        """Return what is known of the images of vLLM `version`, or None."""
        return next((row for row in self.vllm_images if row.version == version), None)


class Vulnerability(Section):
    """Some CVEs and the versions that closed them: one version, or one a driver branch."""

    cves: list[str]
    fixed: str | dict[int, str]
    without_fix: list[int] = Field(default_factory=list, description="affected branches that never got the fix")
    date: str
    score: float | None = None
    what: str
    source: str

    def opens(self, version: str) -> str | None:
        """Tell what closes it for `version`: a version, "" when nothing does, None when `version` is not affected."""
        branch = version_key(version)[0]
        if isinstance(self.fixed, str):
            fixed: str | None = self.fixed
        elif branch in self.without_fix:
            return ""
        else:
            fixed = self.fixed.get(branch)
        return fixed if fixed is not None and version_key(version) < version_key(fixed) else None


class Vulnerabilities(Section):
    """All known vulnerabilities of what a release pins, oldest first."""

    sources: dict[str, str]
    container_toolkit: list[Vulnerability]
    driver: list[Vulnerability]


@cache
def load_rules() -> ReleaseRules:
    """Return the rules of `catalogue/release_rules.yaml`."""
    return ReleaseRules.model_validate(_read("release_rules.yaml"))


@cache
def load_vulnerabilities() -> Vulnerabilities:
    """Return the vulnerabilities of `catalogue/vulnerabilities.yaml`."""
    return Vulnerabilities.model_validate(_read("vulnerabilities.yaml"))


def _read(name: str) -> Any:
    text = resources.files("metalserve.catalogue").joinpath(name).read_text(encoding="utf-8")
    return read_yaml(text)
