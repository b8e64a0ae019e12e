"""Do the versions of a release fit together? Rules are data with sources: `catalogue/release_rules.yaml`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any, Literal

from metalserve.catalogue.loader import load_cuda_drivers, load_gpus
from metalserve.catalogue.models import CudaDrivers, GpuCatalogue
from metalserve.catalogue.vllm_flags import known_releases
from metalserve.releases.gpus import GpuService, served_gpus
from metalserve.releases.model import Release, version_key
from metalserve.releases.rules import Vulnerability, load_rules, load_vulnerabilities

SOON = timedelta(days=90)
"""How long before a driver branch's end of life a warning begins: a quarter is what a fleet's upgrade takes."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that a release breaks, in words that stand alone.

    Attributes:
        rule: id of the rule.
        key: the setting of the release that it is about.
        what: what is wrong.
        fix: what would mend it.
        source: where the rule comes from.
        severity: `refused`: the release is unusable; `warning`: it works, and this should be known.
    """

    rule: str
    key: str
    what: str
    fix: str
    source: str
    severity: Literal["refused", "warning"]

    def __str__(self) -> str:
        return f"{self.key}: {self.what} (rule {self.rule}: {self.source}) -> {self.fix}"

    def as_dict(self) -> dict[str, str]:
        """Return the fields for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    """What all rules say of one release.

    Attributes:
        release: the release.
        problems: what makes it unusable.
        warnings: what should be known of it.
        gpus: whether it serves each GPU of the catalogue.
    """

    release: Release
    problems: tuple[Broken, ...]
    warnings: tuple[Broken, ...]
    gpus: tuple[GpuService, ...]

    @property
    def fits(self) -> bool:
        """The release may be given to hosts."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict for JSON."""
        return {
            "name": self.release.name,
            "verdict": "fits" if self.fits else "refused",
            "problems": [problem.as_dict() for problem in self.problems],
            "warnings": [warning.as_dict() for warning in self.warnings],
            "gpus": [gpu.as_dict() for gpu in self.gpus],
        }


def judge_release(
    release: Release, *, today: date, drivers: CudaDrivers | None = None, gpus: GpuCatalogue | None = None
) -> Verdict:
    """Hold `release` against every rule.

    Args:
        release: the release.
        today: the day to compare ends of life with.
        drivers: the CUDA and driver rules; the catalogue's unless given.
        gpus: the GPUs; the catalogue's unless given.
    """
    drivers = load_cuda_drivers() if drivers is None else drivers
    served = served_gpus(release, load_gpus() if gpus is None else gpus, drivers)
    found = [
        *_driver(release, drivers),
        *_life(release, drivers, today),
        *_driver_fixes(release, drivers),
        *_image(release, drivers),
        *_gpus(served),
        *_host_cuda(release, drivers),
        *_containers(release),
        *_dcgm(release, drivers, served),
    ]
    return Verdict(
        release,
        tuple(each for each in found if each.severity == "refused"),
        tuple(each for each in found if each.severity == "warning"),
        tuple(served),
    )


def check_release(release: Release, catalogue: CudaDrivers) -> list[str]:
    """Return what makes `release` unusable, each in one line; empty when its versions fit together.

    Args:
        release: the release.
        catalogue: the CUDA and driver rules (`metalserve.catalogue.loader.load_cuda_drivers`).
    """
    return [str(problem) for problem in judge_release(release, today=release.kept_from, drivers=catalogue).problems]


def release_warnings(release: Release, catalogue: CudaDrivers, *, today: date) -> list[str]:
    """Return what a user of `release` should know, each `key: what`.

    Args:
        release: the release.
        catalogue: the CUDA and driver rules.
        today: the day to compare ends of life with.
    """
    warnings = judge_release(release, today=today, drivers=catalogue).warnings
    return [f"{warning.key}: {warning.what}" for warning in warnings]


def broken(rule_id: str, key: str, what: str, *, fix: str = "", source: str = "") -> Broken:
    """Return that rule `rule_id` is broken; its own fix and source are told unless others are given."""
    rules = load_rules()
    rule = rules.rule(rule_id)
    named = source or rules.sources[rule.source]
    return Broken(rule.id, key, what, fix or rule.fix, named, rule.severity)


