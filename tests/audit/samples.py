"""Reports as runs write them, and settings, made for the audit's tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from metalserve.audit.evidence import Evidence, evidence_of
from metalserve.audit.known import Known
from metalserve.catalogue.loader import load_cuda_drivers, load_gpus
from metalserve.pyinfra_seam.report import Failure, HostReport, RunReport
from metalserve.releases import judge_release, load_release
from metalserve.settings import HostSettings

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
RELEASE = "2026.11-lts"
REVISION = "ab" * 20
MODEL = {"name": "some/model", "revision": REVISION, "manifest": "files/models/some.yaml"}


def settings(name: str = "n1", **more: Any) -> HostSettings:
    """Return the settings of a host that serves a model on two H100 NVL."""
    data = {"release": RELEASE, "expect": {"gpu": "h100-nvl", "count": 2}, "model": dict(MODEL), **more}
    return HostSettings.from_data(data, host=name, source="test")


def known(*names: str, **more: Any) -> Known:
    """Return what the controller knows of hosts with those settings."""
    hosts = {name: settings(name) for name in names}
    verdict = judge_release(load_release(RELEASE), today=NOW.date(), drivers=load_cuda_drivers(), gpus=load_gpus())
    values: dict[str, Any] = {
        "settings": hosts,
        "releases": {RELEASE: verdict},
        "newest": {RELEASE: RELEASE},
        "manifests": {"files/models/some.yaml": "f" * 64},
    }
    return Known(**{**values, **more})


def finding(check: str, status: str = "ok", observed: str = "so", role: str = "vllm") -> dict[str, str]:
    """Return one finding as a report has it."""
    return {
        "role": role, "check": check, "status": status, "subject": "n1", "expected": "so", "observed": observed,
        "evidence": "", "impact": "", "remedy": "", "source": "",
    }  # fmt: skip


def verified_host(
    name: str = "n1", *, depth: str | None = None, findings: list[dict[str, str]] | None = None
) -> HostReport:
    """Return a host that a verification found good."""
    driver = load_release(RELEASE).driver.version
    good = [
        finding("gpu-count"), finding("gpu-model"), finding("cuda-driver"), finding("published"), finding("answers"),
        finding("docker-answers", observed="version 26.1.5+dfsg1"),
    ]  # fmt: skip
    hardware = {
        "schema": 1, "driver_version": driver, "module_version": driver, "module_open": True,
        "needs_fabric_manager": False, "fabric_manager_version": None,
        "gpus": [{"index": i, "name": "NVIDIA H100 NVL", "device_id": "2321", "memory_mib": 95830} for i in range(2)],
    }  # fmt: skip
    return HostReport(
        name,
        findings=good if findings is None else findings,
        hardware=hardware,
        measurements={"schema": 1, "depth": depth} if depth else {},
        release=RELEASE,
        proofs={
            "gpus": "2x NVIDIA H100 NVL, NV12",
            "weights": f"some/model@{REVISION[:12]}, 140.00 GiB proved",
            "answers": "some/model on :8000 -> 'words'",
        },
    )


def report(
    *hosts: HostReport,
    hour: int = 6,
    day: int = 25,
    verifies: bool = False,
    executed: bool = False,
    complete: bool = True,
) -> dict[str, Any]:
    """Return a run's report as it is written."""
    run = RunReport()
    run.started = datetime(2026, 11, day, hour, tzinfo=UTC).timestamp()
    run.verifies, run.executed, run.complete = verifies, executed, complete
    for host in hosts:
        run.hosts[host.name] = host
    return run.as_dict()


def evidence(*reports: dict[str, Any]) -> list[Evidence]:
    """Return what reports say."""
    return [one for number, data in enumerate(reports) for one in evidence_of(data, file=f"r{number}.json")]


def failed_host(name: str = "n1") -> HostReport:
    """Return a host that a role stopped."""
    return HostReport(name, release=RELEASE, failure=Failure("nvidia_driver", "install", "apt is locked"))
