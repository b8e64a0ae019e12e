"""What the models on a fleet's hosts are: asked of each host's agent, read, and put together. Pure.

A host is asked in one session, by a script that prints sections (`@@NAME`) of one JSON line each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from metalserve.settings import HostSettings
from metalserve.weights.host import CONFIGS, PACKAGE, call, key_of
from metalserve.weights.observed import Reference, read_references, references_command
from metalserve.weights.progress import Progress, read_progress
from metalserve.weights.watching import as_dict

_NO_AGENT = "@@no-agent"


@dataclass(frozen=True, slots=True)
class Model:
    """One model that a host was told of.

    Attributes:
        key: its job on the host.
        repository: ORGANISATION/NAME.
        revision: commit.
        state: absent, partial, published, changed or damaged; unknown when the agent did not say.
        what: why, for changed, damaged and unknown.
        bytes_total: of the model.
        bytes_there: of what lies there.
        hashed_at: when it was published, seconds since 1970 by the host's clock; 0: not known.
        checked_at: when every byte was last read and hashed again, likewise.
        check_found: what that check found: intact, changed, damaged; "" when there was none.
        references: who needs it.
        running: which units work on it now: stage, repair, check.
        progress: how far the newest staging or repair is.
        check_progress: how far the newest full check is.
    """

    key: str
    repository: str = ""
    revision: str = ""
    state: str = "unknown"
    what: str = ""
    bytes_total: int = 0
    bytes_there: int = 0
    hashed_at: float = 0.0
    checked_at: float = 0.0
    check_found: str = ""
    references: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    progress: Progress | None = None
    check_progress: Progress | None = None

    @property
    def right(self) -> bool:
        """Whether it may be served."""
        return self.state == "published"

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready values: bytes, seconds since 1970."""
        return {
            "job": self.key,
            "repository": self.repository,
            "revision": self.revision,
            "state": self.state,
            "what": self.what,
            "bytes_total": self.bytes_total,
            "bytes_there": self.bytes_there,
            "hashed_at": round(self.hashed_at) or None,
            "checked_at": round(self.checked_at) or None,
            "check_found": self.check_found or None,
            "references": list(self.references),
            "running": list(self.running),
            "progress": as_dict(self.progress) if self.progress is not None else None,
            "check_progress": as_dict(self.check_progress) if self.check_progress is not None else None,
        }


@dataclass(frozen=True, slots=True)
class HostStatus:
    """The models of one host.

    Attributes:
        host: its name.
        wanted: key of the model that the inventory names for it, "" for none.
        models: those that it was told of, that one first.
        references: all references on it.
        now: its clock, seconds since 1970.
        error: why nothing is known of it.
    """

    host: str
    wanted: str = ""
    models: tuple[Model, ...] = ()
    references: tuple[Reference, ...] = ()
    now: float = 0.0
    error: str = ""

    @property
    def right(self) -> bool:
        """Whether what the inventory names is published, and nothing else on it is wrong."""
        there = any(model.key == self.wanted and model.right for model in self.models)
        wrong = any(model.state in ("changed", "damaged", "unknown") for model in self.models)
        return not self.error and not wrong and (there or not self.wanted)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "host": self.host,
            "wanted": self.wanted or None,
            "models": [model.as_dict() for model in self.models],
            "references": [
                {"name": r.name, "repository": r.repository, "revision": r.revision, "since": round(r.since)}
                for r in self.references
            ],
            "now": round(self.now),
            "error": self.error or None,
        }


def status_script(settings: HostSettings) -> str:
    """Return the shell that tells everything `read_status` reads; no byte of a model is read."""
    return f"""
LC_ALL=C; export LC_ALL
printf '@@now %s\\n' "$(date +%s)"
if [ ! -e {PACKAGE}/__main__.py ]; then echo {_NO_AGENT}; exit 0; fi
{references_command(settings.storage.mount)} | sed 's/^/@@reference /'
for ms_config in {CONFIGS}/*.json; do
  [ -e "$ms_config" ] || continue
  ms_key=${{ms_config##*/}}; ms_key=${{ms_key%.json}}
  printf '@@job %s\\n' "$ms_key"
  ms_said=$({call("status")} "$ms_config" --json 2>&1)
  printf '@@status %s\\n' "$(printf '%s' "$ms_said" | tail -n 1)"
  ms_store=$(printf '%s' "$ms_said" | sed -n 's/.*"published": "\\([^"]*\\)".*/\\1/p')
  printf '@@hashed %s\\n' "$(stat -c %Y "$ms_store/.metalserve-manifest" 2>/dev/null)"
  for ms_verb in metalserve-weights metalserve-weights-repair metalserve-weights-check; do
    case $(systemctl is-active "$ms_verb@$ms_key.service" 2>/dev/null) in
      active|activating|deactivating) printf '@@runs %s\\n' "$ms_verb" ;;
    esac
  done
done
echo @@end
"""


