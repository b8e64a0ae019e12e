"""A report's verdicts as JSON, for programs that want less than the run report itself."""

from __future__ import annotations

from typing import Any

from metalserve.report.figures import figures
from metalserve.report.model import ABOVE_OK, STATUSES, Host, Report, gpu_name, hosts_by_verdict


def summary_dict(report: Report) -> dict[str, Any]:
    """Return verdicts, counts, findings above ok and figures of each host (schema 1), worst host first."""
    return {
        "schema": 1,
        "started": report.started or None,
        "metalserve": report.version or None,
        "releases": list(report.releases),
        "complete": report.complete,
        "simulated": bool(report.simulated),
        "verdicts": {s: report.verdicts[s] for s in STATUSES if report.verdicts[s]},
        "hosts": {h.name: _host(h) for h in hosts_by_verdict(report.hosts)},
    }


def _host(host: Host) -> dict[str, Any]:
    return {
        "verdict": host.verdict,
        "reason": host.reason or None,
        "simulated": host.simulated,
        "gpus": gpu_name(host) or None,
        "counts": {s: host.counts[s] for s in STATUSES if host.counts[s]},
        "findings": [
            {
                "check": e.check,
                "status": e.status,
                "subject": e.subject,
                "expected": e.expected,
                "observed": e.observed,
                "evidence": e.evidence,
                "impact": e.impact,
                "remedy": e.remedy,
                "source": e.source,
            }
            for e in host.at(*ABOVE_OK)
        ],
        "figures": [
            {"name": f.name, "value": f.value, "unit": f.unit, "expected": f.expected, "low": f.low}
            for f in figures(host)
        ],
    }
