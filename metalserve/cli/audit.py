"""`metalserve audit`: what runs on each node, for people who must sign for it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from metalserve.audit.assemble import assemble
from metalserve.audit.evidence import Evidence, evidence_of
from metalserve.audit.known import Known
from metalserve.audit.page import html_page
from metalserve.audit.record import Audit, NodeRecord
from metalserve.catalogue.loader import load_gpus
from metalserve.cli.files import printer, write_out
from metalserve.errors import MetalserveError
from metalserve.paths import ROOT
from metalserve.planning import LaunchPlan, plan_launch
from metalserve.planning.known import known_model
from metalserve.planning.observed import hardware_from, measured_from
from metalserve.recovery.store import Store, store_path
from metalserve.releases import Verdict, judge_release, load_release, release_names
from metalserve.report.history import HISTORY, kept_reports
from metalserve.report.reading import load
from metalserve.report.terminal import COLOURS
from metalserve.report.values import items, line, mapping, mappings
from metalserve.settings import HostSettings, SettingsError

LAST_RUN = "reports/last-run.json"
MOST_KEPT = 20
"""Kept reports that are read at most, newest first: what is older is told by nothing newer, and seldom asked for."""


@click.command("audit")
@click.option("--inventory", metavar="FILE", help="Every host of it is a row, with what is wanted of it.")
@click.option(
    "--report", "reports", multiple=True, metavar="FILE",
    help=f"A run's report; repeatable. Default: {LAST_RUN} and the newest of {HISTORY}.",
)  # fmt: skip
@click.option("--drift", "drift_file", metavar="FILE", help="What `metalserve drift --json` printed.")
@click.option("--html", metavar="OUT", help="Write one HTML page that needs no network and prints well; - for stdout.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (schema 1).")
def command(
    inventory: str | None, reports: tuple[str, ...], drift_file: str | None, html: str | None, as_json: bool
) -> None:
    """Tell what runs on each node: release, versions, model, plan, last verification, drift, last upgrade, exceptions.

    Made from the inventory and the reports that runs leave; no host is asked. Each thing is told as it is wanted and as
    it was seen; what nobody saw is not called proved.
    """
    if as_json and html == "-":
        raise click.UsageError("only one of --json and --html - can go to stdout")
    audit = _audit(inventory, reports, drift_file)
    if html:
        write_out(html, html_page(audit).encode(), f"audit of {len(audit.nodes)} node(s)")
    if as_json:
        click.echo(json.dumps(audit.as_dict(), indent=1))
    elif not html:
        _show(audit)


def _audit(inventory: str | None, reports: tuple[str, ...], drift_file: str | None) -> Audit:
    settings, refused = _settings(inventory) if inventory is not None else ({}, {})
    files = list(reports) or _usual(set(settings))
    if inventory is None and not files:
        raise MetalserveError(
            f"there is neither an inventory nor a report ({LAST_RUN})",
            where="metalserve audit",
            remedy="give --inventory FILE, or --report FILE",
        )
    evidence, problems = _evidence(files, must=bool(reports))
    names = {s.release for s in settings.values() if s is not None} | {e.host.release for e in evidence}
    releases = _releases(name for name in names if name)
    drift = _drift(drift_file) if drift_file is not None else {}
    recoveries, memory = _recoveries(datetime.now(UTC).timestamp())
    known = Known(
        settings=settings,
        problems=refused,
        releases=releases,
        newest={name: _newest_of(name) for name in releases},
        manifests=_manifests(settings.values()),
        plans=_plans(settings, evidence),
        drift=drift,
        recoveries=recoveries,
        recovery_source=memory,
        drift_source=drift_file or "",
    )
    now = datetime.now(UTC)
    return assemble(known, evidence, now=now, inventory=inventory or "", reports=files, problems=problems)


def _settings(inventory: str) -> tuple[dict[str, HostSettings | None], dict[str, str]]:
    """Return the settings of each host; a host whose settings are refused is there all the same, with the reason."""
    from metalserve.pyinfra_seam.inventory import load_inventory

    found: dict[str, HostSettings | None] = {}
    refused: dict[str, str] = {}
    for name, data in load_inventory(inventory):
        try:
            found[name] = HostSettings.from_data(data, host=name, source=inventory)
        except SettingsError as error:
            found[name], refused[name] = None, "; ".join(error.problems)
    return found, refused


def _usual(wanted: set[str]) -> list[str]:
    """Return the reports that runs leave: the last run, and kept ones until each host was verified in one."""
    files = [LAST_RUN] if Path(LAST_RUN).is_file() else []
    missing = set(wanted)
    for path in reversed(kept_reports(Path(HISTORY))[-MOST_KEPT:]):
        files.append(str(path))
        with contextlib.suppress(MetalserveError):
            missing -= set(mapping(mapping(load(path)).get("hosts")))
        if not missing:
            break
    return files


def _evidence(files: Iterable[str], *, must: bool) -> tuple[list[Evidence], list[str]]:
    found: list[Evidence] = []
    problems: list[str] = []
    for file in files:
        try:
            found += evidence_of(load(Path(file)), file=file)
        except MetalserveError as error:
            if must:
                raise
            problems.append(str(error))
    return found, problems


def _releases(names: Iterable[str]) -> dict[str, Verdict]:
    found = {}
    for name in names:
        with contextlib.suppress(MetalserveError):
            found[name] = judge_release(load_release(name), today=datetime.now(UTC).date())
    return found


def _newest_of(name: str) -> str:
    """Return the newest release of the same line: what follows the date in the name (`lts`, `production`)."""
    line_of = name.partition("-")[2]
    alike = [known for known in release_names() if known.partition("-")[2] == line_of]
    return max(alike, key=lambda known: known.partition("-")[0], default="")


def _manifests(settings: Iterable[HostSettings | None]) -> dict[str, str]:
    found: dict[str, str] = {}
    for host in settings:
        if host is None or host.model is None or host.model.manifest in found:
            continue
        path = ROOT / host.model.manifest
        found[host.model.manifest] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return found


def _plans(settings: Mapping[str, HostSettings | None], evidence: Iterable[Evidence]) -> dict[str, LaunchPlan]:
    """Return the plan of each host that follows from what is wanted of it and the hardware that was seen."""
    seen: dict[str, Evidence] = {}
    for one in evidence:
        before = seen.get(one.host.name)
        newer = before is None or (one.started and (not before.started or one.started > before.started))
        if one.host.hardware and newer:
            seen[one.host.name] = one
    found = {}
    for name, host in settings.items():
        if host is None or host.model is None or name not in seen or host.engine.group is not None:
            continue
        values = seen[name].host
        with contextlib.suppress(MetalserveError):  # a model or hardware that cannot be planned leaves the plan unknown
            hardware = hardware_from(values.hardware, name)
            release = load_release(host.release)
            found[name] = plan_launch(
                hardware, known_model(host.model.name), host.engine, release, load_gpus(),
                model_path="MODEL", measured=measured_from(values.measurements),
            )  # fmt: skip
    return found


def _recoveries(now: float) -> tuple[dict[str, str], str]:
    """Return what `metalserve recover` remembers of each host, and the file it is from; "" where it never ran here."""
    path = store_path()
    if not path.is_file():
        return {}, ""
    found: dict[str, str] = {}
    store = Store(path)
    try:
        for attempt in store.attempts():  # the newest first
            when = datetime.fromtimestamp(attempt.begun, UTC).strftime("%Y-%m-%d %H:%M UTC")
            how = attempt.result or "goes on"
            found.setdefault(attempt.host, f"{how}, begun {when}: {', '.join(attempt.causes) or 'no cause found'}")
        for mark in store.marks(now):
            words = f"marked {mark.kind} by {mark.by}: {mark.why}"
            found[mark.host] = f"{found[mark.host]}; {words}" if mark.host in found else words
    finally:
        store.close()
    return found, str(path)


def _drift(file: str) -> dict[str, list[str]]:
    data = mapping(load(Path(file)))
    hosts = data.get("hosts")
    if data.get("schema") != 1 or not isinstance(hosts, Mapping) or "drift" not in data:
        raise MetalserveError("is not what `metalserve drift --json` prints (schema 1)", where=file)
    # A host that could not be compared says nothing of its drift.
    found: dict[str, list[str]] = {n: [] for n, state in hosts.items() if state in ("unchanged", "would change")}
    for entry in [*mappings(data.get("drift")), *mappings(data.get("known_later"))]:
        for name in items(entry.get("hosts")):
            if name in found:
                found[name].append(f"{line(entry.get('role'))}: {line(entry.get('what'))}")
    return found


def _show(audit: Audit) -> None:
    console = printer()
    if any(node.simulated for node in audit.nodes):
        console.print(Text("SIMULATED: hosts are stand-ins; nothing here says how real GPUs are", style="bold yellow"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (
        "node",
        "release",
        "driver",
        "model",
        "verified",
        "drift",
        "last upgrade",
        "last recovery",
        "not proved",
    ):
        table.add_column(column, overflow="fold")
    for node in audit.nodes:
        table.add_row(*_row(node))
    console.print(table)
    for node in audit.nodes:
        for words in node.exceptions:
            console.print(Text.assemble((node.name, "bold"), f": exception: {words}"))
    for words in audit.problems:
        console.print(Text(f"not read: {words}", style="yellow"))


def _row(node: NodeRecord) -> list[Text]:
    verified = node.verified
    age = f", {verified.days:.0f} days ago" if verified.days is not None else ""
    words = f"{verified.verdict}{age}" + (f" ({verified.depth})" if verified.depth else "")
    cells = [Text(node.name if node.inventory is not False else f"{node.name} (not in the inventory)", style="bold")]
    for name in ("release", "driver", "model"):
        one = node.get(name)
        style = {"proved": "green", "differs": "bold red", "unknown": "magenta", "wanted": "yellow"}.get(one.state, "")
        cells.append(Text(f"{one.value} ({one.state})", style=style))
    cells.append(Text(words, style=COLOURS.get(verified.verdict, "magenta")))
    cells += [Text(node.get(name).value) for name in ("drift", "last_upgrade", "last_recovery")]
    open_ones = sum(node.states[state] for state in ("wanted", "differs", "unknown"))
    return [*cells, Text(str(open_ones), style="yellow" if open_ones else "green")]
