"""What a run that only proves things notes of a host, and the verdict at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from pyinfra import logger

from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.hardware.export import hardware_dict
from metalserve.pyinfra_seam.hostrun import HostRun
from metalserve.verify.finding import Finding

_QUIET = ("ok", "skipped")

Check = Callable[[Node], Sequence[Finding]]


class ProofFailed(MetalserveError):
    """A check found that the host is not as decided."""

    def __init__(self, finding: Finding) -> None:
        impact = f" ({finding.impact})" if finding.impact else ""
        super().__init__(
            f"{finding.subject}: {finding.check}: expected {finding.expected}, found {finding.observed}{impact}",
            remedy=finding.remedy or None,
        )
        self.evidence = f"{finding.check} [{finding.status}] {finding.source or ''}".strip()


def note_check(run: HostRun, name: str, check: Check) -> None:
    """Make a check and note what it says; a check that cannot be made is noted as unknown."""
    assert run.node is not None
    try:
        findings = list(check(run.node))
    except MetalserveError as error:
        remedy = error.remedy or ""
        findings = [Finding(name, "unknown", run.host.name, "a check that can be made", error.what, remedy=remedy)]
    except Exception as error:
        run.fail(f"prove {name}", error)
        return
    note(run, name, findings)


def note(run: HostRun, name: str, findings: Sequence[Finding]) -> None:
    """Note findings in the host's report, and say those that are not good."""
    for finding in findings:
        run.noted.append(finding)
        run.report.findings.append({"role": run.role_name, **finding.as_dict()})
        if finding.status not in _QUIET or run.state.print_noop_info:  # -v shows the good ones too
            run.host.log(f"{run.role_name} / {name}: {finding}", logger.info)


def revise(run: HostRun, findings: Sequence[Finding]) -> None:
    """Put other findings in place of those noted so far, one for one."""
    for told, finding in zip(run.report.findings, findings, strict=True):
        told.update(finding.as_dict())
    run.noted[:] = findings


def conclude(run: HostRun) -> None:
    """Fail the host if something that was noted is bad, else put the count into its report."""
    if run.node is not None:
        run.report.hardware = hardware_dict(run.node.hardware)
    if not run.noted:
        run.fail("prove", MetalserveError("nothing was checked", remedy="give the deploy roles that prove something"))
        return
    bad = [f for f in run.noted if f.failing]
    run.report.warnings += [str(f) for f in run.noted if f.warning]
    if bad:
        error = ProofFailed(bad[0])
        error.evidence = "\n".join(str(f) for f in bad)
        run.fail("prove", error)
    else:
        counts = Counter(f.status for f in run.noted)
        run.report.proofs["checks"] = ", ".join(f"{n} {status}" for status, n in counts.most_common())
