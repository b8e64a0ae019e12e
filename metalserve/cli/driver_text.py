"""A driver plan for people: what, from where, why, and what to do."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

PARTS = {"pin": "pin", "headers": "headers", "driver": "driver", "fabric": "fabric", "toolkit": "CUDA toolkit"}
KEPT = {
    "pinning-package": "the pinning package {what}",
    "module-stream": "module stream {what}",
    "versionlock": "dnf versionlock {what}",
    "hold": "apt-mark hold",
}


def show(plan: dict[str, Any]) -> None:
    """Print what `metalserve.driver.export.plan_dict` returned."""
    console = Console(highlight=False, soft_wrap=True)
    gpus = " + ".join(f"{g['count']} x {g['id'] or g['name'] or g['pci_id']}" for g in plan["gpus"])
    kernel = f", kernel {plan['kernel']}" if plan["kernel"] else ""
    secure = ", Secure Boot on" if plan["secure_boot"] else ""
    host = f"{plan['host']}: " if plan["host"] else ""
    console.print(
        Text(f"{host}{gpus} on {plan['os']} {plan['arch']}{kernel}{secure}, release {plan['release']}", style="bold")
    )
    for label, value in _summary(plan):
        console.print(Text.assemble((f"{label:<15} ", "dim"), value))
    for warning in plan["warnings"]:
        console.print(Text(f"warning: {warning}", style="yellow"))
    if plan["planned_only"]:
        console.print(Text(f"planned only: {plan['planned_only']}", style="yellow"))
    _section(console, "packages")
    for line in _packages(plan):
        console.print(Text(line))
    _reasons(console, plan)
    _steps(console, plan)
    if plan["simulated"]:
        console.print(Text("simulated: true (a lab host: the GPU hardware is a stand-in)", style="dim"))


def _reasons(console: Console, plan: dict[str, Any]) -> None:
    sources = list(dict.fromkeys(r["source"] for r in plan["reasons"]))
    _section(console, "why")
    for reason in plan["reasons"]:
        mark = f" [{sources.index(reason['source']) + 1}]"
        console.print(Text.assemble("- ", (reason["choice"], "cyan"), f": {reason['why']}", (mark, "dim")))
    for number, source in enumerate(sources, start=1):
        console.print(Text(f"[{number}] {source}", style="dim"))


def _section(console: Console, title: str) -> None:
    console.print(Text(f"\n{title}", style="bold"))


def _summary(plan: dict[str, Any]) -> list[tuple[str, str]]:
    version = plan["version"] or "as the archive has it"
    built = "built by DKMS" if plan["build"] == "dkms" else "precompiled"
    signed = ", signed" if plan["signed"] else ""
    origin, kept, cuda = plan["origin"], plan["kept"], plan["cuda"]
    where = origin["url"] or f"components {' '.join(origin['components'])}"
    needs = f"; needs {origin['needs']}" if origin["needs"] else ""
    met = {True: "yes", False: "no", None: "seen on the host"}[cuda["met"]]
    return [
        ("driver", f"branch {plan['branch']}, {version}; {plan['modules']} kernel modules, {built}{signed}"),
        ("from", f"{origin['name']}: {where}{needs}"),
        ("kept by", KEPT[kept["by"]].format(what=kept["what"])),
        ("runs the image", f"{met} (CUDA {cuda['image']}: driver {cuda['min_driver'] or 'unknown'} or newer)"),
    ]


def _packages(plan: dict[str, Any]) -> list[str]:
    width = max(len(p["name"]) for p in plan["packages"])
    lines, before = [], ""
    for package in plan["packages"]:
        part = PARTS[package["part"]]
        label = "" if part == before else part
        lines.append(f"{label:<15} {package['name']:<{width}}  {package['version'] or 'any version'}")
        before = part
    return lines


def _steps(console: Console, plan: dict[str, Any]) -> None:
    if not plan["steps"]:
        console.print(Text("\nnothing to do: the host has this driver", style="green"))
        return
    _section(console, "steps")
    for number, step in enumerate(plan["steps"], start=1):
        why = f" ({step['why']})" if step["why"] else ""
        line = Text(f"{number}. {step['what']}{why}")
        if step["stops_gpus"]:
            line.append(" [no GPU can be used meanwhile]", style="yellow")
        console.print(line)
        if step["command"]:
            console.print(Text(f"     {step['command']}", style="dim"))
