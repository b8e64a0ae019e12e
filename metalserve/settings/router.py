"""Settings of a router: the host at whose address clients find the whole fleet."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from metalserve.addresses import EVERYWHERE, LOOPBACK
from metalserve.settings.common import AbsolutePath, Positive, Section, problem
from metalserve.settings.secret import SecretRef

if TYPE_CHECKING:
    from metalserve.settings.host import HostSettings

Path = Literal[
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/responses", "/v1/messages"
]
"""Paths that may be opened. vLLM's others run the engine without a key, or change it (/invocations, /tokenize,
/v1/load_lora_adapter ...). Source: vLLM 0.33 docs/usage/security.md."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_ADDRESS = re.compile(r"[0-9A-Za-z:.-]+")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:-]*")


def _plain(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise problem("must be letters, digits and _ . - (at most 63)")
    return value


_Name = Annotated[str, AfterValidator(_plain)]


class RouterKeySettings(Section):
    """A key that clients may send."""

    name: _Name = Field(description="who it belongs to; stands in the log in place of the key")
    key: SecretRef = Field(description="the key; only its hash is put on the router")
    requests_per_minute: Positive | None = Field(None, description="requests a minute; more get 429; None: no limit")


class RouterTlsSettings(Section):
    """Where certificate and private key come from: exactly one of the three."""

    pem: SecretRef | None = Field(None, description="PEM with private key and certificate chain, on the controller")
    path: AbsolutePath | None = Field(
        None, description="the same as a file on the router, kept there by others (an ACME client); seen at each run"
    )
    self_signed: bool = Field(False, description="make one on the router; clients cannot check it, for labs only")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.pem is not None) + (self.path is not None) + self.self_signed != 1:
            raise problem("must have exactly one of pem, path, self_signed")
        return self


class RouterBackendSettings(Section):
    """A replica that is no host of this inventory."""

    name: _Name = Field(description="name of its host, for logs and `metalserve router`")
    address: str = Field(description="address at which the router reaches it")
    port: int = Field(ge=1, le=65535, description="port of its API")
    model: str = Field(description="name under which it serves its model")
    api_key: SecretRef | None = Field(None, description="key it asks for; the same for all replicas of a model")

    @field_validator("address")
    @classmethod
    def _address(cls, value: str) -> str:
        return _address(value)

    @field_validator("model")
    @classmethod
    def _model(cls, value: str) -> str:
        if not _MODEL.fullmatch(value):
            raise problem("must be letters, digits and _ . / : -")
        return value


class RouterSettings(Section):
    """One address for the fleet: keys, limits, and which replica takes a request."""

    engine: Literal["haproxy", "vllm-router"] = Field(
        "haproxy",
        description="who chooses the replica: HAProxy, or vllm-router behind it, which knows the prompts' prefixes",
    )
    address: str = Field("0.0.0.0", description="address clients connect to")  # noqa: S104 - clients are remote
    port: int = Field(8080, ge=1, le=65535, description="port clients connect to; with TLS give 443")
    redirect_port: int | None = Field(
        None, ge=1, le=65535, description="port whose plain HTTP is sent on to the TLS port, such as 80; None: none"
    )
    tls: RouterTlsSettings | None = Field(None, description="certificate; None: plain HTTP, for a trusted network")
    keys: list[RouterKeySettings] = Field(
        default_factory=list, description="keys of clients; none: what a client sends is left for the engine to check"
    )
    hosts: list[str] | None = Field(
        None, description="serving hosts of the inventory to route to; None: every host that has a model"
    )
    backends: list[RouterBackendSettings] = Field(
        default_factory=list, description="further replicas, outside of the inventory"
    )
    names: dict[str, str] = Field(
        default_factory=dict, description="further names clients may ask for (adapters) -> the served model that has it"
    )
    paths: list[Path] = Field(
        ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"],
        min_length=1,
        description="paths that clients reach; all others are 404",
    )
    affinity: Literal["none", "session", "prefix"] = Field(
        "none",
        description="requests that meet on one replica, for its prefix cache: none (least loaded), those of one "
        "session header, or those whose bodies begin alike",
    )
    vllm_router: AbsolutePath = Field(
        "/opt/metalserve/vllm-router/bin/vllm-router",
        description="vllm-router's program on the router, installed by you, for engine 'vllm-router'",
    )
    vllm_router_policy: Literal["cache_aware", "consistent_hash", "power_of_two", "round_robin"] = Field(
        "cache_aware", description="how vllm-router chooses"
    )
    internal_port: int = Field(
        18100, ge=1024, le=60000, description="first of the loopback ports between HAProxy and vllm-router"
    )
    affinity_header: str = Field("X-Session-ID", description="header that names a session")
    requests_per_replica: Positive = Field(
        200, le=4096, description="requests a replica gets at once; keep below its --max-num-seqs, more wait here"
    )
    queue: Positive = Field(200, le=100000, description="requests of a model that may wait; more get 429")
    queue_timeout_s: Positive = Field(30, description="seconds a request may wait for a replica, then 503")
    retries: int = Field(3, ge=0, le=10, description="further tries on other replicas before an error is passed on")
    response_timeout_s: Positive = Field(600, description="seconds a replica may be silent in an answer")
    check_interval_s: Positive = Field(5, description="seconds between readiness checks; each costs one token")
    check_timeout_s: Positive = Field(10, description="seconds a readiness check waits for its token; 3 in a row count")
    move_when_down: bool = Field(
        False,
        description="give the unanswered requests of a replica that fails its checks to others at once; its streams "
        "break. For short prompts: behind many long ones a check can miss on an engine that works",
    )
    max_body_kib: int = Field(1024, ge=16, le=65536, description="KiB of a request's body; larger get 413")
    max_connections: Positive = Field(2000, le=100000, description="clients' connections at once")
    metrics_address: str = Field("127.0.0.1", description="address of the router's own /metrics; keep it private")
    metrics_port: int = Field(8405, ge=1, le=65535, description="port of the router's own /metrics")

    @field_validator("address", "metrics_address")
    @classmethod
    def _addresses(cls, value: str) -> str:
        return _address(value)

    @field_validator("affinity_header")
    @classmethod
    def _header(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,63}", value):
            raise problem("must be the name of a header: letters, digits, -")
        return value

    @field_validator("names")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        if not all(_MODEL.fullmatch(name) for pair in value.items() for name in pair):
            raise problem("must map names (letters, digits and _ . / : -) to served models")
        return value

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for what, names in (
            ("keys", [key.name for key in self.keys]),
            ("backends", [f"{b.name}:{b.port}" for b in self.backends]),
        ):
            if len(set(names)) != len(names):
                raise problem(f"{what}: two have the same name")
        return self


