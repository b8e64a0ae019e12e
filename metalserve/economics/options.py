"""The ways to have the tokens, and what each costs a month, in parts that add up. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

from metalserve.economics.assumptions import Assumptions
from metalserve.economics.load import HOURS, Scaling, clipped, mean, node_hours

Option = Literal["bare-metal", "on-demand", "reserved", "spot", "on-premises", "api"]

OPTIONS: Final[tuple[Option, ...]] = ("bare-metal", "on-demand", "reserved", "spot", "on-premises", "api")

TITLES: Final[Mapping[Option, str]] = {
    "bare-metal": "bare-metal rental",
    "on-demand": "cloud, on demand",
    "reserved": "cloud, reserved",
    "spot": "cloud, spot",
    "on-premises": "own hardware",
    "api": "API of others",
}

PRICES: Final[Mapping[Option, tuple[str, ...]]] = {
    "bare-metal": ("price.bare_metal",),
    "on-demand": ("price.on_demand",),
    "reserved": ("price.reserved",),
    "spot": ("price.spot",),
    "on-premises": ("price.server", "power.gpu_w"),
    "api": ("price.api_input", "price.api_output"),
}
"""Figures without which an option is not computed."""

Part = Literal[
    "hardware", "redundancy", "financing", "power", "colocation", "support", "staff", "engineering", "extras",
    "preemption", "tokens",
]  # fmt: skip
PARTS: Final[tuple[Part, ...]] = (
    "hardware", "redundancy", "preemption", "extras", "financing", "power", "colocation", "support", "staff",
    "engineering", "tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What is priced.

    Attributes:
        assumptions: every figure.
        hours: load of each hour of a day or a week, shares of what `nodes` can do, before `utilisation.level`.
        nodes: nodes that serve; those for redundancy come on top.
        gpus: GPUs of a node.
        currency: of all money.
    """

    assumptions: Assumptions
    hours: tuple[float, ...]
    nodes: int
    gpus: int
    currency: str

    @cached_property
    def loads(self) -> tuple[float, ...]:
        """Load of each hour, 0 to 1: never above the capacity."""
        return clipped(self.hours, self.assumptions["utilisation.level"])

    @cached_property
    def utilisation(self) -> float:
        """Mean load, 0 to 1."""
        return mean(self.loads)

    @property
    def spares(self) -> float:
        """Nodes beyond the load."""
        return self.assumptions["redundancy.spare_nodes"]

    @property
    def scaling(self) -> Scaling:
        """How nodes that are paid by the hour follow the load."""
        a = self.assumptions
        return Scaling(a["scaling.fill"], a["scaling.min_nodes"], a["scaling.boot_minutes"] / 60)

    def at_level(self, level: float) -> Case:
        """Return the case with its profile at another level."""
        row = self.assumptions.row("utilisation.level")
        return replace(self, assumptions=self.assumptions.having(row.at(level)))

    def missing(self, option: Option) -> tuple[str, ...]:
        """Return the figures without which an option cannot be computed."""
        return tuple(name for name in PRICES[option] if name not in self.assumptions)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of a month, millions."""

    input: float
    cached: float
    output: float


def tokens(case: Case) -> Tokens:
    """Return what the fleet serves in a month: its rate at each hour's load, while it is available."""
    a = case.assumptions
    rate = case.nodes * a["throughput.output_tok_s"] * case.utilisation * a["availability"]
    output = rate * HOURS * 3600 / 1e6
    prompts = output * a["throughput.input_per_output"]
    share = a.get("throughput.cached_share", 0.0)
    return Tokens(prompts * (1 - share), prompts * share, output)


def monthly(case: Case, option: Option) -> dict[Part, float]:
    """Return what an option costs a month, part by part.

    Raises:
        KeyError: a figure of `case.missing(option)` is not there.
    """
    a, engineers = case.assumptions, case.assumptions["engineering.rate"]
    if option == "api":
        bought = tokens(case)
        cached = a.get("price.api_cached", a["price.api_input"])
        bill = bought.input * a["price.api_input"] + bought.cached * cached + bought.output * a["price.api_output"]
        return {"tokens": bill, "engineering": a["engineering.api"] * engineers}
    if option == "on-premises":
        return _on_premises(case)
    if option == "bare-metal":
        each = a["price.bare_metal"] + a["bare_metal.setup"] / a["bare_metal.term_months"]
        return {
            "hardware": case.nodes * each,
            "redundancy": case.spares * each,
            "engineering": a["engineering.bare_metal"] * engineers,
        }
    node_hour = case.gpus * a[PRICES[option][0]]
    always = option == "reserved"
    serving = case.nodes * HOURS if always else node_hours(case.loads, case.nodes, case.scaling)
    parts: dict[Part, float] = {"hardware": serving * node_hour, "redundancy": case.spares * HOURS * node_hour}
    work = a["engineering.cloud"]
    if option == "spot":
        # What was taken away while it worked has to be rented again: of each paid hour a share is lost.
        loss = a["spot.preemption_loss"]
        parts["preemption"] = sum(parts.values()) * loss / (1 - loss)
        work += a["engineering.spot"]
    parts["extras"] = sum(parts.values()) * a["cloud.extras_share"]
    parts["engineering"] = work * engineers
    return parts


def _on_premises(case: Case) -> dict[Part, float]:
    a, everything = case.assumptions, case.nodes + case.spares
    server, months = a["price.server"], a["on_premises.years"] * 12
    capital = server * (1 + a["on_premises.network_share"] + a["on_premises.tax_share"] + a["on_premises.spares_share"])
    residual = capital * a["on_premises.residual_share"]
    written_off = (capital - residual) / months
    interest = max(0.0, annuity(capital, residual, a["on_premises.interest"] / 12, months) - written_off)
    people = a["on_premises.staff_fleet"] + a["on_premises.staff_node"] * everything
    return {
        "hardware": case.nodes * written_off,
        "redundancy": case.spares * written_off,
        "financing": everything * interest,
        "power": kilowatts(case) * a["power.pue"] * HOURS * a["power.kwh"],
        "colocation": everything * a["on_premises.colocation"],
        "support": everything * server * a["on_premises.support_share"] / 12,
        "staff": people * a["on_premises.staff_year"] / 12,
        "engineering": a["engineering.on_premises"] * a["engineering.rate"],
    }


def annuity(capital: float, residual: float, rate: float, periods: float) -> float:
    """Return the equal payment a period that pays `capital` back but for `residual`, which is due at the end.

    Args:
        capital: what is borrowed.
        residual: what is left at the end.
        rate: interest a period, as a share; 0 for none.
        periods: how many payments.
    """
    if rate == 0:
        return (capital - residual) / periods
    # (capital - residual / (1 + rate)^periods) x rate / (1 - 1 / (1 + rate)^periods), exact for tiny rates too
    return (capital - residual) * rate / -math.expm1(-periods * math.log1p(rate)) + residual * rate


def kilowatts(case: Case) -> float:
    """Return the mean draw of all nodes at the plug, kW: idle ones draw a share, the rest grows with the load."""
    a = case.assumptions
    full = case.gpus * (a["power.gpu_w"] + a["power.host_w"]) / 1000
    idle = full * a["power.idle_share"]
    return (case.nodes + case.spares) * idle + case.nodes * (full - idle) * case.utilisation
