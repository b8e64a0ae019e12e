"""What the agent is told: one JSON file a model, written by the weights role, read here and nowhere else."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


class ConfigError(Exception):
    """The configuration cannot be read, or is of another version of metalserve."""


@dataclass(frozen=True)
class WantedFile:
    """One file of the model.

    Attributes:
        path: inside the model's directory, `/` between.
        size: bytes.
        sha256: of the content, 64 hexadecimal digits.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class SourceConfig:
    """Where the files come from.

    Attributes:
        kind: `hub` (BASE is URL/NAME/resolve/REVISION), `http` (BASE/PATH), `s3` (BASE is ENDPOINT/BUCKET/PREFIX),
            `oci` (BASE is https://REGISTRY/v2/NAME; blobs by digest) or `directory` (BASE is an absolute path).
        base: see kind; no slash at its end, no credentials.
        region: of S3, for signing.
    """

    kind: str
    base: str
    region: str = ""


@dataclass(frozen=True)
class SwarmConfig:
    """How this host shares the model with the others of the fleet.

    Attributes:
        torrent: path of the torrent on this host (base64 text), or empty when there is none yet.
        listen: address and port of this host in the private network, `10.0.0.1:6881`.
        peers: the same of the others.
        credentials: directory with `ca.pem`, `cert.pem`, `key.pem`, or empty.
        upload_bytes_s: limit, 0 for none.
        download_bytes_s: limit, 0 for none.
        stall_s: seconds without a byte from anybody after which the rest is fetched directly.
    """

    torrent: str
    listen: str
    peers: tuple[str, ...] = ()
    credentials: str = ""
    upload_bytes_s: int = 0
    download_bytes_s: int = 0
    stall_s: int = 60


@dataclass(frozen=True)
class Job:
    """One model to have on this host.

    Attributes:
        key: names the job on this host: ORGANISATION--NAME-REVISION12.
        repository: ORGANISATION/NAME.
        revision: commit, 40 hexadecimal digits.
        store: directory of the model, MOUNT/ORGANISATION--NAME; the published one is STORE/REVISION.
        files: all files of the manifest.
        source: where they come from.
        authorisation: file with a secret for the source, or empty; it lives in memory for one staging.
        reserve_bytes: bytes that must stay free on the file system.
        jobs: files fetched at a time.
        rate_bytes_s: limit of the direct download, 0 for none.
        swarm: None fetches directly only.
    """

    key: str
    repository: str
    revision: str
    store: str
    files: tuple[WantedFile, ...]
    source: SourceConfig
    authorisation: str = ""
    reserve_bytes: int = 0
    jobs: int = 4
    rate_bytes_s: int = 0
    swarm: SwarmConfig | None = field(default=None)

    @property
    def total(self) -> int:
        """Bytes of all files together."""
        return sum(each.size for each in self.files)

    def to_json(self) -> str:
        """Return the text of the configuration file: one file of the model a line, so that a difference reads well."""
        data = asdict(self)
        files: list[dict[str, Any]] = data.pop("files")
        head = json.dumps({"format": FORMAT, **data}, indent=1, sort_keys=True)
        rows = ",\n".join("  " + json.dumps([each["sha256"], each["size"], each["path"]]) for each in files)
        return head[:-2] + ',\n "files": [\n' + rows + "\n ]\n}\n"


def read_job(path: str) -> Job:
    """Read a configuration file.

    Raises:
        ConfigError: it cannot be read, or is not what this version writes.
    """
    try:
        data: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error} -> run the weights role again") from error
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise ConfigError(f"{path}: is of another version of metalserve -> run the weights role again")
    try:
        files = tuple(WantedFile(path=each[2], size=each[1], sha256=each[0]) for each in data.pop("files"))
        source = SourceConfig(**data.pop("source"))
        swarm = data.pop("swarm", None)
        if swarm is not None:
            swarm = SwarmConfig(**{**swarm, "peers": tuple(swarm.get("peers", ()))})
        return Job(files=files, source=source, swarm=swarm, **data)
    except (TypeError, KeyError, IndexError) as error:
        raise ConfigError(f"{path}: {error} -> run the weights role again") from error
