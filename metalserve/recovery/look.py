"""One look at a host: the bundle that it sent, judged, and what its engines, its boot and its owners say. Pure."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from metalserve.catalogue.causes import load_causes
from metalserve.catalogue.driver_reload import load_driver_reload
from metalserve.catalogue.ladder import GpuReset, load_ladder
from metalserve.catalogue.loader import load_gpus
from metalserve.errors import MetalserveError
from metalserve.hardware.parsers.text import decode, pci_address
from metalserve.recovery.bundle import HUNG, MANIFEST, Token, statuses_of, tokens_of
from metalserve.recovery.reading import evidence_of
from metalserve.recovery.values import Subject
from metalserve.recovery.verdict import Verdict, judge
from metalserve.upgrade.holders import strangers
from metalserve.upgrade.record import Record

ANSWERING: tuple[Token, ...] = ("token", "busy", "member")

WELL = "gpu-well"
"""The cause that is none: the driver says that a GPU has recovered."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one bundle says.

    Attributes:
        verdict: what ails the host.
        tokens: engine -> what it did when it was asked for a token.
        boot: identifies the boot; "" when not known.
        now: the host's clock, seconds since the epoch; 0 when not known.
        subjects: blamed parts, with serial numbers where the driver still tells them.
        serials: PCI address -> serial number, of the GPUs that answer.
        strangers: who has the GPUs open beside the engines and known services, in words.
        reset: how GPUs of this host are reset; None where lspci told of none.
        upgrading: an upgrade that is not finished, in words; "" when there is none.
        texts: the files of the bundle, by name.
    """

    verdict: Verdict
    tokens: Mapping[str, Token]
    boot: str = ""
    now: float = 0.0
    subjects: tuple[Subject, ...] = ()
    serials: Mapping[str, str] = field(default_factory=dict)
    strangers: tuple[str, ...] = ()
    reset: GpuReset | None = None
    upgrading: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def serving(self) -> bool | None:
        """Every engine gave a token; None when one could not be asked, or there is none."""
        if not self.tokens:
            return None
        if all(said in ANSWERING for said in self.tokens.values()):
            return True
        return None if all(said in (*ANSWERING, "unknown") for said in self.tokens.values()) else False

    @property
    def starting(self) -> bool:
        """Every engine answers or is on its way there."""
        return bool(self.tokens) and all(said in (*ANSWERING, "starting") for said in self.tokens.values())

    def in_words(self) -> str:
        """Return it in a line, for people."""
        counting = [c for c in self.verdict.causes if not c.explained_by and not c.past and c.id != WELL]
        parts = [f"{c.title}{f' [{c.subjects[0]}]' if c.subjects else ''}" for c in counting[:2]]
        silent = [f"{name}: {said}" for name, said in sorted(self.tokens.items()) if said not in ANSWERING]
        return "; ".join([*parts, *silent[:3]]) or "well"


def unpacked(data: bytes) -> dict[str, str]:
    """Return the files of a bundle (a tar), name -> text.

    Raises:
        MetalserveError: it is cut off or none.
    """
    texts = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    texts[PurePosixPath(member.name).name] = decode(content.read())
    except (tarfile.TarError, EOFError) as error:
        raise MetalserveError(f"the bundle is cut off or none: {error}") from error
    if "manifest.tsv" not in texts:
        raise MetalserveError("the bundle has no manifest: it was cut off on the host")
    return texts


def see(texts: Mapping[str, str], *, since: float = 0.0, known: Mapping[str, str] | None = None) -> Seen:
    """Judge a bundle.

    Args:
        texts: its files, name -> text.
        since: seconds since the epoch by the host's clock; events of logs from before do not count.
        known: PCI address -> serial number, from earlier looks: a GPU that is off the bus tells none.
    """
    evidence = evidence_of([("bundle", list(texts.items()))], since=since)
    verdict = judge(evidence, guess=False)  # what follows may be a step
    serials = serials_of(texts.get("smi-q.txt", ""))
    clock = texts.get("clock.txt", "").split("\n")
    record = texts.get("upgrade.json", "")
    return Seen(
        verdict,
        tokens_of(texts),
        boot=":".join(clock[1:3]) if len(clock) >= 3 and clock[1] else "",
        now=_number(clock[0]),
        subjects=subjects_of(verdict, {**(known or {}), **serials}),
        serials=serials,
        strangers=_strangers(texts),
        reset=reset_of(texts.get("pci.txt", "")),
        upgrading=_upgrading(record) if record.strip() else "",
        texts=dict(texts),
    )


def subjects_of(verdict: Verdict, serials: Mapping[str, str]) -> tuple[Subject, ...]:
    """Return the parts that the verdict's highest causes blame."""
    catalogue = load_causes()
    if verdict.rung == "nothing":
        return ()
    counting = [c for c in verdict.causes if not c.explained_by and not c.past and c.rung == verdict.rung]
    found = []
    for cause in counting:
        kind = catalogue.cause(cause.id).subject
        found += [Subject(kind, name, serials.get(name, "")) for name in cause.subjects]
    return tuple(dict.fromkeys(found))


def serials_of(smi: str) -> dict[str, str]:
    """Return PCI address -> serial number of the GPUs in `nvidia-smi -q`; one without a number is left out."""
    found = {}
    for part in re.split(r"^GPU (?=[0-9A-Fa-f]{8}:)", smi, flags=re.MULTILINE)[1:]:
        address = pci_address(part.split("\n", 1)[0])
        serial = re.search(r"^ +Serial Number +: (\w{1,40})$", part, re.MULTILINE)
        if address and serial:
            found[address] = serial[1]
    return found


def reset_of(pci: str) -> GpuReset | None:
    """Return how the GPUs of a host are reset; None when there are none.

    Args:
        pci: `lspci -Dn` of the host.
    """
    devices = re.findall(r"\b03(?:00|02): 10de:([0-9a-f]{4})\b", pci.lower())
    if not devices:
        return None
    specs = [load_gpus().by_pci_id(device) for device in devices]
    fabrics = {spec.fabric if spec is not None else "mixed" for spec in specs}
    return load_ladder().reset(fabrics.pop() if len(fabrics) == 1 else "mixed")


def no_driver(texts: Mapping[str, str]) -> bool:
    """Tell whether a bundle shows that the driver is not loaded.

    One file that was not there for a moment shows nothing, where another tells of the driver; neither does what was not
    read to its end.
    """
    said = texts.get("driver.txt", "")
    if not said.strip() or statuses_of(texts.get(MANIFEST, "")).get("driver.txt") == HUNG:
        return False
    module = "NVRM version" in said or re.search(r"^nvidia\s", said, re.MULTILINE)
    return not module and not re.search(r"^Driver Version\s*:", texts.get("smi-q.txt", ""), re.MULTILINE)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _strangers(texts: Mapping[str, str]) -> tuple[str, ...]:
    containers = texts.get("gpu-containers.txt", "")
    found = strangers(texts.get("gpu-holders.txt", ""), containers, load_driver_reload().units)
    # Where the container runtime does not answer, nobody can tell whose a process in a container is.
    silent = not containers.strip()
    return tuple(words for words in found if not (silent and re.match(r"container [0-9a-f]{12} ", words)))


def _upgrading(text: str) -> str:
    try:
        record = Record.read(text)
    except MetalserveError as error:
        return str(error)
    return "" if record.finished else record.words


__all__ = ["ANSWERING", "Seen", "no_driver", "see", "subjects_of", "unpacked"]
