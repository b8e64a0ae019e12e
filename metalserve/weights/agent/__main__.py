"""The agent's command line: `python3 -B -m msweights COMMAND ...`.

Exit status: 0 fine; 1 refused or failed, with one line on standard error (what, where, what to do); 3 what is
published is not intact. Told to stop by SIGTERM or SIGINT it keeps what came and ends by that signal.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from .config import ConfigError
from .errors import AgentError, Found, Stopped
from .look import inspect
from .store import Store

NOT_INTACT = 3
CONFIGS = "/etc/metalserve/weights"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="msweights", description="Stages, checks and shares models on this host.")
    kinds = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON")
    for name, about in (
        ("stage", "fetch, prove and publish"),
        ("check", "is it what was proved?"),
        ("repair", "hash all, fetch again what is wrong"),
        ("status", "what is there and what runs"),
        ("seed", "give to other hosts until told to stop"),
        ("torrent", "what other hosts need to take it from this one, base64; reads every byte"),
    ):
        command = kinds.add_parser(name, help=about, parents=[common])
        command.add_argument("config", help="/etc/metalserve/weights/KEY.json")
        if name == "check":
            kind = command.add_mutually_exclusive_group()
            kind.add_argument("--sizes", action="store_true", help="names, sizes and times; no byte is read")
            kind.add_argument("--fast", action="store_true", help="and sampled blocks (this is the default)")
            kind.add_argument("--full", action="store_true", help="every byte")
    look = kinds.add_parser("inspect", help="what lies in a store, without its configuration", parents=[common])
    look.add_argument("store", help="MOUNT/ORGANISATION--NAME")
    look.add_argument("revision", help="commit")
    collect = kinds.add_parser("gc", help="remove what nobody references", parents=[common])
    collect.add_argument("mount", help="mount point of the models")
    collect.add_argument("--keep", type=_count, default=1, help="models without a reference that stay (1)")
    collect.add_argument("--dry", action="store_true", help="only say what would go")
    collect.add_argument("--configs", default=CONFIGS, help=f"directory of the jobs ({CONFIGS})")
    listing = kinds.add_parser("references", help="who serves which model", parents=[common])
    listing.add_argument("mount", help="mount point of the models")
    reference = kinds.add_parser("reference", help="make or remove a reference").add_subparsers(
        dest="action", required=True
    )
    adding = reference.add_parser("add", parents=[common])
    removing = reference.add_parser("remove", parents=[common])
    for command in (adding, removing):
        command.add_argument("mount", help="mount point of the models")
        command.add_argument("name", help="who serves it, such as the engine's unit")
    adding.add_argument("--repository", required=True, help="ORGANISATION/NAME")
    adding.add_argument("--revision", required=True, help="commit")
    adding.add_argument("--release", default="", help="of metalserve")
    return parser


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return count


def _run(arguments: argparse.Namespace, stop: threading.Event) -> tuple[dict[str, Any], str]:
    name = arguments.command
    if name == "inspect":
        data = inspect(Store(arguments.store, arguments.revision))
        return data, f"{data['state']} {data['what']}".strip()
    from . import commands  # here, since it takes longer to import than `inspect` takes

    if name in ("stage", "repair"):
        return commands.run_stage(arguments.config, stop, quiet=arguments.json, repair=name == "repair")
    if name == "check":
        kind = "full" if arguments.full else "sizes" if arguments.sizes else "fast"
        return commands.run_check(arguments.config, kind, stop, quiet=arguments.json)
    if name == "status":
        return commands.run_status(arguments.config)
    if name == "seed":
        return commands.run_seed(arguments.config)
    if name == "torrent":
        return commands.run_torrent(arguments.config)
    if name == "gc":
        return commands.run_gc(arguments.mount, arguments.keep, arguments.dry, arguments.configs)
    if name == "references":
        return commands.run_references(arguments.mount)
    if arguments.action == "remove":
        return commands.run_unreference(arguments.mount, arguments.name)
    return commands.run_reference(
        arguments.mount, arguments.name, arguments.repository, arguments.revision, arguments.release
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = _parser().parse_args(argv)
    os.umask(0o022)
    stop = threading.Event()
    caught: list[int] = []

    def told(number: int, _frame: object) -> None:
        caught.append(number)
        stop.set()

    # a swarm handles signals itself
    numbers = () if arguments.command == "seed" else (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, told) for number in numbers}
    try:
        data, line = _run(arguments, stop)
    except Found as error:
        if arguments.json:
            print(json.dumps(error.data), flush=True)
        print(error, file=sys.stderr, flush=True)
        return NOT_INTACT
    except Stopped as error:
        print(error, file=sys.stderr, flush=True)
        if caught:  # whoever started it is to see that it was a signal
            signal.signal(caught[0], signal.SIG_DFL)
            os.kill(os.getpid(), caught[0])
        return 1
    except (AgentError, ConfigError) as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"{where}{error.strerror} -> see whether the drive is mounted and writable", file=sys.stderr, flush=True)
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if arguments.json:
        print(json.dumps(data), flush=True)
    elif line:
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
