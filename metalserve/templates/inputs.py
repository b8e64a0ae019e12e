"""Digests of what decides how a template comes out: its specification, the roles and their code, the release."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel

from metalserve.paths import ROOT, releases_directory
from metalserve.templates.manifest import TemplateError

LIBRARY, CATALOGUE, PLACED, FIRST_BOOT = "library", "catalogue", "files", "first boot"
BESIDE_ROLES = (LIBRARY, CATALOGUE, PLACED, FIRST_BOOT)
"""What is digested beside the roles, by these names: code that they import, its data, files that they place."""

_NOT_PLACED = {"audit", "bench", "cost", "models", "recovery", "releases", "report", "templates"}
"""Rooms of `files/` that never reach a host: pages, examples, and what has a digest of its own."""

_SEAM = "metalserve.pyinfra_seam"


def spec_digest(spec: BaseModel) -> str:
    """Return the SHA-256 of a specification, defaults filled in, whatever the order and comments of its file."""
    text = json.dumps(spec.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def release_digest(name: str) -> str:
    """Return the SHA-256 of the file of a release; raises TemplateError when there is none."""
    path = releases_directory() / f"{name}.yaml"
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise TemplateError(f"cannot be read: {error.strerror}", where=str(path)) from error


def role_digests(roles: Iterable[str], root: Path = ROOT) -> dict[str, str]:
    """Return the SHA-256 of each role's directory, and of the code, data and files that the roles use.

    How roles are run (the seam to pyinfra) does not count: it decides nothing.

    Args:
        roles: names of roles, as their directories are called.
        root: the checkout.

    Raises:
        TemplateError: there is no such role.
    """
    found: dict[str, str] = {}
    sources: list[Path] = []
    for role in roles:
        directory = root / "roles" / role
        if not (directory / "__init__.py").is_file():
            raise TemplateError(f"there is no role {role!r}", where="roles")
        own = _files(directory)
        found[role] = tree_digest(own, root)
        sources += (path for path in own if path.suffix == ".py")
    library = (path for path in imported(sources, root) if path.parts[len(root.parts)] == "metalserve")
    found[LIBRARY] = tree_digest(library, root)
    found[CATALOGUE] = tree_digest((root / "metalserve" / "catalogue").rglob("*.yaml"), root)
    rooms = sorted(path for path in (root / "files").iterdir() if path.is_dir() and path.name not in _NOT_PLACED)
    found[PLACED] = tree_digest((file for room in rooms for file in _files(room)), root)
    found[FIRST_BOOT] = tree_digest(_files(root / "files" / "templates" / "firstboot"), root)
    return found


def tree_digest(paths: Iterable[Path], root: Path) -> str:
    """Return the SHA-256 over files: their paths below `root`, whether they are executable, and their content."""
    hashed = hashlib.sha256()
    for path in sorted(set(paths)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        executable = "x" if path.stat().st_mode & 0o100 else "-"
        hashed.update(f"{content} {executable} {path.relative_to(root).as_posix()}\n".encode())
    return hashed.hexdigest()


def imported(paths: Iterable[Path], root: Path = ROOT) -> set[Path]:
    """Return the files of the project that Python files import, and those import, and so on."""
    found: set[Path] = set()
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        for name in _names(path, root):
            module = _module(name, root)
            if module is not None and module not in found:
                found.add(module)
                waiting.append(module)
    return found


def _names(path: Path, root: Path) -> set[str]:
    found: set[str] = set()
    package = path.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            full = ".".join(filter(None, (base, node.module)))
            found |= {full} | {f"{full}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith(("metalserve.", "roles.")) and not name.startswith(_SEAM)}


def _module(name: str, root: Path) -> Path | None:
    path = root.joinpath(*name.split("."))
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