def _driver(release: Release, drivers: CudaDrivers) -> Iterator[Broken]:
    driver, fabric = release.driver.version, release.fabric_manager.version
    if drivers.branch(release.driver.branch) is None:
        known = ", ".join(str(row.branch) for row in drivers.branches if row.status == "supported")
        what = f"{release.driver.branch} is not in the catalogue (supported: {known})"
        yield broken("driver-branch-known", "driver.branch", what)
    if fabric != driver:
        what = f"{fabric} is not the driver's {driver}; it refuses any other driver"
        yield broken("fabric-manager-is-driver", "fabric_manager.version", what)


def _image(release: Release, drivers: CudaDrivers) -> Iterator[Broken]:
    rules, vllm = load_rules(), release.vllm
    needed = drivers.min_driver(vllm.cuda)
    if needed is None:
        what = f"no driver is known for CUDA {vllm.cuda}"
        yield broken("driver-runs-image", "vllm.cuda", what)
    elif version_key(release.driver.version) < version_key(needed):
        what = (
            f"{release.driver.version} cannot run the CUDA {vllm.cuda} of {release.image}; it needs {needed} or newer"
        )
        yield broken("driver-runs-image", "driver.version", what)
    if not (vllm.tag == f"v{vllm.version}" or vllm.tag.startswith(f"v{vllm.version}-")):
        what = f"{vllm.tag!r} is not an image of vLLM {vllm.version} ('v{vllm.version}' is)"
        yield broken("image-tag-is-version", "vllm.tag", what)
    image = rules.image(vllm.version)
    if image is not None:
        suffix = vllm.tag.removeprefix(f"v{vllm.version}").lstrip("-")
        cuda = next((value for name, value in image.variants.items() if name in suffix.split("-")), image.cuda)
        if vllm.cuda != cuda:
            source = rules.sources[image.source]
            what = f"{vllm.tag} carries CUDA {cuda}, not {vllm.cuda}"
            yield broken("image-cuda-is-built", "vllm.cuda", what, source=source, fix=f"give vllm.cuda {cuda!r}")
    else:
        what = f"{vllm.version} is not in the catalogue, its CUDA version is unchecked"
        yield broken("image-is-known", "vllm.version", what)
    if vllm.version not in known_releases():
        what = f"the options of {vllm.version} are not in the catalogue, engine arguments cannot be checked"
        yield broken("image-flags-known", "vllm.version", what)
    if vllm.digest is None:
        what = f"not recorded, so {release.image} is what the registry says it is on that day"
        yield broken("image-has-digest", "vllm.digest", what)


def _gpus(served: list[GpuService]) -> Iterator[Broken]:
    if served and all(gpu.status == "not served" for gpu in served):
        reasons = "; ".join(dict.fromkeys(why for gpu in served for why in gpu.why))
        yield broken("serves-a-gpu", "driver.branch", f"no GPU of the catalogue is served: {reasons}")


def _host_cuda(release: Release, drivers: CudaDrivers) -> Iterator[Broken]:
    toolkit, branch = release.cuda.toolkit, drivers.branch(release.driver.branch)
    if not any(version_key(row.cuda)[:2] == version_key(toolkit) for row in drivers.toolkits):
        yield broken("host-cuda-exists", "cuda.toolkit", f"{toolkit} is no toolkit of the catalogue")
    elif branch is not None and branch.cuda is not None and version_key(toolkit) > version_key(branch.cuda):
        what = f"{toolkit} is newer than the {branch.cuda} that branch {branch.branch} brings"
        yield broken("host-cuda-in-branch", "cuda.toolkit", what, source=branch.source)


def _containers(release: Release) -> Iterator[Broken]:
    rules, toolkit = load_rules(), release.container_toolkit.version
    safe, minimum, cdi = rules.container_toolkit.minimum_safe, rules.docker.minimum, rules.docker.cdi
    if version_key(toolkit) < version_key(safe):
        what = f"{toolkit} is open to {_open_to(toolkit, load_vulnerabilities().container_toolkit)}"
        yield broken("toolkit-is-safe", "container_toolkit.version", what, fix=f"take {safe} or newer")
    if version_key(release.docker.minimum) < version_key(minimum.version):
        what = f"{release.docker.minimum} is below {minimum.version}: {minimum.why}"
        yield broken("docker-starts-image", "docker.minimum", what, fix=f"take {minimum.version} or newer")
    if version_key(toolkit) >= version_key(cdi.toolkit) and version_key(release.docker.cdi_minimum) < version_key(
        cdi.version
    ):
        what = f"{release.docker.cdi_minimum} cannot read the CDI specs of toolkit {toolkit}"
        yield broken("docker-reads-cdi", "docker.cdi_minimum", what, fix=f"take {cdi.version} or newer")