def read_status(host: str, settings: HostSettings, lines: Sequence[str]) -> HostStatus:
    """Read what `status_script` printed on a host."""
    wanted = key_of(settings.model) if settings.model is not None else ""
    if _NO_AGENT in lines:
        return HostStatus(host, wanted, error="no agent is on it yet; run deploys/weights.py" if wanted else "")
    if "@@end" not in lines:
        return HostStatus(host, wanted, error=f"its answer broke off: {' '.join(lines)[-200:]}")
    jobs: list[dict[str, Any]] = []
    now, references = 0.0, []
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "@@now":
            now = _number(rest)
        elif word == "@@reference":
            references.append(rest)
        elif word == "@@job":
            jobs.append({"key": rest, "runs": []})
        elif word in ("@@status", "@@hashed") and jobs:
            jobs[-1][word[2:]] = rest
        elif word == "@@runs" and jobs:
            jobs[-1]["runs"].append(rest.removeprefix("metalserve-weights").removeprefix("-") or "stage")
    models = [_model(job) for job in jobs]
    models.sort(key=lambda model: (model.key != wanted, model.key))
    return HostStatus(host, wanted, tuple(models), read_references("\n".join(references)), now)


def _model(job: dict[str, Any]) -> Model:
    said = job.get("status", "")
    try:
        data = json.loads(said)
        if not isinstance(data, dict):
            raise ValueError
    except ValueError:
        return Model(job["key"], what=said or "the agent says nothing", running=tuple(job["runs"]))
    last = data.get("last_full_check")
    last = last if isinstance(last, dict) else {}
    return Model(
        key=job["key"],
        repository=str(data.get("repository") or ""),
        revision=str(data.get("revision") or ""),
        state=str(data.get("state") or "unknown"),
        what=str(data.get("what") or ""),
        bytes_total=int(data.get("bytes_total") or 0),
        bytes_there=int(data.get("bytes_there") or 0),
        hashed_at=_number(job.get("hashed", "")),
        checked_at=float(last.get("at") or 0),
        check_found=str(last.get("state") or ""),
        references=tuple(map(str, data.get("references") or ())),
        running=tuple(job["runs"]),
        progress=read_progress(json.dumps(data.get("progress"))),
        check_progress=read_progress(json.dumps(data.get("check_progress"))),
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a host's agent answered to one command.

    Attributes:
        host: its name.
        data: its JSON, empty when there is none.
        failed: what is wrong, with what to do; "" when all is well.
    """

    host: str
    data: dict[str, Any] = field(default_factory=dict)
    failed: str = ""


def command_script(words: Sequence[str]) -> str:
    """Return the shell that runs one command of the agent and tells its answer and exit status."""
    return (
        f"if [ ! -e {PACKAGE}/__main__.py ]; then echo {_NO_AGENT}; exit 0; fi\n"
        f"ms_rc=0; {call(*words)} --json 2>&1 || ms_rc=$?\nprintf '@@rc %s\\n' \"$ms_rc\"\n"
    )


def read_answer(host: str, lines: Sequence[str]) -> Answer:
    """Read what `command_script` printed on a host."""
    if _NO_AGENT in lines:
        return Answer(host, failed="no agent is on it yet -> run deploys/weights.py")
    rc = next((line[5:] for line in lines if line.startswith("@@rc ")), "")
    data: dict[str, Any] = {}
    said = [line for line in lines if line.strip() and not line.startswith("@@")]
    for line in said:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            data = found
    if rc == "0" and data:
        return Answer(host, data)
    words = [line for line in said if not line.startswith("{")]
    return Answer(host, data, failed=words[-1] if words else f"the agent ended with status {rc or 'unknown'}")
