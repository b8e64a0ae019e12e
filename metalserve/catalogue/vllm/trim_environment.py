"""Reduce lists of a release's environment variables (vllm/envs.py) to what the catalogue keeps.

Use:  `python -m metalserve.catalogue.vllm.trim_environment ENV_OLD.json ENV_NEW.json OUT.json`, oldest release first.

A list is `{"vllm_version": ..., "env": [{"name", "expr"}]}`, `expr` being the expression that reads the variable.
What replaced a variable is written by hand and kept when the file is made anew.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_BOOLEAN = re.compile(r"lambda: (bool\(int\(|maybe_convert_bool\()")
_NUMBER = re.compile(r"lambda: (int|float)\(os\.(getenv|environ\.get)\(")


def _reading(expr: str, name: str) -> dict[str, Any]:
    """Return how a value is read, where a wrong one stops vLLM; nothing where any text will do."""
    if _BOOLEAN.match(expr):
        return {"type": "0 or 1"}
    if number := _NUMBER.match(expr):
        return {"type": number.group(1)}
    found = re.match(rf"env_with_choices\('{name}', [^\[(]*(\[(?:'[^']*'(?:, )?)+\])(.*)\)$", expr)
    if found:
        choices = re.findall(r"'([^']*)'", found.group(1))
        return {"choices": choices, **({"folded": True} if "case_sensitive=False" in found.group(2) else {})}
    return {}


def trim(lists: Sequence[Mapping[str, Any]], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the catalogue of environment variables from the lists of releases, oldest first."""
    sampled = [each["vllm_version"] for each in lists]
    variables: dict[str, dict[str, Any]] = {}
    for each in lists:
        for entry in each["env"]:
            known = variables.setdefault(entry["name"], {"seen": []})
            reading = _reading(entry["expr"], entry["name"])
            known = {"seen": [*known["seen"], each["vllm_version"]], **reading}
            kept = before.get(entry["name"], {})
            variables[entry["name"]] = known | {key: kept[key] for key in ("instead", "source") if key in kept}
    return {"source": "vllm/envs.py of the releases' source distributions", "sampled": sampled, "variables": variables}


def render(catalogue: Mapping[str, Any]) -> str:
    """Return the catalogue as JSON with one variable a line."""
    rows = catalogue["variables"]
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(rows[name])}" for name in sorted(rows))
    head = "".join(f" {json.dumps(key)}: {json.dumps(catalogue[key])},\n" for key in ("source", "sampled"))
    return f'{{\n{head} "variables": {{\n{lines}\n }}\n}}\n'


if __name__ == "__main__":
    *inputs, output = map(Path, sys.argv[1:])
    kept = json.loads(output.read_text())["variables"] if output.exists() else {}
    output.write_text(render(trim([json.loads(path.read_text()) for path in inputs], kept)))
