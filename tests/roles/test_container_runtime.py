"""Role container_runtime: Docker, toolkit, a merged daemon.json and CDI devices."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.desired.diff import difference
from metalserve.desired.model import Action, Desired, File, NotYetKnown
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.hardware.node import Gpu
from metalserve.hardware.section import Section
from metalserve.settings import ContainerSettings
from metalserve.verify.finding import worst
from roles.container_runtime import desired as role
from roles.container_runtime.daemon import DAEMON_JSON, merge, parse, wanted
from roles.container_runtime.taking import RELOADED
from tests.roles.helpers import BOOTED, a_file, after, changes, make_node, unit, with_hardware

TOOLKIT = dict.fromkeys(role.TOOLKIT_PACKAGES, "1.20.0-1")
OLD_DOCKER = {"docker.io": "20.10.24+dfsg1-1+deb12u1", **TOOLKIT}
NEW_DOCKER = {"docker.io": "26.1.5+dfsg1-9", "docker-cli": "26.1.5+dfsg1-9", **TOOLKIT}
SPEC = 'name: "0"\nname: "1"\nlibcuda.so.580.178.04\n'


def host(packages: dict[str, str], daemon: str | None = None, **more: Any) -> Node:
    """A host with Docker and toolkit, perhaps with a daemon.json."""
    sections = more.pop("sections", {})
    if daemon is not None:
        more["files"] = {**more.get("files", {}), DAEMON_JSON: daemon}
        sections = {"docker-daemon-json": daemon + "\n", **sections}
    return make_node(packages=packages, sections=sections, gpus=("26b9",) * 2, **more)


def daemon_of(wish: Desired) -> dict[str, Any]:
    """The daemon.json that a stage writes."""
    content = next(f.content for f in wish.files if f.path == DAEMON_JSON)
    assert content is not None
    found: dict[str, Any] = json.loads(content)
    return found


def test_a_bare_host_gets_the_distributions_docker_and_one_version_of_the_toolkit() -> None:
    node = make_node()
    assert changes(role.repositories(node), node) == []
    told = changes(role.install(node), node)
    assert told[0] == "package docker.io: absent -> installed"
    assert told[1:] == [f"package {name}: absent -> 1.20.0-1" for name in role.TOOLKIT_PACKAGES]
    trixie = make_node(os_id="debian-13")
    assert "package docker-cli: absent -> installed" in changes(role.install(trixie), trixie)
    with pytest.raises(NotYetKnown):
        role.configure(node)


def test_dockers_own_repository_where_settings_name_it() -> None:
    key = {"url": "https://mirror.example/gpg", "fingerprint": "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"}
    docker = {
        "url": "https://mirror.example/linux/{family}",
        "suite": "{codename}",
        "components": ["stable"],
        "key": key,
    }
    node = make_node(settings={"repositories": {"docker": docker}})
    assert "file /etc/apt/sources.list.d/metalserve-docker.sources: absent -> written" in changes(
        role.repositories(node), node
    )
    assert [p.name for p in role.install(node).packages][:3] == ["docker-ce", "docker-ce-cli", "containerd.io"]


def test_a_docker_ce_that_is_there_is_not_swapped_for_the_distributions() -> None:
    node = host({"docker-ce": "5:28.1.1-1~debian.12~bookworm", **TOOLKIT})
    assert changes(role.install(node), node) == []


def test_lists_of_earlier_installations_go() -> None:
    node = make_node(files=dict.fromkeys(role.OLD_LISTS, "deb ..."))
    assert changes(role.repositories(node), node) == [f"file {p}: -> removed" for p in role.OLD_LISTS]


def test_a_second_run_wants_nothing() -> None:
    for packages, os_id in ((OLD_DOCKER, "debian-12"), (NEW_DOCKER, "debian-13")):
        node = with_hardware(host(packages, os_id=os_id), lambda h: replace(h, smi_state="ok", gpus=(Gpu(0), Gpu(1))))
        stages = (role.repositories, role.install, role.configure)
        wish = sum((stage(node) for stage in stages), Desired()) + Desired(units=role.devices(node).units)
        written = json.dumps(daemon_of(wish))
        done = after(node, wish, sections={"docker-daemon-json": written, "cdi-spec": SPEC})
        done = with_hardware(done, lambda _, same=node.hardware: same)  # type: ignore[misc]
        again = sum((stage(done) for stage in (*stages, role.devices)), Desired())
        assert changes(again, done) == []


@pytest.mark.parametrize(("packages", "cdi"), [(OLD_DOCKER, False), (NEW_DOCKER, True)])
def test_daemon_json_is_written_for_what_docker_can(packages: dict[str, str], cdi: bool) -> None:
    written = daemon_of(role.configure(host(packages)))
    assert written["live-restore"] is True
    assert written["log-opts"] == {"max-size": "50m", "max-file": "5"}
    assert written["runtimes"]["nvidia"]["path"] == "nvidia-container-runtime"
    assert "data-root" not in written
    assert (written.get("features") == {"cdi": True}) is cdi
    assert (written.get("exec-opts") == ["native.cgroupdriver=cgroupfs"]) is not cdi


def test_what_the_operator_wrote_survives() -> None:
    theirs = {
        "registry-mirrors": ["https://mirror.example"],
        "runtimes": {"kata": {"path": "/usr/bin/kata-runtime"}},
        "features": {"buildkit": True},
        "exec-opts": ["native.cgroupdriver=systemd"],
        "data-root": "/old",
        "live-restore": False,
    }
    written = daemon_of(
        role.configure(host(OLD_DOCKER, json.dumps(theirs), settings={"container": {"data_root": "/data/docker"}}))
    )
    assert written["registry-mirrors"] == theirs["registry-mirrors"]
    assert set(written["runtimes"]) == {"kata", "nvidia"}
    assert written["features"] == {"buildkit": True}
    assert written["exec-opts"] == theirs["exec-opts"]
    assert (written["data-root"], written["live-restore"]) == ("/data/docker", True)


def test_another_log_driver_is_not_given_options_it_does_not_know() -> None:
    written = daemon_of(role.configure(host(OLD_DOCKER, '{"log-driver": "journald"}')))
    assert written["log-driver"] == "journald" and "log-opts" not in written


def test_a_daemon_json_that_says_it_all_is_not_touched_whatever_its_layout() -> None:
    ours = wanted({}, ContainerSettings(), "runtime")
    node = host(OLD_DOCKER, json.dumps(ours, indent=7), units={"docker.service": unit("docker.service")})
    assert role.configure(node).files == ()
    assert changes(role.configure(node), node) == []


def test_a_changed_daemon_json_keeps_its_mode_and_restarts_docker() -> None:
    node = host(
        OLD_DOCKER, '{"http-proxy": "http://user:secret@proxy"}', units={"docker.service": unit("docker.service")}
    )
    path = node.observed.files[DAEMON_JSON]
    node = node.with_observation(replace(node.observed, files={DAEMON_JSON: replace(path, mode="0600")}))
    found = difference(role.configure(node), node.observed)
    file = found[0].resource
    assert isinstance(file, File) and file.mode == "0600" and file.secret
    assert found[1].verbs == ("restart",)
    assert "secret@" not in " ".join(c.summary for c in found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"live-restore": true,}', "no valid JSON: line 1"),
        ("[]", "not a JSON object"),
        ('{"runtimes": []}', "runtimes is not an object"),
        ('{"exec-opts": "native.cgroupdriver=systemd"}', "exec-opts is not a list"),
    ],
)
def test_a_broken_daemon_json_is_told_and_left_alone(text: str, words: str) -> None:
    with pytest.raises(MetalserveError, match=words) as error:
        role.configure(host(OLD_DOCKER, text))
    assert error.value.where == DAEMON_JSON and error.value.remedy


def test_null_counts_as_not_set() -> None:
    current = {"log-opts": None, "exec-opts": None, "features": None}
    ours = wanted(current, ContainerSettings(), "cdi")
    assert merge(current, ours)["features"] == {"cdi": True}


def test_docker_too_old_for_the_release_is_refused() -> None:
    with pytest.raises(MetalserveError, match=r"Docker 19\.3\.15 is older than 20\.10\.10"):
        role.configure(host({"docker.io": "19.03.15-1", **TOOLKIT}))


def running(daemon: dict[str, Any], *, live_restore: bool = True, **more: Any) -> Node:
    """A host whose Docker runs with `daemon`; its settings say what is to change."""
    told = {"docker-info": info(LiveRestoreEnabled=live_restore), **more.pop("sections", {})}
    units = {"docker.service": unit("docker.service")}
    return host(OLD_DOCKER, json.dumps(daemon), units=units, sections=told, **more)


def settled(**container: Any) -> dict[str, Any]:
    """daemon.json as it stands after a run with these settings."""
    return wanted({}, ContainerSettings(**container), "runtime")


def after_run(node: Node, wish: Desired, *, reloaded: bool) -> Node:
    """The host after `wish` came true; a reload leaves its stamp and no newer start."""
    done = after(node, wish, sections={"docker-daemon-json": json.dumps(daemon_of(wish))})
    files = dict(done.observed.files)
    if reloaded:
        files[RELOADED] = a_file(RELOADED, mtime=files[DAEMON_JSON].mtime + 1)
    return done.with_observation(replace(done.observed, files=files))


@pytest.mark.parametrize(
    "before", [{k: v for k, v in settled().items() if k != "runtimes"}, settled(live_restore=False)]
)
def test_what_docker_can_take_by_a_reload_restarts_nothing(before: dict[str, Any]) -> None:
    node = running(before, live_restore=bool(before["live-restore"]))
    wish = role.configure(node)
    told = changes(wish, node)
    assert len(told) == 2 and told[0].startswith("file ") and told[1].startswith("reload Docker (")
    assert "systemctl reload docker.service" in wish.actions[0].script and RELOADED in wish.actions[0].script
    done = after_run(node, wish, reloaded=True)
    assert changes(role.configure(done), done) == []
    # A run that died before the reload leaves a file that nobody took: that is made good by a restart.
    died = after_run(node, wish, reloaded=False)
    kept = [] if before["live-restore"] else ["let Docker keep its containers over the restart"]
    assert changes(role.configure(died), died) == [*kept, "unit docker.service: enabled/active -> restart"]


def test_a_start_after_a_reload_counts_for_itself() -> None:
    daemon = settled()
    node = running(daemon)
    files = {DAEMON_JSON: a_file(DAEMON_JSON, mtime=BOOTED + 60), RELOADED: a_file(RELOADED, mtime=BOOTED - 5)}
    node = node.with_observation(replace(node.observed, files=files))
    assert changes(role.configure(node), node) == ["unit docker.service: enabled/active -> restart"], "an older stamp"


def test_a_restart_that_is_needed_keeps_containers_alive() -> None:
    """Log options need a restart; the daemon that goes down must know live-restore already."""
    before = {**settled(log_max_size="10m"), "live-restore": False}
    node = running(before, live_restore=False)
    assert changes(role.configure(node), node) == [
        f"file {DAEMON_JSON}: content",
        "let Docker keep its containers over the restart",
        "unit docker.service: enabled/active -> restart",
    ]
    assert "touch" not in role.configure(node).actions[0].script
    on = running(settled(log_max_size="10m"))
    assert changes(role.configure(on), on)[1:] == ["unit docker.service: enabled/active -> restart"]
    off = running(
        settled(log_max_size="10m", live_restore=False),
        live_restore=False,
        settings={"container": {"live_restore": False}},
    )
    assert changes(role.configure(off), off)[1:] == ["unit docker.service: enabled/active -> restart"]


def test_live_restore_is_a_setting() -> None:
    assert settled()["live-restore"] is True
    node = running(settled(), settings={"container": {"live_restore": False}})
    assert daemon_of(role.configure(node))["live-restore"] is False
    assert changes(role.configure(node), node)[1] == "reload Docker (live-restore) (containers go on)"


def test_a_docker_that_does_not_run_is_started_not_reloaded() -> None:
    node = host(
        OLD_DOCKER, json.dumps(settled(live_restore=False)), units={"docker.service": unit("d", active="failed")}
    )
    assert changes(role.configure(node), node)[1:] == ["unit docker.service: enabled/failed -> start"]


def test_a_swarm_is_refused_before_its_daemon_cannot_start_any_more() -> None:
    swarm = {"docker-info": info(Swarm={"LocalNodeState": "active"})}
    with pytest.raises(MetalserveError, match="part of a swarm") as error:
        role.configure(running(settled(live_restore=False), sections=swarm))
    assert "container.live_restore" in (error.value.remedy or "")
    off = running(
        settled(live_restore=False), sections=swarm, settings={"container": {"live_restore": False}}, live_restore=False
    )
    assert changes(role.configure(off), off) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(current=st.dictionaries(st.text(max_size=8), JSON, max_size=5), cdi=st.booleans())
def test_merging_loses_nothing_and_settles_at_once(current: dict[str, Any], cdi: bool) -> None:
    settings = ContainerSettings()
    try:
        ours = wanted(current, settings, "cdi" if cdi else "runtime")
        merged = merge(parse(json.dumps(current)), ours)
    except MetalserveError as error:  # hypothesis knows the names of our keys and gives them values of other types
        key = error.what.split()[0].split(".")[0]
        assert current[key] is not None and error.where == DAEMON_JSON
        return
    assert all(merged[k] == v for k, v in current.items() if k not in ours)
    assert merge(merged, wanted(merged, settings, "cdi" if cdi else "runtime")) == merged


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "absent"),
        ('name: "0"\n', "lacks GPU 1"),
        (SPEC, ""),
        (SPEC.replace("580.178.04", "570.211.01"), "of driver 570.211.01"),
        ("name: 0\nname: 1\n", ""),
        (SPEC + 'name: "7"\n', "names GPU 7, which is not there"),
    ],
)
def test_the_cdi_specification_is_renewed_when_it_does_not_fit(spec: str, words: str) -> None:
    node = with_hardware(
        host(NEW_DOCKER, os_id="debian-13", sections={"cdi-spec": spec}),
        lambda h: replace(h, smi_state="ok", gpus=(Gpu(0), Gpu(1)), driver_version="580.178.04"),
    )
    assert role.cdi_problem(node) == words
    actions = [c for c in difference(role.devices(node), node.observed) if isinstance(c.resource, Action)]
    # The action judges a later observation by itself; without hardware sections it sees the devices alone.
    if words == "absent":
        assert [c.summary for c in actions] == ["write the CDI specification of the GPUs (absent)"]


def test_no_cdi_devices_where_docker_takes_the_runtime_and_none_before_the_driver() -> None:
    assert role.devices(host(OLD_DOCKER)) == Desired()
    with pytest.raises(NotYetKnown):
        role.devices(host(NEW_DOCKER))


def info(**more: Any) -> str:
    """`docker info` as JSON, on one line."""
    return "WARNING: No swap limit support\n" + json.dumps(
        {
            "ServerVersion": "26.1.5",
            "Runtimes": {"nvidia": {}, "runc": {}},
            "DockerRootDir": "/var/lib/docker",
            **more,
        }
    )


def proved(packages: dict[str, str], docker_info: str | Section, spec: str = SPEC) -> Node:
    node = host(packages, sections={"docker-info": docker_info, "cdi-spec": spec})
    return with_hardware(node, lambda h: replace(h, smi_state="ok", gpus=(Gpu(0), Gpu(1))))


def test_proof_of_a_working_docker() -> None:
    assert worst(role.findings(proved(NEW_DOCKER, info()))) == "ok"
    assert worst(role.findings(proved(OLD_DOCKER, info(ServerVersion="20.10.24"), spec=""))) == "ok"


@pytest.mark.parametrize(
    ("docker_info", "spec", "check", "words"),
    [
        (Section("Cannot connect to the Docker daemon", 1), SPEC, "docker-answers", "Cannot connect"),
        ('{"ServerErrors":["is the docker daemon running?"]}', SPEC, "docker-answers", "is the docker daemon running"),
        (info(Runtimes={"runc": {}}), SPEC, "docker-nvidia-runtime", "runc"),
        (info(DockerRootDir="/elsewhere"), SPEC, "docker-data-root", "/elsewhere"),
        (info(), "", "cdi-devices", "absent"),
    ],
)
def test_proof_fails_in_words(docker_info: str | Section, spec: str, check: str, words: str) -> None:
    failed = [f for f in role.findings(proved(NEW_DOCKER, docker_info, spec)) if f.status == "fail"]
    assert [f.check for f in failed] == [check]
    assert words in failed[0].observed
