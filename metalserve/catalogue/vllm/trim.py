"""Reduce a dump of vLLM's real argument parser to what the flag catalogue keeps.

Use, when a release is added:  `python -m metalserve.catalogue.vllm.trim DUMP.json OUT.json`

The dump is one JSON object per parser action (`dest, flags, also_accepted, action, nargs, type, choices,
default`), made by importing `vllm serve`'s own parser from the release's source distribution. Help texts and
groups are dropped: the catalogue decides whether an argument is accepted, it does not document vLLM.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

# What vLLM's own converter functions accept, by the name of the function as the dump gives it.
_TYPES = {
    "str": "str",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "loads": "json",
    "parse_dataclass": "json",
    "_parse_type": "json",
    "<lambda>": "json",
    "union_dict_and_str": "json_or_str",
    "human_readable_int": "human_int",
    "human_readable_int_or_auto": "human_int_or_auto",
    "parse_reasoning_parser": "str",
    "nullable_str": "str",
    "nullable_kvs": "str",
}
_BOOLEAN_ACTIONS = {"BooleanOptionalAction", "EnableDisableAction", "_StoreTrueAction", "_StoreFalseAction"}
# These are lower-cased, with '-' as '_', before they are compared with the choices (a lambda in vLLM).
_FOLDED = ("--moe-backend", "--linear-backend", "--sparse-indexer-topk-backend")


def _type(flag: dict[str, Any]) -> tuple[str, bool]:
    """Return (type, whether the word None or an empty value stands for no value)."""
    name = flag["type"]
    if flag["flags"] and flag["flags"][0] in (*_FOLDED, "--device-ids"):
        return "str", False
    if name is None:
        return "str", False
    optional = "optional_type" in name or name.startswith("nullable")
    inner = re.search(r"\[([^\]]+)\]$", name)
    if optional and inner:
        name = inner.group(1)
    elif "parse_type" in name:
        name = "loads"
    elif "parse_dataclass" in name or ".from_" in name or "lambda" in name:
        name = "parse_dataclass"
    return _TYPES[name], optional


def trim(dump: dict[str, Any]) -> dict[str, Any]:
    """Return the catalogue entry of one release from a parser dump."""
    flags = []
    for flag in dump["flags"]:
        kind, optional = _type(flag)
        entry: dict[str, Any] = {"dest": flag["dest"], "flags": flag["flags"]}
        if flag["also_accepted"]:
            entry["also"] = flag["also_accepted"]
        if flag["action"] == "_HelpAction":
            entry["action"] = "help"
        elif flag["action"] in _BOOLEAN_ACTIONS:
            entry["action"] = "boolean"
        else:
            entry["action"] = "append" if flag["action"] == "_AppendAction" else "store"
            entry["type"] = kind
            if optional:
                entry["optional"] = True
            if flag["nargs"] is not None:
                entry["nargs"] = flag["nargs"]
            if flag["choices"] is not None:
                entry["choices"] = flag["choices"]
            if flag["flags"] and flag["flags"][0] in _FOLDED:
                entry["folded"] = True
        default = flag["default"]
        # A text as the default of another type is how the dump shows an object: argparse would read it again.
        words = isinstance(default, str) and entry.get("type") == "str" and default != "==SUPPRESS=="
        if words or isinstance(default, (bool, int, float)):
            entry["default"] = default
        flags.append(entry)
    return {"release": dump["vllm_version"], "source": dump["source"], "flags": flags}


def render(entry: dict[str, Any]) -> str:
    """Return the entry as JSON with one flag a line, so that two releases can be compared with `diff`."""
    lines = ",\n".join("  " + json.dumps(flag, sort_keys=False) for flag in entry["flags"])
    head = f'{{\n "release": {json.dumps(entry["release"])},\n "source": {json.dumps(entry["source"])},\n'
    return f'{head} "flags": [\n{lines}\n ]\n}}\n'


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(render(trim(json.loads(Path(sys.argv[1]).read_text()))))