def _open_to(version: str, known: list[Vulnerability]) -> str:
    """Return the CVEs that `version` is open to, with the day of each fix."""
    rows = [row for row in known if row.opens(version) is not None]
    return ", ".join(f"{', '.join(row.cves)} (fixed {row.date})" for row in rows)


def dcgm_package(release: Release, drivers: CudaDrivers | None = None) -> str | None:
    """Return the package of DCGM's parts for the CUDA of the release's driver, or None where it is not known."""
    branch = (drivers or load_cuda_drivers()).branch(release.driver.branch)
    parts = load_rules().dcgm.for_cuda(branch.cuda) if branch is not None and branch.cuda is not None else None
    return parts.package if parts is not None else None


def _dcgm(release: Release, drivers: CudaDrivers, served: list[GpuService]) -> Iterator[Broken]:
    rules, version = load_rules(), release.dcgm.version
    branch = drivers.branch(release.driver.branch)
    parts = rules.dcgm.for_cuda(branch.cuda) if branch is not None and branch.cuda is not None else None
    if parts is not None and version_key(version) < version_key(parts.minimum):
        what = (
            f"{version} has no {parts.package}, the parts for the CUDA {parts.major} of branch {release.driver.branch}"
        )
        source = rules.sources[parts.source]
        yield broken("dcgm-knows-cuda", "dcgm.version", what, fix=f"take {parts.minimum} or newer", source=source)
        return  # a DCGM that cannot even speak to the driver need not be told which GPUs it does not know
    here = {gpu.gpu for gpu in served if gpu.status == "served"}
    for row in rules.dcgm.gpus:
        unknown = sorted(here & set(row.gpus))
        if unknown and version_key(version) < version_key(row.minimum):
            what = f"{version} does not know {', '.join(unknown)}"
            source = rules.sources[row.source]
            yield broken("dcgm-knows-gpus", "dcgm.version", what, fix=f"take {row.minimum} or newer", source=source)


def _life(release: Release, drivers: CudaDrivers, today: date) -> Iterator[Broken]:
    number = release.driver.branch
    branch = drivers.branch(number)
    of_branch = last_day(branch.eol) if branch is not None and branch.eol else None
    if release.end_of_life is not None and of_branch is not None and release.end_of_life > of_branch:
        what = f"{release.end_of_life} is after the last day of branch {number}, {of_branch}"
        yield broken("end-of-life-is-branch", "end_of_life", what)
    end = of_branch or release.end_of_life
    if end is not None and end < today:
        what = f"{number} had its end of life on {end}: no security fixes any more"
    elif end is not None and end - today < SOON:
        what = f"{number} has its end of life on {end}, in {(end - today).days} days"
    elif branch is not None and branch.status == "eol" and end is None:
        what = f"{number} had its end of life: no security fixes any more"
    else:
        return
    yield broken("branch-lives", "driver.branch", what)


def _driver_fixes(release: Release, drivers: CudaDrivers) -> Iterator[Broken]:
    version, branch = release.driver.version, drivers.branch(release.driver.branch)
    known = load_vulnerabilities()
    for row in known.driver:
        fixed = row.opens(version)
        if fixed is not None:
            what = f"{version} is open to {len(row.cves)} CVEs of {row.date}, {row.cves[0]} first: {row.what}"
            fix = (
                f"take {fixed} or newer" if fixed else f"branch {release.driver.branch} never got it: take another one"
            )
            yield broken("driver-has-fixes", "driver.version", what, fix=fix, source=known.sources[row.source])
    if branch is not None and branch.last_seen and version_key(version) > version_key(branch.last_seen):
        what = f"{version} is newer than {branch.last_seen}, the newest of branch {branch.branch} in the catalogue"
        yield broken("driver-was-seen", "driver.version", what)


def last_day(text: str) -> date:
    """Return the last day of `YYYY-MM` or `YYYY`, the forms in which NVIDIA gives ends of life."""
    year, _, month = text.partition("-")
    number = int(month or 12)
    return date(int(year) + number // 12, number % 12 + 1, 1) - timedelta(days=1)