def _address(value: str) -> str:
    if not _ADDRESS.fullmatch(value):
        raise problem("must be an address or a host name")
    return value


def router_contradictions(settings: HostSettings) -> list[tuple[str, str]]:
    """Return, as (key, what), settings of a router that cannot be together."""
    router = settings.router
    if router is None:
        return []
    found: list[tuple[str, str]] = []
    ports = {"router.port": router.port, "router.metrics_port": router.metrics_port}
    if router.redirect_port is not None:
        ports["router.redirect_port"] = router.redirect_port
        if router.tls is None:
            found.append(("router.redirect_port", "has nothing to send clients on to: router.tls is not given"))
    for key, other in _pairs(ports):
        if ports[key] == ports[other]:
            found.append((key, f"is {ports[key]}, as {other} is"))
    if settings.model is not None:
        engine = settings.engine
        taken = range(engine.port, engine.port + (engine.replicas or settings.expect.count or 1))
        found += [(key, f"is {port}, which an engine of this host has") for key, port in ports.items() if port in taken]
    if router.engine == "vllm-router" and router.affinity != "none":
        found.append(("router.affinity", "is for router.engine 'haproxy'; vllm-router has its own"))
    return found


def _pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    listed = list(names)
    return [(later, earlier) for i, later in enumerate(listed) for earlier in listed[:i]]


def router_warnings(settings: HostSettings) -> list[str]:
    """Return what is allowed of a router but should be known, each `key: what`."""
    router = settings.router
    if router is None:
        return []
    local = router.address in LOOPBACK
    found: list[str] = []
    if not router.keys and not local:
        found.append("router.keys: none is set: the router asks for no key, only engines with engine.api_key do")
    if router.keys and router.tls is None and not local:
        found.append("router.tls: none is set, so clients' keys and prompts travel as plain text")
    if router.tls is not None and router.tls.self_signed:
        found.append("router.tls.self_signed: clients cannot tell this router from another")
    if router.metrics_address in EVERYWHERE:
        found.append("router.metrics_address: the metrics name hosts and models, and anyone may read them")
    return found


def router_secrets(settings: HostSettings) -> dict[str, SecretRef]:
    """Return the secrets that a router's settings refer to, by dotted key."""
    router = settings.router
    if router is None:
        return {}
    found = {f"router.keys.{key.name}": key.key for key in router.keys}
    found |= {f"router.backends.{b.name}:{b.port}": b.api_key for b in router.backends if b.api_key is not None}
    if router.tls is not None and router.tls.pem is not None:
        found["router.tls.pem"] = router.tls.pem
    return found


__all__ = [
    "RouterBackendSettings",
    "RouterKeySettings",
    "RouterSettings",
    "RouterTlsSettings",
    "router_contradictions",
    "router_secrets",
    "router_warnings",
]
