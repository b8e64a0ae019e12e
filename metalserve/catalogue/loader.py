"""Loads the catalogue's YAML files into typed, frozen values; each file once per process."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, TypeVar

from pydantic import ValidationError

from metalserve.catalogue.driver_packages import DriverPackages
from metalserve.catalogue.models import (
    CatalogueError,
    CudaDrivers,
    GpuCatalogue,
    XidCatalogue,
)
from metalserve.catalogue.prices import Prices
from metalserve.catalogue.speeds import Roofline, Speeds
from metalserve.catalogue.thresholds import KernelParameters, Threshold, ThresholdCatalogue
from metalserve.yaml_text import read_yaml

_Catalogue = TypeVar(
    "_Catalogue",
    GpuCatalogue,
    XidCatalogue,
    CudaDrivers,
    DriverPackages,
    ThresholdCatalogue,
    KernelParameters,
    Speeds,
    Roofline,
    Prices,
)


@cache
def load_gpus() -> GpuCatalogue:
    """Return the GPU catalogue.

    Raises:
        CatalogueError: the file is damaged or contradicts itself.
    """
    data = _read("gpus.yaml")
    for row in data["gpus"]:
        row["source"] = _spelled(row.pop("sources"), data["sources"])
    catalogue = _validated(GpuCatalogue, data, "gpus.yaml")
    _no_duplicates("gpus.yaml", "id", [g.id for g in catalogue.gpus])
    _no_duplicates("gpus.yaml", "PCI id", [p for g in catalogue.gpus for p in g.pci_ids])
    _no_duplicates("gpus.yaml", "name", [n for g in catalogue.gpus for n in g.names])
    return catalogue


@cache
def load_xids() -> XidCatalogue:
    """Return the Xid catalogue; Xids that NVIDIA marks unused are in it with severity `unused`.

    Raises:
        CatalogueError: the file is damaged or contradicts itself.
    """
    data = _read("xids.yaml")
    sources: dict[str, str] = data["sources"]
    actions: dict[str, str] = data.pop("actions")
    rows = data["xids"]
    rows += [
        {"code": c, "name": "unused", "severity": "unused", "action": "contact-support", "source": "catalogue"}
        for c in data.pop("unused")
    ]
    for row in rows:
        row["source"] = _spelled([row["source"]], sources)
        row["remedy"] = actions[row["action"]]
    for row in data["recovery_actions"]:
        row["source"] = _spelled([row["source"]], sources)
    catalogue = _validated(XidCatalogue, data, "xids.yaml")
    _no_duplicates("xids.yaml", "code", [str(x.code) for x in catalogue.xids])
    return catalogue


@cache
def load_cuda_drivers() -> CudaDrivers:
    """Return the rules between CUDA, driver branches and architectures.

    Raises:
        CatalogueError: the file is damaged or contradicts itself.
    """
    data = _read("cuda_drivers.yaml")
    for key in ("families", "branches", "toolkits", "architectures"):
        for row in data[key]:
            row["source"] = _spelled([row["source"]], data["sources"])
    return _validated(CudaDrivers, data, "cuda_drivers.yaml")


@cache
def load_driver_packages() -> DriverPackages:
    """Return the names of driver packages by system, branch and repository.

    Raises:
        CatalogueError: the file is damaged or contradicts itself.
    """
    data = _read("driver_packages.yaml")
    _spell_out(data, data["sources"])
    catalogue = _validated(DriverPackages, data, "driver_packages.yaml")
    _no_duplicates("driver_packages.yaml", "system", list(catalogue.os_ids))
    _no_duplicates("driver_packages.yaml", "archive", [s for a in catalogue.archives for s in a.systems])
    return catalogue


@cache
def load_thresholds() -> ThresholdCatalogue:
    """Return the thresholds of the checks.

    Raises:
        CatalogueError: the file is damaged or contradicts itself.
    """
    catalogue = _validated(ThresholdCatalogue, _read("thresholds.yaml"), "thresholds.yaml")
    _no_duplicates("thresholds.yaml", "id", [t.id for t in catalogue.thresholds])
    return catalogue


@cache
def load_kernel_parameters() -> KernelParameters:
    """Return the kernel parameters that harm a GPU host.

    Raises:
        CatalogueError: the file is damaged.
    """
    return _validated(KernelParameters, _read("kernel_parameters.yaml"), "kernel_parameters.yaml")


@cache
def load_speeds() -> Speeds:
    """Return the rates of tensor cores and the measured all-reduces.

    Raises:
        CatalogueError: the file is damaged.
    """
    data = _read("speeds.yaml")
    for row in data["compute"].values():
        row["source"] = _spelled([row["source"]], data["sources"])
    return _validated(Speeds, data, "speeds.yaml")


@cache
def load_roofline() -> Roofline:
    """Return the fitted roofline.

    Raises:
        CatalogueError: the file is damaged.
    """
    return _validated(Roofline, _read("roofline.yaml"), "roofline.yaml")


@cache
def load_prices() -> Prices:
    """Return what hardware, tokens and people cost, and the hourly profiles.

    Raises:
        CatalogueError: the file is damaged or contradicts itself.
    """
    data = _read("prices.yaml")
    for row in [*data["hardware"], *data["api"]]:
        row["source"] = _spelled([row["source"]], data["sources"])
    prices = _validated(Prices, data, "prices.yaml")
    _no_duplicates("prices.yaml", "assumption", [a.name for a in prices.assumptions])
    _no_duplicates("prices.yaml", "profile", [p.name for p in prices.profiles])
    return prices


def threshold(name: str) -> Threshold:
    """Return one threshold of the catalogue.

    Raises:
        CatalogueError: there is none of this name.
    """
    return load_thresholds().get(name)


def _read(name: str) -> dict[str, Any]:
    text = resources.files("metalserve.catalogue").joinpath(name).read_text(encoding="utf-8")
    data: dict[str, Any] = read_yaml(text)
    return data


def _spell_out(value: Any, sources: dict[str, str]) -> None:
    """Replace the key of each `source` below `value` by its words."""
    if isinstance(value, dict):
        if isinstance(value.get("source"), str):
            if value["source"] not in sources:
                raise CatalogueError(f"no source is called {value['source']!r}", where="catalogue/driver_packages.yaml")
            value["source"] = sources[value["source"]]
        for part in value.values():
            _spell_out(part, sources)
    elif isinstance(value, list):
        for part in value:
            _spell_out(part, sources)


def _spelled(keys: list[str], sources: dict[str, str]) -> str:
    return "; ".join(sources[k] for k in keys)


def _validated(kind: type[_Catalogue], data: dict[str, Any], name: str) -> _Catalogue:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CatalogueError(f"{where}: {first['msg']}", where=f"catalogue/{name}") from error


def _no_duplicates(name: str, what: str, values: list[str]) -> None:
    twice = sorted({v for v in values if values.count(v) > 1})
    if twice:
        raise CatalogueError(f"{what} named twice: {', '.join(twice)}", where=f"catalogue/{name}")
