"""Settings that are each right and together wrong, and settings that are allowed but should be known."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from metalserve.addresses import LOOPBACK
from metalserve.settings.gpus import gpu_contradictions
from metalserve.settings.monitoring import monitoring_contradictions, monitoring_warnings
from metalserve.settings.router import router_contradictions, router_warnings
from metalserve.settings.staging import staging_contradictions

if TYPE_CHECKING:
    from metalserve.settings.host import HostSettings

Problem = tuple[str, str]
"""A dotted key and what is wrong with it."""

OWNED_FLAGS = {
    "--api-key": "engine.api_key",
    "--served-model-name": "model.served_name",
    "--host": "engine.host",
    "--port": "engine.port",
    "--tensor-parallel-size": "engine.tensor_parallel",
    "-tp": "engine.tensor_parallel",
    "--pipeline-parallel-size": "engine.pipeline_parallel",
    "-pp": "engine.pipeline_parallel",
    "--max-model-len": "engine.max_model_len",
    "--gpu-memory-utilization": "engine.gpu_memory_utilization",
    "--hf-token": "model.hf_token",
    "--model": "model.name",
    "--revision": "model.revision",
}
"""vLLM flags that have a setting of their own: given twice they would contradict, and keys would stand in argv."""


def contradictions(settings: HostSettings) -> list[Problem]:
    """Return every contradiction between the settings of a host, as (key, what)."""
    return [
        *_expectations(settings),
        *gpu_contradictions(settings),
        *_layout(settings),
        *_engine(settings),
        *router_contradictions(settings),
        *staging_contradictions(settings),
        *monitoring_contradictions(settings),
    ]


def _expectations(settings: HostSettings) -> list[Problem]:
    found: list[Problem] = []
    expect = settings.expect
    joined = expect.links in ("nvswitch", "bridge", "direct")
    if joined and expect.count is not None and expect.count < 2:
        found.append(("expect.links", f"'{expect.links}' joins GPUs, but expect.count is {expect.count}"))
    if joined and expect.nvlinks_per_gpu == 0:
        found.append(("expect.nvlinks_per_gpu", f"0 links contradict expect.links '{expect.links}'"))
    if expect.links == "pcie" and expect.nvlinks_per_gpu:
        found.append(("expect.nvlinks_per_gpu", f"{expect.nvlinks_per_gpu} NVLinks contradict expect.links 'pcie'"))
    if expect.count == 0 and expect.gpu is not None:
        found.append(("expect.count", "0 GPUs contradict expect.gpu"))
    if expect.count == 0 and settings.model is not None:
        found.append(("model", "cannot be served on a host with expect.count 0"))
    if expect.nvme_count == 0 and settings.storage.device != "none":
        found.append(("storage.device", f"{settings.storage.device!r} needs a drive, but expect.nvme_count is 0"))
    return found


def _layout(settings: HostSettings) -> list[Problem]:
    engine, count = settings.engine, settings.expect.count
    given = {
        "engine.tensor_parallel": engine.tensor_parallel,
        "engine.pipeline_parallel": engine.pipeline_parallel,
        "engine.replicas": engine.replicas,
    }
    sizes = {key: value for key, value in given.items() if value is not None}
    needed = 1
    for value in sizes.values():
        needed *= value
    hosts = len(engine.group.hosts) if engine.group is not None else 1
    if sizes and count is not None and needed > count * hosts:
        product = " x ".join(f"{key.removeprefix('engine.')} {value}" for key, value in sizes.items())
        there = f"expect.count is {count}" + (f" on each of {hosts} hosts" if hosts > 1 else "")
        return [(next(iter(sizes)), f"{product} needs {needed} GPUs, but {there}")]
    return []


def _engine(settings: HostSettings) -> list[Problem]:
    found: list[Problem] = []
    engine = settings.engine
    last_port = engine.port + (engine.replicas or 1) - 1
    if last_port > 65535:
        found.append(("engine.port", f"{engine.replicas} replicas from {engine.port} on end past port 65535"))
    if engine.image_archive_sha256 is not None and engine.image_archive is None:
        found.append(("engine.image_archive_sha256", "is given without engine.image_archive"))
    for argument in engine.extra_args:
        flag = argument.split("=", 1)[0].replace("_", "-")
        if flag in OWNED_FLAGS:
            found.append(("engine.extra_args", f"{flag} has a setting of its own: use {OWNED_FLAGS[flag]}"))
        if flag == "--load-format" and engine.load_format != "auto":
            found.append(
                ("engine.load_format", f"'{engine.load_format}' contradicts --load-format in engine.extra_args")
            )
    found += _group(settings)
    if settings.storage.mount == settings.container.data_root:
        found.append(("storage.mount", "is container.data_root too: models and images need directories of their own"))
    return found


def _group(settings: HostSettings) -> list[Problem]:
    engine, group = settings.engine, settings.engine.group
    if group is None:
        return []
    found: list[Problem] = []
    if engine.replicas is not None and engine.replicas > 1:
        found.append(("engine.replicas", f"{engine.replicas}, but the hosts of a group run one engine together"))
    if engine.host in LOOPBACK:
        found.append(("engine.host", f"{engine.host}: the other hosts of the group ask the head whether it serves"))
    if engine.port in (group.master_port, group.state_port):
        found.append(
            (
                "engine.group.master_port",
                f"{group.master_port} and the next are the group's own: engine.port is another",
            )
        )
    return found


def open_to_all(host: str) -> bool:
    """Tell whether an address to listen on can be reached from anywhere: every address, or a public one."""
    try:
        address = ip_address(host)
    except ValueError:
        return False  # a name: nothing is known of it
    return address.is_unspecified or address.is_global


def warnings(settings: HostSettings) -> list[str]:
    """Return what is allowed but should be known, each `key: what`."""
    found: list[str] = []
    engine, model = settings.engine, settings.model
    if model is not None and engine.api_key is None and engine.host not in LOOPBACK:
        found.append(
            f"engine.api_key: none is set and the API listens on {engine.host}: anyone who reaches it may use it"
        )
    if model is not None and engine.api_key is not None and open_to_all(engine.host):
        # vLLM 0.33 docs/usage/security.md; /invocations is full inference (measured on 0.32 with a key set).
        found.append(
            f"engine.host: the API listens on {engine.host}, and vLLM asks for the key below /v1 only: /invocations, "
            "/metrics and /load answer without it; give the host's private address and put roles.router before it"
        )
    if engine.image_archive is not None and engine.image_archive_sha256 is None:
        found.append("engine.image_archive_sha256: none is set, so the image is taken as it comes")
    signed = settings.staging.kind == "s3"  # the keys sign and stay here
    if model is not None and model.source.startswith("http://") and model.hf_token is not None and not signed:
        found.append("model.hf_token: would be sent over plain http to model.source")
    if settings.driver.reboot == "never":
        found.append("driver.reboot: 'never' stops the run on hosts whose driver needs a reboot (nouveau loaded)")
    return [*found, *router_warnings(settings), *monitoring_warnings(settings)]
