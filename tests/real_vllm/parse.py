"""Run by vLLM's own Python: parse lists of arguments with the release's real parser, one JSON list a line.

Prints for each line a JSON object: whether it was accepted, and what the parser said. Nothing is started.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from vllm.entrypoints.cli.serve import cmd_init
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main() -> None:
    parser = FlexibleArgumentParser(prog="vllm")
    command = cmd_init()[0]
    command.subparser_init(parser.add_subparsers(required=False, dest="subparser"))
    for line in sys.stdin:
        words = json.loads(line)
        said = io.StringIO()
        accepted = True
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                command.validate(parser.parse_args(["serve", *words]))
        except SystemExit as stop:
            accepted = stop.code == 0
        except Exception as error:  # what vLLM raises before it loads anything
            accepted = False
            said.write(f"{type(error).__name__}: {error}")
        lines = said.getvalue().strip().splitlines()
        print(json.dumps({"accepted": accepted, "said": lines[-1] if lines else ""}), flush=True)


main()
