"""`foretell`: what a role says about times to come. Noted in every run, a dry one too; it never fails a host."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.hostrun import HostRun, current
from metalserve.pyinfra_seam.judging import Check, note_check
from metalserve.verify.finding import Finding


def foretell(name: str, check: Check) -> None:
    """Note what `check` says; after the last change once more, from what the host is then.

    Args:
        name: shown to people; the finding of this very name is the verdict, told in the summary unless it is good.
        check: pure; its findings warn at most.
    """
    run = current()
    if run.failed or run.node is None or not (run.node.observed.live or run.proofs_only):
        return
    if run.proofs_only:
        note_check(run, name, check)
        return
    try:
        findings = check(run.node)
    except MetalserveError as error:
        run.report.unknown.append((run.role_name, f"{name}: {error.what}"))
        return
    _keep(run, findings)
    if run.pending:
        _foretell(name=f"foretell {name}", role_name=run.role_name, verdict=name, check=check)
    else:
        _warn(run, name, findings)


@operation(is_idempotent=True)
def _foretell(role_name: str, verdict: str, check: Check) -> Generator[FunctionCommand, None, None]:
    run = current()
    if not run.executing or run.failed:
        return
    run.role_name = role_name
    try:
        findings = check(run.now())
    except Exception as error:
        run.fail(f"foretell {verdict}", error)
        yield FunctionCommand(_refuse, (), {})
        return
    _keep(run, findings)
    _warn(run, verdict, findings)


def _keep(run: HostRun, findings: Sequence[Finding]) -> None:
    run.report.findings = [told for told in run.report.findings if told["role"] != run.role_name]
    run.report.findings += [{"role": run.role_name, **finding.as_dict()} for finding in findings]


def _warn(run: HostRun, verdict: str, findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.check == verdict and finding.status not in ("ok", "skipped"):
            run.host.log(f"{run.role_name}: {finding}", logger.info)
            run.report.warnings.append(str(finding))


def _refuse(state: object, host: object) -> bool:
    return False
