"""What Prometheus and Alertmanager say of themselves and of their targets, and what that proves. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.monitoring import paths
from metalserve.monitoring.targets import Watched, out_of_reach
from metalserve.verify.finding import Finding

TARGETS = "monitoring-up"
_SECTIONS = {"prometheus": "monitoring-prometheus", "alertmanager": "monitoring-alertmanager"}
_METRICS = {
    "prometheus": ("prometheus_config_last_reload", "prometheus_config_last_reload_success_timestamp_seconds"),
    "alertmanager": ("alertmanager_config_last_reload", "alertmanager_config_last_reload_success_timestamp_seconds"),
}
_DROP_INS = {name: paths.drop_in(unit) for name, unit in (
    ("prometheus", paths.PROMETHEUS_UNIT),
    ("alertmanager", paths.ALERTMANAGER_UNIT),
)}  # fmt: skip
_GET = "curl -sf --noproxy '*' --max-time 5 http://\"$address\""


def _address(drop_in: str) -> str:
    return f"address=$(sed -n 's/^ExecStart=.*--web.listen-address=\\([^ ]*\\).*/\\1/p' {drop_in} 2>/dev/null)"


def commands(prometheus: str, alertmanager: str) -> dict[str, str]:
    """Return section -> command, for an observation; they ask at the address that the drop-ins name."""
    found = {
        _SECTIONS[name]: f"{_address(drop_in)}; {_GET}/metrics | grep -E '^{_METRICS[name][0]}'"
        for name, drop_in in (("prometheus", prometheus), ("alertmanager", alertmanager))
    }
    found[TARGETS] = f"{_address(prometheus)}; {_GET}'/api/v1/targets?state=active'"
    return found


def wait_script(unit: str, what: str, *, after_reload: bool = False) -> str:
    """Return shell that waits until a server answers; after a reload, until it has read its files.

    Five minutes at most: a Prometheus that was restarted reads its log of weeks before it reads its configuration.
    """
    stamp = _METRICS[what][1]
    told = f"{_GET}/metrics 2>/dev/null | sed -n 's/^{stamp} //p'"
    wait = f'tries=0\nuntil now=$({told}) && [ -n "$now" ]'
    if after_reload:
        wait += ' && [ "$now" != "$before" ]'
    words = "did not take the new configuration" if after_reload else "does not answer"
    end = "" if after_reload else "before=$now\n"
    return (
        f"{_address(_DROP_INS[what])}\n{wait}; do\n  tries=$((tries + 1))\n"
        f"  [ $tries -lt 1500 ] || ms_fail '{unit} {words} -> journalctl -u {unit} -n 30'\n  sleep 0.2\ndone\n{end}"
    )


def loaded(observed: Observation, what: str) -> tuple[float, bool]:
    """Return when a server last read its files (seconds since 1970, 0 when not told), and whether it took them."""
    begins, stamp = _METRICS[what]
    values: dict[str, float] = {}
    for line in observed.text(_SECTIONS[what]).splitlines():
        name, _, value = line.partition(" ")
        try:
            values[name] = float(value)
        except ValueError:
            continue
    return values.get(stamp, 0.0), values.get(f"{begins}_successful") == 1.0


def active_targets(observed: Observation) -> list[Mapping[str, Any]] | None:
    """Return Prometheus' targets as its API tells them; None when it does not answer."""
    try:
        value = json.loads(observed.text(TARGETS))
        found = value["data"]["activeTargets"]
    except (ValueError, KeyError, TypeError):
        return None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else None


def findings(node: Node, hosts: Sequence[Watched]) -> Sequence[Finding]:
    """Return what is proved of the monitoring.

    Args:
        node: the monitoring host.
        hosts: all hosts of the inventory. A target of one that this run saw must be up; of others a warning says so:
            a host that is down for repair must not make the monitoring's own run fail.
    """
    found = [_runs(node, what) for what in _SECTIONS]
    targets = active_targets(node.observed)
    if targets is None:
        return (*found, _finding("targets-up", "unknown", "Prometheus", "tells its targets", "no answer"))
    seen = {host.name for host in hosts if host.replicas is not None} | {node.name}
    wanted = {(job, host) for job, host in _expected(hosts)}
    have = {(str(t.get("labels", {}).get("job")), str(t.get("labels", {}).get("host"))) for t in targets}
    for job, host in sorted(wanted - have):
        found.append(_finding("targets-up", "fail", f"{job} of {host}", "is scraped", "Prometheus does not know it"))
    down = [target for target in targets if target.get("health") != "up"]
    for target in down:
        labels = target.get("labels", {})
        status = "fail" if labels.get("host") in seen and labels.get("job") not in ("engine", "router") else "warn"
        observed = f"{target.get('health')}: {target.get('lastError') or 'not scraped yet'}"
        found.append(_finding("targets-up", status, str(target.get("scrapeUrl")), "up", observed))
    if not down and not wanted - have:
        found.append(_finding("targets-up", "ok", "Prometheus", "every target is up", f"{len(targets)} up"))
    for words in out_of_reach(hosts, own=node.name):
        found.append(
            _finding("targets-in-reach", "warn", words.partition(":")[0], "listens on the private address", words)
        )
    return found


def _expected(hosts: Sequence[Watched]) -> list[tuple[str, str]]:
    return [("node", host.name) for host in hosts if host.settings.monitoring is not None]


def _runs(node: Node, what: str) -> Finding:
    when, good = loaded(node.observed, what)
    words = "no answer" if not when else "took its configuration" if good else "refused its configuration"
    return _finding("configuration-loaded", "ok" if when and good else "fail", what, "took its configuration", words)


def _finding(check: str, status: Any, subject: str, expected: str, observed: str) -> Finding:
    good = status == "ok"
    return Finding(
        check=check,
        status=status,
        subject=subject,
        expected=expected,
        observed=observed,
        impact="" if good else "what is not watched fails in silence",
        remedy="" if good else "is its port open to the monitoring host? journalctl -u prometheus -n 50",
        source="Prometheus' and Alertmanager's own API",
    )


def in_words(node: Node) -> str:
    """Return the proved line of the report."""
    targets = active_targets(node.observed) or []
    jobs = [str(target.get("labels", {}).get("job")) for target in targets if target.get("health") == "up"]
    return f"{len(jobs)} of {len(targets)} targets up: " + ", ".join(
        f"{jobs.count(job)} {job}" for job in sorted(set(jobs))
    )


__all__ = ["active_targets", "commands", "findings", "in_words", "loaded", "wait_script"]
