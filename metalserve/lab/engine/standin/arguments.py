"""The argument parser of `vllm serve`, built from the real release's flags: argparse itself gives the real refusals."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def human_readable_int(value: str) -> int:
    """Return 8192 for "8192" and "8K", 8000 for "8k", as vLLM reads such numbers."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgGtT])", value.strip())
    if not found:
        return int(value)
    number, suffix = found.groups()
    if suffix in _DECIMAL:
        return int(float(number) * _DECIMAL[suffix])
    if "." in number:
        raise argparse.ArgumentTypeError("Decimals are not allowed with binary suffixes like " + suffix)
    return int(number) * _BINARY[suffix]


def human_readable_int_or_auto(value: str) -> int:
    """Return -1 for "auto" (fit the context to the memory), else as `human_readable_int`."""
    return -1 if value.lower() in {"auto", "-1"} else human_readable_int(value)


def union_dict_and_str(value: str) -> Any:
    """Return a JSON object, or the text itself where it does not start like one."""
    return json.loads(value) if re.match(r"(?s)^\s*{.*}\s*$", value) else value


_CONVERTERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "json": json.loads,
    "json_or_str": union_dict_and_str,
    "human_int": human_readable_int,
    "human_int_or_auto": human_readable_int_or_auto,
}


def _converter(entry: dict[str, Any]) -> Callable[[str], Any]:
    convert = _CONVERTERS[entry["type"]]
    if entry.get("folded"):
        return lambda value: value.lower().replace("-", "_")
    if not entry.get("optional"):
        return convert

    def optional(value: str) -> Any:
        return None if value in {"", "None"} else convert(value)

    optional.__name__ = getattr(convert, "__name__", "value")
    return optional


class _Boolean(argparse.Action):
    """`--x` is true, `--no-x`, and `--disable-x` beside `--enable-x`, are false."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        name = option_string or ""
        first = self.option_strings[0]
        negative = name.startswith("--no-") or (name != first and name.startswith(("--disable-", "--enable-")))
        setattr(namespace, self.dest, not negative)


class Parser(argparse.ArgumentParser):
    """argparse with what vLLM's own parser does first: underscores, `--a.b value`, `-O3`."""

    def error(self, message: str) -> NoReturn:
        """Print the refusal as vLLM does and exit with status 2."""
        self.exit(2, f"usage: vllm serve [model_tag] [options]\n{self.prog}: error: {message}\n")

    def prepare(self, arguments: Sequence[str]) -> list[str]:
        """Return the arguments as argparse must see them."""
        plain: list[str] = []
        nested: dict[str, dict[str, Any]] = {}
        words = list(arguments)
        while words:
            word = words.pop(0)
            if re.fullmatch(r"-O=?\d", word) and "-O" not in self._option_string_actions:
                plain += ["--optimization-level", word[-1]]
                continue
            if not word.startswith("-"):
                plain.append(word)
                continue
            name, equals, value = word.partition("=")
            head, dot, keys = name.partition(".")
            if head.startswith("--"):
                head = head.replace("_", "-")
            if not dot or re.fullmatch(r"-[\d.]+", name):
                plain.append(head + dot + keys + equals + value)
                continue
            if not equals:
                if not words:
                    self.error(f"argument {name}: expected one argument")
                value = words.pop(0)
            _nest(nested.setdefault(head, {}), keys, value)
        for name, tree in nested.items():
            plain += [name, json.dumps(tree)]
        return plain


def _nest(tree: dict[str, Any], dotted: str, text: str) -> None:
    if dotted.endswith("+"):
        dotted, text = dotted[:-1], json.dumps(text.split(","))
    *path, last = dotted.split(".")
    for key in path:
        tree = tree.setdefault(key, {})
    try:
        tree[last] = json.loads(text)
    except ValueError:
        tree[last] = text


def build_parser(flags: Path, *, prog: str = "vllm serve") -> Parser:
    """Return the parser of one release from its flag file (`flags-VERSION.json` of the catalogue)."""
    parser = Parser(prog=prog, argument_default=None)
    for entry in json.loads(flags.read_text(encoding="utf-8"))["flags"]:
        names = [*entry["flags"], *entry.get("also", ())]
        if entry["action"] == "help":
            continue  # argparse has its own
        options: dict[str, Any] = {"default": entry.get("default")}
        if entry["action"] == "boolean":
            options |= {"action": _Boolean, "nargs": 0}
        else:
            options |= {"type": _converter(entry), "choices": entry.get("choices")}
            if entry["action"] == "append":
                options["action"] = "append"
            elif "nargs" in entry:
                options["nargs"] = entry["nargs"]
        if names:
            parser.add_argument(*names, dest=entry["dest"], **options)
        else:
            parser.add_argument(entry["dest"], **options)
    return parser


def non_default(parser: Parser, parsed: argparse.Namespace) -> dict[str, Any]:
    """Return what was given and differs from the default, secrets hidden, for the start-up log."""
    given = {key: value for key, value in vars(parsed).items() if value != parser.get_default(key)}
    return {key: "(hidden)" if key in {"api_key", "hf_token"} else value for key, value in given.items()}
