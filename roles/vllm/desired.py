"""What `vllm` wants of a host: pure. One supervised engine a replica, started when everything under it is right."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence

from metalserve.desired.model import Desired, Directory, File, NotYetKnown, Package, Unit, Watch
from metalserve.desired.node import Node
from metalserve.paths import FILES
from metalserve.releases import Release
from metalserve.secrets import resolve
from metalserve.settings import EngineSettings, HostSettings, ModelSettings
from metalserve.verify.finding import Finding
from metalserve.weights.store import place_of
from roles.vllm import group, image, loading, records
from roles.vllm.actions import begin, old_caches, removals, revive
from roles.vllm.answers import ANSWERS_SECTION, Answer, answers
from roles.vllm.engine import address, engine_unit
from roles.vllm.findings import about, over_pcie
from roles.vllm.launch import CONFIG_SECTION, planned, refuse_wrong_arguments
from roles.vllm.paths import (
    AUTHORISATION,
    BEACON_SERVICE_PATH,
    BEACON_SOCKET,
    BEACON_SOCKET_PATH,
    CACHE,
    ENVIRONMENT,
    GATE,
    IMAGE_MARKER,
    PROBE,
    QUADLET_GLOB,
    REFUSED,
    SCRIPTS,
    UNIT_GLOB,
    unit_name,
    unit_path,
)
from roles.vllm.replacing import GROUP_UNIT, UNITS_COMMAND, UNITS_SECTION, Replacement
from roles.vllm.watching import nothing_watched, watching
from roles.vllm.written import unit_text
from roles.weights import references
from roles.weights.desired import published_at

REFUSED_SECTION = "engine-refused"


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at for this role."""
    model, engine = settings.model, settings.engine
    base = Watch(
        paths=(
            *SCRIPTS, UNIT_GLOB, QUADLET_GLOB, ENVIRONMENT, AUTHORISATION, BEACON_SOCKET_PATH, BEACON_SERVICE_PATH,
        ),
        units=("metalserve-vllm-*.service", BEACON_SOCKET),
        commands={UNITS_SECTION: UNITS_COMMAND},
    )  # fmt: skip
    if model is None:
        return base
    place = place_of(settings.storage.mount, model)
    addresses = {group.ADDRESSES_SECTION: "ip -o addr show"} if engine.group is not None else {}
    return base | Watch(
        paths=(IMAGE_MARKER, place.marker, f"{CACHE}/*", f"{CACHE}/*/*", group.INFINIBAND),
        units=(unit_name(0), GROUP_UNIT),
        commands={
            image.SECTION: image.inspect_command(settings, release),
            CONFIG_SECTION: f"cat {shlex.quote(f'{place.published}/config.json')}",
            # The probe's text travels with the observation: a host whose copy is missing or old answers all the same.
            ANSWERS_SECTION: _exports(engine, model) + f"set -- --all {engine.port}\n" + _file("probe.sh"),
            records.SECTION: records.COMMAND,
            **loading.watch_commands(settings, release),
            REFUSED_SECTION: f"cat {REFUSED} 2>/dev/null || :",
            **addresses,
        },
    )


def _file(name: str) -> str:
    return (FILES / "vllm" / name).read_text()


