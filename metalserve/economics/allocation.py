"""Which tokens bear the cost: prompts and answers by the time that each takes. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from metalserve.economics.options import Case, Option, monthly, tokens


@dataclass(frozen=True, slots=True)
class UnitCost:
    """What tokens cost, a million each; None where there are none of a kind or it is not known how to divide.

    Attributes:
        total: a month's cost.
        per_output: all cost on the answer tokens: what options are compared by.
        input: of a prompt token that is not cached.
        cached: of one that is.
        output: of an answer token, when the prompts bear theirs.
    """

    total: float
    per_output: float
    input: float | None
    cached: float | None
    output: float | None


def unit_cost(case: Case, option: Option) -> UnitCost | None:
    """Return what a million tokens costs in an option; None where a price is missing or nothing is served.

    The cost is divided by the share of the engine's time that prompts take (`allocation.prefill_share`); among prompt
    tokens a cached one counts `allocation.cached_ratio` of one that is not. API prices stand as they are billed, with
    the work for them on top in proportion. In both, the three prices times their tokens give the total again.
    """
    served = tokens(case)
    if case.missing(option) or served.output <= 0:
        return None
    a, parts = case.assumptions, monthly(case, option)
    total = sum(parts.values())
    whole = UnitCost(total, total / served.output, None, None, None)
    if option == "api":
        more = total / parts["tokens"] if parts["tokens"] else 1.0
        prompt, cached = a["price.api_input"], a.get("price.api_cached", a["price.api_input"])
        return UnitCost(total, whole.per_output, prompt * more, cached * more, a["price.api_output"] * more)
    share = a.get("allocation.prefill_share")
    weighed = served.input + a["allocation.cached_ratio"] * served.cached
    if share is None or (share > 0 and weighed <= 0):
        return whole
    prompt = total * share / weighed if weighed > 0 else 0.0
    return UnitCost(
        total,
        whole.per_output,
        prompt,
        prompt * a["allocation.cached_ratio"],
        total * (1 - share) / served.output,
    )
