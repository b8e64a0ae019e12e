"""What an SBOM is about, and the identities that follow from it. Pure."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from metalserve.templates.engine_image import EngineImage

NAMESPACE: Final = uuid.UUID("6b1f6c0e-0d55-5d0b-9a52-5f1b0a2a6e11")
"""Namespace of the serial numbers: the same inputs get the same one."""


@dataclass(frozen=True)
class Subject:
    """What an SBOM is about.

    Attributes:
        name: of the template.
        inputs: digest of the build's inputs; the documents' identities follow from it.
        distribution: debian, ubuntu or rocky.
        release: of the distribution.
        epoch: seconds since 1970 that the documents bear as their time.
        image: the engine's image that it carries, or None.
    """

    name: str
    inputs: str
    distribution: str
    release: str
    epoch: int
    image: EngineImage | None = None

    @property
    def serial(self) -> str:
        """UUID of the document."""
        return str(uuid.uuid5(NAMESPACE, f"{self.name} {self.inputs}"))

    @property
    def namespace(self) -> str:
        """URI of the SPDX document; it is a name, nothing is served there."""
        return f"urn:uuid:{self.serial}"

    @property
    def time(self) -> str:
        """The time in ISO 8601."""
        return datetime.fromtimestamp(self.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00")
