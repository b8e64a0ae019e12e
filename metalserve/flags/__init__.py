"""A pasted vLLM command: what is wrong with it for a release, and the same command put right. Pure."""

from __future__ import annotations

from metalserve.flags.check import Checked, check_command, version_for
from metalserve.flags.command import Command, read_words
from metalserve.flags.compose import read_pasted
from metalserve.flags.differences import Difference, differences
from metalserve.flags.environment_rules import ENV_FILE

__all__ = [
    "ENV_FILE",
    "Checked",
    "Command",
    "Difference",
    "check_command",
    "differences",
    "read_pasted",
    "read_words",
    "version_for",
]
