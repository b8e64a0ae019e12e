"""Changes between two builds as Markdown, for those who decide whether to roll a template out."""

from __future__ import annotations

from collections.abc import Iterable

from metalserve.templates.changes import Changes
from metalserve.templates.packages import Package


def markdown(changes: Changes) -> str:
    """Return the changes as Markdown: what closes holes first, then all the rest."""
    title = f"# {changes.before or 'nothing'} -> {changes.after}"
    if changes.empty:
        return f"{title}\n\nNothing changed.\n"
    secure = changes.security
    unknown = sum(update.security == "unknown" for update in changes.updated)
    summary = (
        f"{len(secure)} security updates, {len(changes.updated) - len(secure)} other updates"
        f"{f' ({unknown} of them unknown whether they close holes)' if unknown else ''}, "
        f"{len(changes.added)} packages added, {len(changes.removed)} removed, {changes.unchanged} the same."
    )
    security = [[each.name, each.before, each.after, " ".join(each.cves) or "-", each.why] for each in secure]
    others = [
        [each.name, each.before, each.after, "downgrade" if each.downgrade else each.security, each.why]
        for each in changes.updated
        if each not in secure
    ]
    return (
        "\n\n".join(
            [
                title,
                summary,
                *_table("Parts", ["part", "before", "after"], [[p.part, p.before, p.after] for p in changes.parts]),
                *_table("Security updates", ["package", "before", "after", "CVEs", "known by"], security),
                *_table("Other updates", ["package", "before", "after", "security", "known by"], others),
                *_list("Added", changes.added),
                *_list("Removed", changes.removed),
            ]
        )
        + "\n"
    )


def _table(title: str, columns: list[str], rows: list[list[str]]) -> list[str]:
    if not rows:
        return []
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"## {title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]


def _list(title: str, packages: Iterable[Package]) -> list[str]:
    lines = [f"- {package.name} {package.version}" for package in packages]
    return [f"## {title}", "\n".join(lines)] if lines else []
