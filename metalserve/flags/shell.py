"""The shell's words in a pasted text, each with its spelling, so that what is not corrected stays as it was written."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from metalserve.errors import MetalserveError

# What word processors and chat programs make of quotes and dashes.
_TYPOGRAPHY = str.maketrans({"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "\u00a0": " "})
_LONG_DASH = re.compile(r"(?<=\s)[–—](?=[A-Za-z])")
_PROMPT = re.compile(r"^\s*[$%]\s+", re.MULTILINE)


@dataclass(frozen=True)
class Word:
    """One word: how it is spelled, quotes included, and what a program gets."""

    raw: str
    value: str


@dataclass(frozen=True)
class Statement:
    """One command of a text: its words, what stands behind them (redirections), and what ends it."""

    words: tuple[Word, ...]
    rest: str
    end: str


def word(value: str) -> Word:
    """Return a word that the shell reads as `value`; an assignment stays one, its name unquoted."""
    name, equals, rest = value.partition("=")
    if equals and re.fullmatch(r"[A-Za-z_]\w*", name):
        return Word(f"{name}={shlex.quote(rest) if rest else ''}", value)
    return Word(shlex.quote(value), value)


def statements(text: str) -> list[Statement]:
    """Return the commands of a shell text, in order.

    Raises:
        MetalserveError: a quote is not closed; the message holds nothing of the text.
    """
    text = _LONG_DASH.sub("--", _PROMPT.sub("", text.translate(_TYPOGRAPHY).replace("\r\n", "\n")))
    text = re.sub(r"\\[ \t]*\n", " ", text)
    found: list[Statement] = []
    words: list[Word] = []
    place = 0

    def close(rest: str, end: str) -> None:
        nonlocal words
        if words:
            found.append(Statement(tuple(words), rest, end))
        words = []

    while place < len(text):
        char = text[place]
        if char == "#":
            place = _line_end(text, place)
        elif char == "\n":
            close("", "\n")
            place += 1
        elif char.isspace():
            place += 1
        elif operator := re.match(r"&&|\|\||[;&|]", text[place:]):
            close("", operator.group())
            place += len(operator.group())
        elif re.match(r"\d?[<>]", text[place:]):
            end = _line_end(text, place)
            close(text[place:end].rstrip(), "\n" if end < len(text) else "")
            place = end
        else:
            start = place
            value, place = _word(text, place)
            words.append(Word(text[start:place], value))
    close("", "")
    return found


def _line_end(text: str, place: int) -> int:
    end = text.find("\n", place)
    return len(text) if end < 0 else end


def _word(text: str, place: int) -> tuple[str, int]:
    """Return the value of the word that begins at `place`, and the place after it."""
    value = ""
    while place < len(text):
        char = text[place]
        if char.isspace() or char in ";&|<>":
            break
        if char == "\\":
            value += text[place + 1 : place + 2]
            place += 2
        elif char == "'":
            end = _closing(text, place, "'")
            value += text[place + 1 : end]
            place = end + 1
        elif char == '"':
            end = _closing(text, place, '"')
            value += re.sub(r'\\([\\"$`])', r"\1", text[place + 1 : end])
            place = end + 1
        elif text.startswith("$(", place):
            end = text.find(")", place)
            if end < 0:
                raise _unclosed("$(")
            value += text[place : end + 1]
            place = end + 1
        else:
            value += char
            place += 1
    return value, place


def _closing(text: str, place: int, quote: str) -> int:
    end = place + 1
    while end < len(text) and text[end] != quote:
        end += 2 if text[end] == "\\" and quote == '"' else 1
    if end >= len(text):
        raise _unclosed(quote)
    return end


def _unclosed(what: str) -> MetalserveError:
    return MetalserveError(f"{what} is not closed", where="the command", remedy="paste the whole command")
