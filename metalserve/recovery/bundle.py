"""The bundle that `files/recovery/collect.sh` makes on a host: what it holds and how each command ended. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final, Literal

from metalserve.paths import FILES
from metalserve.upgrade.holders import COMMANDS, CONTAINERS, PROCESSES

MANIFEST: Final = "manifest.tsv"
HUNG: Final = 124
"""Exit status that stands for a command which had not ended when the bundle was closed."""
LIMIT_S: Final = 20
"""Seconds that one command may take: `nvidia-smi -q` takes 1 to 3 s for 8 GPUs, and for ever where one is lost."""
DEADLINE_S: Final = 30
"""Seconds after which the bundle is closed with what there is: at night somebody waits for it."""
TOKEN_S: Final = 8
"""Seconds that an engine has for one token; a busy one is known by its counters."""
LINES: Final = 5000
"""Lines kept of a log; a boot of an 8-GPU host prints about 3,000."""


Token = Literal["token", "busy", "silent", "no answer", "starting", "down", "member", "unknown"]
"""What an engine did when it was asked for a token: `silent` says it is healthy and gives none; `member` is a part of a
group that has no API; `unknown`: it could not be asked."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle holds.

    Attributes:
        kernel: kernel log of this boot.
        earlier: of the boot before, empty when the host does not keep it.
        fabric: fabric manager's log.
        engines: engine -> log.
        silent: engines whose watch says that no token comes.
        smi: `nvidia-smi -q`, or what it said instead.
        smi_status: its exit status, `HUNG` when it did not end.
        lacking: what could not be had, in words.
    """

    kernel: str = ""
    earlier: str = ""
    fabric: str = ""
    engines: Mapping[str, str] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    smi: str = ""
    smi_status: int = 0
    lacking: tuple[str, ...] = ()


def collecting_script(*, limit_s: int = LIMIT_S, deadline_s: int = DEADLINE_S) -> str:
    """Return the script that a host is sent: one pass, every command with a limit of its own.

    Args:
        limit_s: seconds that one command may take.
        deadline_s: seconds after which the bundle is closed with what there is.
    """
    values = {
        "MS_LIMIT": limit_s, "MS_DEADLINE": deadline_s, "MS_LINES": LINES, "MS_TOKEN": TOKEN_S,
        "MS_HOLDERS": COMMANDS[PROCESSES], "MS_CONTAINERS": COMMANDS[CONTAINERS],
    }  # fmt: skip
    head = "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items())
    return head + (FILES / "recovery" / "collect.sh").read_text(encoding="utf-8")


def bundle_of(files: Sequence[tuple[str, str]]) -> Bundle | None:
    """Return the bundle that these files (path, text) are, or `None` when they are just files."""
    texts = {PurePosixPath(name.rpartition(":")[2]).name: text for name, text in files}
    manifest = texts.get(MANIFEST)
    if manifest is None:
        return None
    status = statuses_of(manifest)
    lacking = [f"{name}: the command did not end" for name, rc in status.items() if rc == HUNG]
    if not texts.get("kernel.log", "").strip() or status.get("kernel.log", 1) != 0:
        lacking.append("the kernel log")
    earlier = texts.get("kernel-previous.log", "") if status.get("kernel-previous.log") == 0 else ""
    if not earlier:
        lacking.append("the kernel log of the boot before (the journal is not kept)")
    engines = {
        f"engine {found[1]}": text
        for name, text in sorted(texts.items())
        if (found := re.fullmatch(r"engine-(\d{1,3})\.log", name))
    }
    states = (line.split(maxsplit=1) for line in texts.get("engine-states.txt", "").splitlines())
    stalled = {f"engine {words[0]}" for words in states if len(words) == 2 and words[1].startswith("stalled")}
    silent = tuple(sorted(stalled | {name for name, said in tokens_of(texts).items() if said == "silent"}))
    return Bundle(
        kernel=texts.get("kernel.log", ""),
        earlier=earlier,
        fabric=texts.get("fabricmanager.log", ""),
        engines=engines,
        silent=silent,
        smi=texts.get("smi-q.txt", ""),
        smi_status=status.get("smi-q.txt", 0),
        lacking=tuple(lacking),
    )


def tokens_of(texts: Mapping[str, str]) -> dict[str, Token]:
    """Return what each engine of a bundle did when it was asked for one token.

    Args:
        texts: name of a file -> what it holds.
    """
    found: dict[str, Token] = {}
    for name, text in sorted(texts.items()):
        engine = re.fullmatch(r"token-(\d{1,3})\.txt", name)
        if engine is not None:
            found[f"engine {engine[1]}"] = _token(dict(line.partition(" ")[::2] for line in text.splitlines()))
    return found


def _token(said: Mapping[str, str]) -> Token:
    unit = said.get("unit", "")
    if "member" in said:
        return "member"
    if unit in ("activating", "reloading"):
        return "starting"
    if unit in ("inactive", "failed", "deactivating"):
        return "down"
    if said.get("completion") == "200":
        return "token"
    before, _, after = said.get("tokens", "").partition(" ")
    if before.isdigit() and after.isdigit() and before != after:
        return "busy"
    if unit == "active" and said.get("health") == "200" and said.get("completion") == "000":
        return "silent"
    return "no answer" if unit == "active" else "unknown"


def statuses_of(manifest: str) -> dict[str, int]:
    """Return name of a file -> exit status of its command, `HUNG` when that did not end."""
    found = {}
    for line in manifest.splitlines():
        name, _, rest = line.partition("\t")
        word = rest.partition("\t")[0]
        found[name] = HUNG if word in ("hung", "124", "137") else int(word) if word.isdigit() else 1
    return found
