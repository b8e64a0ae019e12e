"""A small case of round figures, so that every result can be recomputed by hand."""

from __future__ import annotations

from metalserve.economics.assumptions import Assumption, Assumptions
from metalserve.economics.options import Case

FIGURES: dict[str, tuple[float, str, float | None, float | None]] = {
    "throughput.output_tok_s": (1000.0, "tok/s", 1e-9, None),
    "throughput.input_per_output": (3.0, "ratio", 0, None),
    "throughput.cached_share": (0.5, "share", 0, 1),
    "allocation.prefill_share": (0.4, "share", 0, 1),
    "allocation.cached_ratio": (0.1, "ratio", 0, 1),
    "utilisation.level": (1.0, "factor", 0, None),
    "availability": (1.0, "share", 0.01, 1),
    "redundancy.spare_nodes": (1.0, "nodes", 0, None),
    "scaling.fill": (1.0, "share", 0.05, 1),
    "scaling.min_nodes": (1.0, "nodes", 0, None),
    "scaling.boot_minutes": (0.0, "min", 0, 60),
    "spot.preemption_loss": (0.2, "share", 0, 0.95),
    "cloud.extras_share": (0.1, "share", 0, None),
    "bare_metal.setup": (1200.0, "USD", 0, None),
    "bare_metal.term_months": (12.0, "months", 1, None),
    "on_premises.network_share": (0.1, "share", 0, None),
    "on_premises.tax_share": (0.0, "share", 0, None),
    "on_premises.spares_share": (0.0, "share", 0, None),
    "on_premises.support_share": (0.06, "share/year", 0, None),
    "on_premises.years": (4.0, "years", 1, 10),
    "on_premises.residual_share": (0.2, "share", 0, 0.9),
    "on_premises.interest": (0.0, "share/year", 0, 0.5),
    "on_premises.colocation": (1000.0, "USD/node-month", 0, None),
    "on_premises.staff_fleet": (0.4, "FTE", 0, None),
    "on_premises.staff_node": (0.1, "FTE/node", 0, None),
    "on_premises.staff_year": (120_000.0, "USD/year", 0, None),
    "power.kwh": (0.1, "USD/kWh", 0, None),
    "power.pue": (1.5, "ratio", 1, 4),
    "power.host_w": (300.0, "W/GPU", 0, None),
    "power.gpu_w": (700.0, "W/GPU", 0, None),
    "power.idle_share": (0.25, "share", 0, 1),
    "engineering.rate": (100.0, "USD/h", 0, None),
    "engineering.bare_metal": (20.0, "h/month", 0, None),
    "engineering.cloud": (10.0, "h/month", 0, None),
    "engineering.spot": (5.0, "h/month", 0, None),
    "engineering.on_premises": (20.0, "h/month", 0, None),
    "engineering.api": (2.0, "h/month", 0, None),
    "price.bare_metal": (10_000.0, "USD/node-month", 0, None),
    "price.on_demand": (3.0, "USD/GPU-h", 0, None),
    "price.reserved": (2.0, "USD/GPU-h", 0, None),
    "price.spot": (1.5, "USD/GPU-h", 0, None),
    "price.server": (288_000.0, "USD/node", 0, None),
    "price.api_input": (0.5, "USD/Mtok", 0, None),
    "price.api_output": (2.0, "USD/Mtok", 0, None),
    "price.api_cached": (0.1, "USD/Mtok", 0, None),
}


def case(
    hours: tuple[float, ...] = (0.5,) * 24, nodes: int = 2, gpus: int = 8, without: tuple[str, ...] = (), **given: float
) -> Case:
    """Return the case; `price__spot=2` replaces a figure, `without` leaves some out."""
    values = {name: (value, unit, least, most) for name, (value, unit, least, most) in FIGURES.items()}
    for key, value in given.items():
        name = key.replace("__", ".")
        values[name] = (value, *values[name][1:])
    rows = [
        Assumption(name, name, value, unit, "given", "test", least=least, most=most)
        for name, (value, unit, least, most) in values.items()
        if name not in without
    ]
    return Case(Assumptions(rows), hours, nodes, gpus, "USD")
