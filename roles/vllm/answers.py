"""What the engines answered to the probe: text in, values out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from metalserve.desired.observed import Observation

ANSWERS_SECTION: Final = "engine-answers"
"""Section of an observation that holds what the probe printed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one engine answered.

    Attributes:
        port: port of its API.
        health: HTTP status of /health; 0 when nothing came.
        models: names in /v1/models.
        completion: HTTP status of the completion; 0 when none came in time.
        text: what was completed.
        moving: the engine's token counters moved while the completion did not come: it is busy, not stuck.
        said: what it said instead of an answer, one line.
        detached: why a new program in its container cannot open a GPU, as the watch found; empty when it can.
    """

    port: int
    health: int = 0
    models: tuple[str, ...] = ()
    completion: int = 0
    text: str = ""
    moving: bool = False
    said: str = ""
    detached: str = ""

    def serves(self, model: str) -> bool:
        """Tell whether the engine serves `model` and gives tokens."""
        return self.health == 200 and model in self.models and self.completion == 200 and bool(self.text.strip())

    def busy(self, model: str) -> bool:
        """Tell whether the engine serves `model`, gave no token in time, and yet works."""
        return self.health == 200 and model in self.models and self.completion == 0 and self.moving

    def in_words(self) -> str:
        """Return what came instead of an answer, as evidence."""
        if not self.health:
            return f"no answer from /health ({self.said or 'timeout'})"
        if self.health != 200:
            return f"/health says {self.health} {self.said}".strip()
        if not self.completion:
            return f"/health is 200, but no token came in time and the counters stand still ({self.said or 'timeout'})"
        if self.completion != 200:
            return f"the completion failed with {self.completion} {self.said}".strip()
        if not self.text.strip():
            return "the completion is empty"
        return f"it serves {', '.join(self.models) or 'no model'}"


def parse_answers(text: str) -> dict[int, Answer]:
    """Read what `probe.sh --all` printed: port -> answer."""
    answers: dict[int, Answer] = {}
    port: int | None = None
    lines: dict[str, tuple[str, str]] = {}
    for line in [*text.splitlines(), "@engine end"]:
        key, _, rest = line.strip().partition(" ")
        if key == "@engine":
            if port is not None:
                answers[port] = _answer(port, lines)
            port, lines = int(rest) if rest.isdigit() else None, {}
        elif key in ("health", "models", "completion", "work", "detached"):
            first, _, body = rest.partition(" ")
            lines[key] = (first, body.strip())
    return answers


def _answer(port: int, lines: dict[str, tuple[str, str]]) -> Answer:
    health, health_said = _status(lines.get("health"))
    _, models_said = _status(lines.get("models"))
    completion, completion_said = _status(lines.get("completion"))
    before, after = lines.get("work", ("-", "-"))
    choices = _object(completion_said).get("choices")
    text = choices[0].get("text", "") if isinstance(choices, list) and choices and isinstance(choices[0], dict) else ""
    return Answer(
        port=port,
        health=health,
        models=_names(_object(models_said)),
        completion=completion,
        text=text if isinstance(text, str) else "",
        moving=before.isdigit() and after.isdigit() and int(after) > int(before),
        said=(completion_said if health == 200 else health_said)[:200],
        detached=" ".join(lines.get("detached", ("", ""))).strip()[:200],
    )


def _status(line: tuple[str, str] | None) -> tuple[int, str]:
    if line is None or not line[0].isdigit():
        return 0, ""
    return int(line[0]), line[1]


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _names(models: dict[str, Any]) -> tuple[str, ...]:
    data = models.get("data")
    return tuple(str(m.get("id")) for m in data if isinstance(m, dict)) if isinstance(data, list) else ()


def answers(observed: Observation) -> dict[int, Answer]:
    """Return what each engine answered to the observation's probe, by port."""
    return parse_answers(observed.text(ANSWERS_SECTION))
