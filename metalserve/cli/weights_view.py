"""What `metalserve weights` shows: how far each host and the fleet is, and what lies in the stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from metalserve.weights.fleet import Answer, HostStatus, Model
from metalserve.weights.progress import GIB, MIB, duration
from metalserve.weights.watching import as_dict


def progress_table(hosts: Sequence[str], looks: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a table of how far the hosts are, the fleet as its last row.

    Args:
        hosts: all of them, in their order.
        looks: host -> what `watching.as_dict` gives, with `failed` where it failed.
    """
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("host", "phase"):
        table.add_column(column, no_wrap=True)
    for column in ("GiB", "of", "MiB/s", "left", "from hosts"):
        table.add_column(column, justify="right", no_wrap=True)
    for host in hosts:
        look = looks.get(host)
        table.add_row(host, *_cells(look) if look else ("", "", "", "", "", ""))
    if len(hosts) > 1:
        table.add_section()
        table.add_row("fleet", *_cells(whole(list(looks.values()))))
    return table


def _cells(look: Mapping[str, Any]) -> tuple[str, ...]:
    phase = str(look.get("phase") or "")
    colour = {"failed": "red", "stopped": "red", "done": "green"}.get(phase, "")
    moving = phase not in ("done", "failed", "stopped", "")
    eta = look.get("eta_s")
    return (
        f"[{colour}]{phase}[/]" if colour else phase,
        f"{look.get('bytes_done', 0) / GIB:.2f}",
        f"{look.get('bytes_total', 0) / GIB:.2f}",
        f"{look.get('rate_bytes_s', 0) / MIB:.1f}" if moving else "",
        duration(eta) if moving and eta is not None else "",
        f"{look.get('bytes_from_peers', 0) / GIB:.2f}",
    )


def whole(looks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the hosts' looks as one of the whole fleet: sums, and the time until the last host is there."""
    sums = {
        key: sum(int(look.get(key) or 0) for look in looks)
        for key in ("bytes_total", "bytes_done", "bytes_from_peers", "bytes_from_source")
    }
    moving = [look for look in looks if look.get("phase") not in ("done", "failed", "stopped", None)]
    left = [look.get("eta_s") for look in moving]
    known = [float(each) for each in left if each is not None]
    phases = {str(look.get("phase")) for look in looks if look.get("phase")}
    return {
        **sums,
        "phase": phases.pop() if len(phases) == 1 else f"{len(moving)} of {len(looks)} at work",
        "rate_bytes_s": sum(int(look.get("rate_bytes_s") or 0) for look in moving),
        "eta_s": max(known) if known and len(known) == len(left) else None,
    }


def status_view(found: Sequence[HostStatus]) -> RenderableType:
    """Return the models of all hosts, and below them how far those are that something works on."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("host", "model", "state"):
        table.add_column(column, overflow="fold")
    table.add_column("GiB", justify="right")
    for column in ("every byte hashed", "needed by"):
        table.add_column(column)
    for each in found:
        for model in each.models:
            colour = "green" if model.right else "red" if model.state in ("changed", "damaged", "unknown") else "yellow"
            state = Text(model.state, style=colour)
            if model.what:
                state.append(f": {model.what}", style="")
            here = "" if model.key == each.wanted else " (not of the inventory)"
            table.add_row(
                each.host,
                f"{model.repository}@{model.revision[:12]}{here}" if model.repository else model.key,
                state,
                f"{model.bytes_there / GIB:.2f}",
                _proved(model, each.now),
                ", ".join(name.removesuffix(f"-{model.key}") for name in model.references),
            )
        if not each.models:
            table.add_row(each.host, "", Text("not known" if each.error else "no model", style="yellow"), "", "", "")
    looks = {each.host: as_dict(progress) for each in found if (progress := _working(each)) is not None}
    return Group(table, Text(), progress_table(list(looks), looks)) if looks else table


def _working(host: HostStatus) -> Any:
    for model in host.models:
        if "check" in model.running:
            return model.check_progress
        if model.running:
            return model.progress
    return None


def _proved(model: Model, now: float) -> str:
    last = max(model.hashed_at, model.checked_at)
    if not model.right or not last:
        return ""
    return f"{duration(max(0.0, now - last))} ago" + (
        ", by a full check" if model.checked_at >= model.hashed_at else ""
    )


def answer_lines(answer: Answer) -> list[str]:
    """Return what a host's agent answered in lines for people."""
    data = answer.data
    if "removed" in data:
        verb = "would remove" if data.get("dry") else "removed"
        lines = [f"{answer.host}: {verb} {path}" for path in data["removed"]]
        lines += [f"{answer.host}: kept {path}: {why}" for path, why in dict(data.get("kept") or {}).items()]
        return lines or [f"{answer.host}: nothing to remove"]
    if "phase" in data:
        return [f"{answer.host}: {data['phase']}, {data['bytes_total'] / GIB:.2f} GiB"]
    read = f", {data['bytes_read'] / GIB:.2f} GiB read in {data['seconds']} s" if data.get("bytes_read") else ""
    return [f"{answer.host}: {data.get('published', 'the model')} is {data.get('state', 'as it was')}{read}"]
