"""The rules of the house: dependencies point one way, and pyinfra is met in few places."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from metalserve.paths import ROOT

LONGEST = 300
"""Lines after which a module is to be split."""

CROSSINGS = {
    # Which keys belong to pyinfra is asked of the installed pyinfra; a list of ours would refuse its next version's.
    "metalserve/settings/reading.py": {"metalserve.pyinfra_seam"},
}


def python_files(*places: str) -> list[Path]:
    """Return the project's Python files below `places`, relative to the checkout."""
    found = []
    for place in places:
        path = ROOT / place
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return [p.relative_to(ROOT) for p in found if "__pycache__" not in p.parts]


@cache
def imports(path: Path) -> frozenset[str]:
    """Return the dotted names that a file imports, anywhere in it."""
    found: set[str] = set()
    package = ".".join(path.with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *filter(None, [node.module])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return frozenset(found)


def reaches(path: Path, *modules: str) -> list[str]:
    """Return which of `modules` a file imports, or something below them."""
    return sorted(m for m in modules for name in imports(path) if name == m or name.startswith(f"{m}."))


def offenders(files: list[Path], *modules: str) -> Iterator[str]:
    for path in files:
        if found := set(reaches(path, *modules)) - CROSSINGS.get(path.as_posix(), set()):
            yield f"{path}: imports {', '.join(sorted(found))}"


EVERYTHING = python_files("metalserve", "roles", "deploys", "inventories", "config.py")
PYINFRA = ("pyinfra", "pyinfra_cli", "gevent", "paramiko")


def test_there_is_something_to_look_at() -> None:
    assert len(EVERYTHING) > 50
    assert "pyinfra.api.deploy" in imports(Path("metalserve/pyinfra_seam/role.py"))


def test_pyinfra_is_met_only_where_it_may_be() -> None:
    allowed = ("metalserve/pyinfra_seam/", "metalserve/facts/", "metalserve/operations/", "roles/", "deploys/")
    rest = [p for p in EVERYTHING if not p.as_posix().startswith(allowed)]
    assert list(offenders(rest, *PYINFRA)) == []


def test_what_is_pure_does_not_even_know_the_seam() -> None:
    domains = [
        p
        for p in python_files("metalserve")
        if p.parts[1]
        in (
            "audit",
            "benching",
            "hardware",
            "catalogue",
            "desired",
            "driver",
            "economics",
            "flags",
            "monitoring",
            "planning",
            "settings",
            "releases",
            "routing",
            "upgrade",
            "verify",
            "watching",
        )
    ]
    pure_roles = [p for p in python_files("roles") if p.name != "__init__.py"]
    assert list(offenders([*domains, *pure_roles], "metalserve.pyinfra_seam", *PYINFRA, "subprocess", "socket")) == []


def test_hardware_and_catalogue_know_nothing_of_the_rest() -> None:
    own = {
        "metalserve.errors",
        "metalserve.paths",
        "metalserve.yaml_text",
        "metalserve.hardware",
        "metalserve.catalogue",
    }
    for path in python_files("metalserve/hardware", "metalserve/catalogue"):
        internal = {name for name in imports(path) if name.startswith(("metalserve.", "roles", "deploys"))}
        strange = {n for n in internal if not any(n == o or n.startswith(f"{o}.") for o in own)}
        assert strange == set(), path


@pytest.mark.parametrize(
    ("layer", "above"),
    [
        (
            ("metalserve/settings",),
            ("metalserve.desired", "metalserve.flags", "metalserve.planning", "metalserve.verify", "roles"),
        ),
        (("metalserve/desired",), ("metalserve.pyinfra_seam", "metalserve.planning", "metalserve.converge", "roles")),
        (("metalserve",), ("roles", "deploys", "inventories", "tests")),
        (("roles",), ("deploys", "inventories", "metalserve.converge", "tests")),
    ],
)
def test_dependencies_point_one_way(layer: tuple[str, ...], above: tuple[str, ...]) -> None:
    assert list(offenders(python_files(*layer), *above)) == []


def test_nothing_imports_the_command_line_or_the_lab() -> None:
    entry_points = ("metalserve/cli/", "metalserve/lab/", "metalserve/__main__.py", "inventories/lab.py")
    rest = [p for p in EVERYTHING if not p.as_posix().startswith(entry_points)]
    assert list(offenders(rest, "metalserve.cli", "metalserve.lab")) == []


def test_deploys_are_lists_of_roles() -> None:
    for path in python_files("deploys"):
        internal = {name for name in imports(path) if name.startswith(("metalserve", "roles"))}
        strange = {n for n in internal if not n.startswith(("roles", "metalserve.pyinfra_seam.role"))}
        assert strange == set(), path
        assert len((ROOT / path).read_text().splitlines()) <= 60, path


def test_every_role_has_the_same_shape() -> None:
    for directory in sorted(p for p in (ROOT / "roles").iterdir() if p.is_dir() and p.name != "__pycache__"):
        names = {p.name for p in directory.iterdir()}
        assert {"__init__.py", "desired.py", "README.md"} <= names, directory.name
        tree = ast.parse((directory / "__init__.py").read_text())
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == directory.name]
        assert len(functions) == 1, directory.name
        assert ast.get_docstring(functions[0]), directory.name


def test_no_file_is_too_long_to_read() -> None:
    every = python_files("metalserve", "roles", "deploys", "inventories", "config.py")
    assert [p.as_posix() for p in every if len((ROOT / p).read_text().splitlines()) > LONGEST] == []


def test_the_command_line_has_every_command_it_names() -> None:
    import click

    from metalserve.cli import COMMANDS, root

    for name in COMMANDS:
        command = root.get_command(click.Context(root), name)
        assert isinstance(command, click.Command), name
        assert (command.help or "").strip(), name