def _exports(engine: EngineSettings, model: ModelSettings) -> str:
    values = {
        "MS_ADDRESS": address(engine),
        "MS_MODEL": model.served_as,
        "MS_AUTH": AUTHORISATION,
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def prepare(node: Node) -> Desired:
    """Everything that stands before an engine starts, in one go: what each of it needs is known beforehand.

    Raises:
        MetalserveError: wrong arguments, a key that cannot be read, or a host that is not in its own group.
    """
    return install(node) + configure(node) + (watched(node) if node.observed.live else Desired())


def install(node: Node) -> Desired:
    """The image, and the scripts that guard the engines; Podman where it is to run them.

    Raises:
        MetalserveError: `engine.extra_args` has what this vLLM does not start with.
    """
    if node.settings.model is None:
        return Desired()
    refuse_wrong_arguments(node)
    wish = Desired(files=tuple(File(path, _file(name), mode=mode) for path, (name, mode) in SCRIPTS.items()))
    if node.settings.engine.runtime == "podman":
        wish += Desired(packages=(Package("podman"),))
    return wish + (image.install(node) if node.observed.live else Desired())


def configure(node: Node) -> Desired:
    """The containers' environment and the probes' header; both hold the API key and are root's alone.

    Raises:
        MetalserveError: the API key cannot be read on the controller.
    """
    if node.settings.model is None:
        return Desired(files=(File(ENVIRONMENT, None), File(AUTHORISATION, None)))
    lines = [
        "HF_HUB_OFFLINE=1",  # the model is here: a node boots and serves without the internet
        "VLLM_NO_USAGE_STATS=1",
        "DO_NOT_TRACK=1",
    ]
    header: str | None = None
    if node.settings.engine.api_key is not None:
        key = resolve(node.settings.engine.api_key).reveal()
        lines.append(f"VLLM_API_KEY={key}")
        header = f"Authorization: Bearer {key}\n"
    return Desired(
        files=(
            File(ENVIRONMENT, "\n".join(lines) + "\n", mode="0600", secret=True),
            File(AUTHORISATION, header, mode="0600", secret=True),
        ),
    )


def watched(node: Node) -> Desired:
    """The watch over the engines, and for a group the beacon: both before an engine starts, which asks for it.

    Raises:
        MetalserveError: the host is not in its own group.
    """
    model = node.settings.model
    return watching(node, model) if model is not None else Desired(actions=nothing_watched(node))


def serve(node: Node) -> Desired:
    """The units of the planned replicas, running and answering; units of replicas that are not planned go.

    Raises:
        NotYetKnown: driver, Docker or model are not there yet.
        MetalserveError: the model cannot be served on this host.
    """
    model, engine = node.settings.model, node.settings.engine
    if model is None:
        return Desired(actions=removals(node, keep=0, phase="early"))
    image.refuse_old_podman(node)
    loading.refuse_lacking_loader(node)
    plan = planned(node, model)
    units = [engine_unit(node, model, plan, replica) for replica in range(plan.replicas)]
    texts = {unit.replica: unit_text(unit) for unit in units}
    replacement = Replacement(node.observed, units, texts, published_at(node.observed))
    in_step = engine.group is not None
    # What is replaced is not begun: its GPUs are held until the script that replaces it has ended the old ones.
    fresh = [] if replacement.clash else units
    return Desired(
        directories=tuple(Directory(f"{CACHE}/{unit.cache}") for unit in units),
        files=tuple(File(unit_path(unit.replica, unit.runtime), texts[unit.replica]) for unit in units),
        # The parts of a group come up together or not at all, so a run must not wait for one of them here.
        units=tuple(Unit(unit_name(unit.replica), running=None if in_step else True) for unit in units),
        actions=(
            *references.wanted(
                node.observed,
                node.settings.storage.mount,
                references.engine_reference(model),
                model,
                node.release.name,
                phase="early",
            ),
            *begin(node.observed, fresh, texts),
            *replacement.actions(group=in_step),
            *removals(node, keep=plan.replicas, runtime=engine.runtime, phase="early" if in_step else "late"),
            *(() if in_step else revive(node, units)),
            *old_caches(node, units),
        ),
        notes=plan.reasons,
    )


def release(node: Node) -> Desired:
    """No reference to what is not served any more; asked when what is served has answered."""
    model = node.settings.model
    kept = references.engine_reference(model) if model is not None else ""
    old = references.engines_but(node.observed, kept)
    return Desired(actions=references.gone(node.observed, node.settings.storage.mount, old))


def preflight(node: Node) -> Sequence[Finding]:
    """Tell what is known to make engines hang before one is started; nothing while the plan is not known."""
    if node.settings.model is None:
        return ()
    try:
        return over_pcie(node.hardware, planned(node, node.settings.model))
    except NotYetKnown:
        return ()


def ready_within_s(node: Node) -> float:
    """Return how long the proof may wait for the answer, seconds: a group begins to start only in this run."""
    engine = node.settings.engine
    return 60.0 if engine.group is None else float(engine.start_timeout_s)


def check(node: Node) -> Sequence[Finding]:
    """Prove that each planned engine serves the model and completes a prompt."""
    model = node.settings.model
    if model is None:
        return ()
    plan = planned(node, model)
    told = answers(node.observed)
    found = [about(model, told.get(port, Answer(port)), replica) for replica, port in enumerate(plan.ports)]
    found += loading.findings(node, plan)
    if node.settings.engine.group is not None:
        found.append(_as_wanted(node, unit_text(engine_unit(node, model, plan, 0))))
    return found


def _as_wanted(node: Node, text: str) -> Finding:
    """Tell whether what answers is what was wanted: a part of a group is replaced after the run went on."""
    found = node.observed.files.get(unit_path(0, node.settings.engine.runtime))
    replacing = node.observed.units.get(GROUP_UNIT)
    under_way = replacing is not None and replacing.active in ("active", "activating")
    right = found is not None and found.sha256 == hashlib.sha256(text.encode()).hexdigest() and not under_way
    refused = node.observed.text(REFUSED_SECTION).strip()
    return Finding(
        check="as-wanted",
        status="ok" if right else "fail",
        subject="this host's part of the group",
        expected="it runs as the settings say",
        observed="it does" if right else "it is being replaced" if under_way else refused or "its unit is another one",
        impact="" if right else "what answers is what was there before",
        remedy="" if right else f"journalctl -u {GROUP_UNIT} -u {unit_name(0)} -n 100, on all hosts of the group",
        source=unit_path(0, node.settings.engine.runtime),
    )


def in_words(node: Node) -> str:
    """Return the proved line of the report: what each engine answered."""
    model = node.settings.model
    if model is None:
        return "no model"
    said: dict[str, list[int]] = {}
    for port, answer in sorted(answers(node.observed).items()):
        said.setdefault(answer.text.strip(), []).append(port)
    return "; ".join(f"{model.served_as} on {_ports(ports)} -> {text!r}" for text, ports in said.items())


def _ports(ports: Sequence[int]) -> str:
    joined = len(ports) > 1 and ports[-1] - ports[0] == len(ports) - 1
    return f":{ports[0]} to :{ports[-1]}" if joined else ", ".join(f":{port}" for port in ports)


__all__ = ["GATE", "PROBE", "address", "answers", "check", "configure", "in_words", "install", "serve", "watch"]
