"""driver_packages.yaml: every row says where it is from, and every name can be filled in."""

from __future__ import annotations

import string
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest
import yaml

from metalserve.catalogue import loader
from metalserve.catalogue.driver_packages import rule_for
from metalserve.catalogue.loader import load_driver_packages
from metalserve.catalogue.models import CatalogueError

RAW = yaml.safe_load(resources.files("metalserve.catalogue").joinpath("driver_packages.yaml").read_text())
FIELDS = {"branch", "version", "kernel", "flavour", "minor", "distro", "arch"}


def values(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from values(part, str(name))
    elif isinstance(value, list):
        for part in value:
            yield from values(part, key)
    else:
        yield key, value


def test_every_source_is_used_and_every_one_that_is_used_is_spelled_out() -> None:
    used = {value for key, value in values({k: v for k, v in RAW.items() if k != "sources"}) if key == "source"}
    assert used | {"imex"} == set(RAW["sources"])  # imex is named where the choice is made
    assert all(" " in text for text in RAW["sources"].values())


def test_names_have_only_the_blanks_that_are_filled_in() -> None:
    for _, value in values({k: v for k, v in RAW.items() if k != "sources"}):
        if isinstance(value, str):
            blanks = {name for _, name, _, _ in string.Formatter().parse(value) if name is not None}
            assert blanks <= FIELDS, value


def test_what_is_not_confirmed_says_so() -> None:
    systems = {s.id: s for s in load_driver_packages().systems}
    assert "first_branch" in systems["ubuntu-26.04"].unconfirmed
    assert "query" in rule_for(load_driver_packages().repository.fabric["rhel"], 570).unconfirmed


@pytest.mark.parametrize(("branch", "open_modules"), [(580, "nvidia-dkms-580-open"), (581, "nvidia-dkms-open")])
def test_the_first_rule_that_reaches_a_branch_holds(branch: int, open_modules: str) -> None:
    rule = rule_for(load_driver_packages().repository.driver["ubuntu"], branch)
    assert rule.open.format(branch=branch) == open_modules


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["headers"]["rhel"].update(source="nobody"), "no source is called 'nobody'"),
        (lambda d: d["systems"].append(dict(d["systems"][0])), "system named twice: ubuntu-22.04"),
        (lambda d: d["archives"][0].pop("user"), "archives.0.user"),
        (lambda d: d["systems"][0].update(family="suse"), "systems.0.family"),
    ],
)
def test_a_damaged_catalogue_is_refused(change: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = loader._read

    def damaged(name: str) -> dict[str, Any]:
        data = read(name)
        change(data)
        return data

    monkeypatch.setattr(loader, "_read", damaged)
    with pytest.raises(CatalogueError, match=words):
        load_driver_packages.__wrapped__()
