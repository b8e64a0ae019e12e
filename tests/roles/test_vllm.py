"""Role vllm: the units of a plan, gates, secrets, and what is done with an engine that gives no token."""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from metalserve.desired.diff import difference
from metalserve.desired.model import Desired, File, NotYetKnown
from metalserve.desired.node import Node
from metalserve.desired.render import render
from metalserve.errors import MetalserveError
from metalserve.hardware.section import Section
from metalserve.verify.finding import worst
from roles.vllm import desired as role
from roles.vllm.answers import Answer, parse_answers
from roles.vllm.launch import planned
from roles.vllm.paths import SCRIPTS
from roles.vllm.unit import quoted
from roles.weights import references
from tests.roles.engines import DOCKER, UUID, answer, host, serving
from tests.roles.helpers import a_file, after, changes, make_node, unit
from tests.roles.models import FILES, KEY, REVISION, referring

IMAGE_SHA256 = "c" * 64
UNIT = "/etc/systemd/system/metalserve-vllm-{}.service"


def all_changes(node: Node) -> list[str]:
    return [c for stage in (role.install, role.configure, role.watched, role.serve) for c in changes(stage(node), node)]


def test_a_replica_a_gpu_on_pcie_and_a_second_run_wants_nothing(manifest: str) -> None:
    node = host(manifest)
    wanted = all_changes(node)
    assert [w for w in wanted if w.startswith("unit ")] == [
        "unit metalserve-vllm-watch.service: absent -> enable, start",
        *(f"unit metalserve-vllm-{i}.service: absent -> enable, start" for i in range(4)),
    ]
    done = serving(node, range(8000, 8004))
    assert all_changes(done) == []
    assert worst(role.check(done)) == "ok"
    assert role.in_words(done) == "org/model on :8000 to :8003 -> 'Paris'"


def test_replicas_never_share_a_gpu_or_a_port(manifest: str) -> None:
    node = host(manifest)
    texts = [f.content or "" for f in role.serve(node).files]
    devices = [line.strip() for text in texts for line in text.splitlines() if "--device" in line]
    assert sorted(devices) == [f"--device nvidia.com/gpu={UUID.format(i)} \\" for i in range(4)]
    assert all(f"--port {8000 + i} " in text for i, text in enumerate(texts))
    uuids = [line for text in texts for line in text.splitlines() if line.startswith("Environment=MS_GPUS=")]
    assert len(set(uuids)) == 4


def test_tensor_parallel_hands_out_all_gpus_of_the_group(manifest: str) -> None:
    node = host(manifest, "h100-sxm-8", engine={"tensor_parallel": 4})
    files = role.serve(node).files
    assert len(files) == 2
    first = files[0].content or ""
    assert [i for i in range(8) if f"nvidia.com/gpu={UUID.format(i)} " in first] == [0, 1, 2, 3]
    assert "Environment=MS_FABRIC=1\n" in first
    assert "--tensor-parallel-size 4" in first


def test_an_older_docker_gets_gpus_through_the_runtime_by_uuid(manifest: str) -> None:
    node = host(manifest, packages={"docker.io": "20.10.24+dfsg1-1", "systemd": "252.39-1~deb12u1"})
    text = role.serve(node).files[0].content or ""
    assert "--runtime nvidia" in text
    assert f"--env NVIDIA_VISIBLE_DEVICES={node.hardware.gpus[0].uuid} " in text
    assert "RestartSteps" not in text  # systemd 252 does not know it
    assert "RestartSteps" in (role.serve(host(manifest)).files[0].content or "")


def test_everything_it_writes_is_watched(manifest: str) -> None:
    node = host(manifest, engine={"api_key": {"command": ["echo", "k"]}})
    watched = role.watch(node.settings, node.release)
    wish = role.install(node) + role.configure(node) + role.watched(node) + role.serve(node)
    for path in [f.path for f in wish.files] + [d.path for d in wish.directories]:
        assert any(fnmatch.fnmatch(path, pattern) for pattern in watched.paths), path
    for one in wish.units:
        assert any(fnmatch.fnmatch(one.name, pattern) for pattern in watched.units)
        assert all(any(fnmatch.fnmatch(p, pattern) for pattern in watched.paths) for p in one.restart_on)


def test_the_unit_stands_up_to_systemd(manifest: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    wish = role.serve(
        host(manifest, engine={"extra_args": ["--override-generation-config", '{"top_p": 0.9, "x": "5%$"}']})
    )
    path = tmp_path / "metalserve-vllm-0.service"
    text = (wish.files[0].content or "").replace("/usr/bin/docker", "/bin/true")
    for script in SCRIPTS:
        text = text.replace(script, "/bin/true")
    path.write_text(text)
    said = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True)
    newer = ("RestartSteps", "RestartMaxDelaySec")  # known from systemd 254 on
    complaints = [x for x in said.stderr.splitlines() if path.name in x and not any(word in x for word in newer)]
    assert complaints == []


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("--port", "--port"),
        ("a b", '"a b"'),
        ('{"a": "5%"}', '"{\\"a\\": \\"5%%\\"}"'),
        ("$HOME", '"$$HOME"'),
        ("back\\slash", '"back\\\\slash"'),
        ("", '""'),
        ("100%", "100%%"),
    ],
)
def test_words_reach_the_container_as_they_are(word: str, written: str) -> None:
    assert quoted(word) == written


def test_the_api_key_is_in_two_files_of_roots_and_nowhere_else(manifest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY_TEST", "sk-verysecret")
    node = host(manifest, engine={"api_key": {"env": "ENGINE_KEY_TEST"}})
    wish = role.install(node) + role.configure(node) + role.watched(node) + role.serve(node)
    holding = [f for f in wish.files if "sk-verysecret" in (f.content or "")]
    assert {f.path for f in holding} == {"/etc/metalserve/engine.env", "/etc/metalserve/engine-auth"}
    assert all(f.mode == "0600" and f.secret for f in holding)
    found = difference(wish, node.observed)
    assert "sk-verysecret" not in render(found) + str([c.summary for c in found])
    watched = role.watch(node.settings, node.release)
    assert "sk-verysecret" not in str(watched)
    assert "@/etc/metalserve/engine-auth" not in str(watched)  # the probe sends it from the file it finds
    done = serving(node, range(8000, 8004))
    assert all_changes(done) == []
    monkeypatch.setenv("ENGINE_KEY_TEST", "sk-rotated")
    assert changes(role.configure(done), done) == [
        "file /etc/metalserve/engine.env: content",
        "file /etc/metalserve/engine-auth: content",
    ]
    rotated = after(done, role.configure(done))
    assert changes(role.serve(rotated), rotated) == [
        "replace engine 0, 1, 2, 3: one by one, the old one comes back if the new one does not answer"
    ]


def test_without_a_key_no_header_is_left_behind(manifest: str) -> None:
    node = host(
        manifest, files={"/etc/metalserve/engine-auth": a_file("/etc/metalserve/engine-auth", "old", mode="0600")}
    )
    assert "file /etc/metalserve/engine-auth: -> removed" in changes(role.configure(node), node)


def test_a_changed_plan_restarts_and_replicas_no_longer_planned_go(manifest: str) -> None:
    done = serving(host(manifest), range(8000, 8004))
    smaller = host(manifest, engine={"replicas": 2, "max_model_len": 4096})
    node = replace(smaller, observed=done.observed)
    found = changes(role.serve(node), node)
    assert [c for c in found if c.startswith("remove")] == [
        "remove engine 2, which is no longer planned",
        "remove engine 3, which is no longer planned",
    ]
    assert "replace engine 0, 1: one by one, the old one comes back if the new one does not answer" in found
    # what goes serves until those that stay have answered
    assert found.index("remove engine 2, which is no longer planned") == len(found) - 2


def test_without_a_model_all_engines_go(manifest: str) -> None:
    done = serving(host(manifest), range(8000, 8004))
    node = replace(make_node(), observed=done.observed)
    assert changes(role.serve(node), node) == [f"remove engine {i}, which is no longer planned" for i in range(4)]
    assert changes(role.watched(node), node) == ["remove the watch: nothing is served"]
    assert role.check(node) == ()


BUSY = '@engine 8000\nhealth 200 \nmodels 200 {"data": [{"id": "org/model"}]}\ncompletion 000 timeout\nwork 10 12\n'
STUCK = BUSY.replace("work 10 12", "work 10 10")


@pytest.mark.parametrize(
    ("told", "restarted", "status", "words"),
    [
        (answer(8000), False, "ok", ""),
        (BUSY, False, "warn", "busy"),
        (STUCK, True, "fail", "no token came in time and the counters stand still"),
        (
            "@engine 8000\nhealth 000 curl: (28) timed out\n",
            True,
            "fail",
            "no answer from /health (curl: (28) timed out)",
        ),
        ("@engine 8000\nhealth 503 \n", True, "fail", "/health says 503"),
        (answer(8000, name="other"), True, "fail", "it serves other"),
        (answer(8000, text=" "), True, "fail", "the completion is empty"),
        ("", True, "fail", "no answer from /health"),
    ],
)
def test_an_engine_that_runs(manifest: str, told: str, restarted: bool, status: str, words: str) -> None:
    node = host(manifest, engine={"replicas": 1})
    done = serving(node, range(8000, 8001), **{"engine-answers": told})
    found = changes(role.serve(done), done)
    assert len(found) == restarted
    assert all(c.startswith("restart engine 0: running, but no token comes (") and words in c for c in found)
    finding = role.check(done)[0]
    assert finding.status == status
    assert words in finding.observed


def test_an_engine_that_does_not_run_is_started_not_restarted(manifest: str) -> None:
    done = serving(host(manifest, engine={"replicas": 1}), range(8000, 8001))
    stopped = replace(
        done.observed,
        units={"metalserve-vllm-0.service": unit("metalserve-vllm-0.service", active="failed")},
        sections={**done.observed.sections, "engine-answers": Section("")},
    )
    node = done.with_observation(stopped)
    assert node.settings.model is not None
    gpus = ",".join(map(str, planned(node, node.settings.model).gpus_per_replica[0]))
    assert changes(role.serve(node), node) == [
        f"begin engine 0 on GPU {gpus}, if driver, fabric and weights are right",
        "unit metalserve-vllm-0.service: enabled/failed -> start",
    ]


@pytest.mark.parametrize(
    "text",
    ["@engine x\nhealth 200", "health 200 \n", '@engine 8000\nmodels 200 [1]\ncompletion 200 {"choices": [1]}\n'],
)
def test_odd_answers_are_no_answers(text: str) -> None:
    assert not any(a.serves("org/model") for a in parse_answers(text).values())
    assert Answer(1).in_words() == "no answer from /health (timeout)"


def test_what_is_wrong_with_the_arguments_is_told_before_anything_else(manifest: str) -> None:
    node = make_node(
        settings={
            "model": {"name": "org/model", "revision": REVISION, "manifest": manifest},
            "engine": {"extra_args": ["--swap-space", "16"]},
        }
    )
    with pytest.raises(MetalserveError, match=r"--swap-space was removed in vLLM 0.18.0") as refused:
        role.install(node)
    assert refused.value.where == "engine.extra_args"


def test_what_is_not_known_yet(manifest: str) -> None:
    bare = host(manifest, sections={"smi-csv": Section("not found", 127), "smi-q": Section("not found", 127)})
    with pytest.raises(NotYetKnown, match="after the driver is there"):
        role.serve(bare)
    with pytest.raises(NotYetKnown, match="after org/model is staged"):
        role.serve(host(manifest, sections={"weights-store": "partial 5"}))
    with pytest.raises(NotYetKnown, match="Docker"):
        role.serve(host(manifest, packages={}))


def test_a_model_that_cannot_be_served_fails_the_host_with_the_reason(manifest: str) -> None:
    with pytest.raises(MetalserveError, match="cannot be served on this host"):
        role.serve(host(manifest, engine={"tensor_parallel": 3}))
    with pytest.raises(MetalserveError, match=r"config.json"):
        role.serve(host(manifest, sections={"model-config": "cat: No such file"}))


def test_the_image_comes_from_an_archive_or_a_registry(manifest: str) -> None:
    absent: dict[str, str | Section] = {"engine-image": Section("Error: No such image", 1)}
    pulled = host(manifest, sections=absent)
    assert "pull image vllm/vllm-openai:v0.33.0" in changes(role.install(pulled), pulled)
    archive = {"image_archive": "http://mirror/images/vllm.tar", "image_archive_sha256": IMAGE_SHA256}
    node = host(manifest, engine=archive, sections=absent)
    wish = role.install(node)
    assert changes(wish, node)[-1] == "load image vllm/vllm-openai:v0.33.0 (http://mirror/images/vllm.tar)"
    assert IMAGE_SHA256 in wish.actions[0].script
    # The image is there, but nothing says that it came from this archive.
    assert changes(role.install(host(manifest, engine=archive)), host(manifest, engine=archive))[-1].startswith("load")
    loaded = host(manifest, engine=archive, files={"/var/lib/metalserve/engine-image": f"{IMAGE_SHA256}\n"})
    assert not any(c.startswith("load") for c in changes(role.install(loaded), loaded))


def test_a_digest_is_used_where_a_registry_gave_the_image(manifest: str) -> None:
    node = host(manifest)
    digest = "sha256:" + "d" * 64
    pinned = replace(
        node, release=node.release.model_copy(update={"vllm": node.release.vllm.model_copy(update={"digest": digest})})
    )
    assert f"vllm/vllm-openai@{digest}" in (role.serve(pinned).files[0].content or "")


@pytest.mark.parametrize(
    ("listens", "asked"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("10.0.0.5", "10.0.0.5"), ("fd00::5", "[fd00::5]")],
)
def test_where_the_probe_asks(manifest: str, listens: str, asked: str) -> None:
    assert role.address(host(manifest, engine={"host": listens}).settings.engine) == asked


def test_the_weights_of_the_plan_are_those_of_the_manifest(manifest: str) -> None:
    node = host(manifest)
    assert node.settings.model is not None
    plan = planned(node, node.settings.model)
    assert plan.memory is not None
    assert plan.memory.weights == pytest.approx(float(FILES[1]["size"]), rel=0.05)  # type: ignore[arg-type]
    unit_text = role.serve(node).files[0].content or ""
    assert "Environment=MS_STORE=/srv/models/org--model\n" in unit_text, "where the gate looks for what was proved"
    assert f"Environment=MS_REVISION={REVISION}\n" in unit_text


def test_the_engine_gets_a_local_path_and_asks_no_hub(manifest: str) -> None:
    node = host(manifest)
    files = {f.path: f.content or "" for f in (*role.configure(node).files, *role.serve(node).files)}
    assert "HF_HUB_OFFLINE=1\n" in files["/etc/metalserve/engine.env"]
    text = files[UNIT.format(0)]
    assert "--env-file /etc/metalserve/engine.env" in text
    assert f"--volume /srv/models/org--model/{REVISION}:/models/org--model:ro" in text
    arguments = text[text.index("--volume") :]
    assert "/models/org--model" in arguments and "org/model" not in arguments.replace(
        "--served-model-name org/model", ""
    )
    podman = host(manifest, engine={"runtime": "podman"}, packages={**DOCKER, "podman": "5.4.2+ds1-1"})
    quadlet = next(f.content or "" for f in role.serve(podman).files)
    assert "EnvironmentFile=/etc/metalserve/engine.env\n" in quadlet
    assert f"Volume=/srv/models/org--model/{REVISION}:/models/org--model:ro\n" in quadlet


def test_what_is_served_is_referred_to_before_it_starts_and_what_was_is_let_go_when_it_answered(manifest: str) -> None:
    node = host(manifest, sections={"weights-references": referring(f"vllm-org--model-{'cd' * 6}", revision="cd" * 20)})
    text = render(difference(role.serve(node), node.observed))
    assert f"reference add /srv/models vllm-{KEY} --repository org/model --revision {REVISION}" in text
    assert text.index("reference add") < text.index(f"ms_put {UNIT.format(0)}"), "before its unit is there"
    assert "reference remove" not in text
    assert changes(role.release(node), node) == [
        f"reference vllm-org--model-{'cd' * 6} to org/model@{'cd' * 6}: removed, nothing serves it any more"
    ]
    both = referring("inventory", f"vllm-{KEY}")
    done = after(node, sections={"weights-references": both})
    assert changes(role.release(node), done) == [] and role.release(done) == Desired()
    without = make_node(sections={"weights-references": both})
    assert references.found(without.observed)
    assert [a.script.split()[-1] for a in role.release(without).actions] == [f"vllm-{KEY}"], "the inventory's stays"


def test_scripts_travel_as_they_are(manifest: str) -> None:
    files = {f.path: f for f in role.install(host(manifest)).files}
    assert files[role.GATE] == File(role.GATE, role._file("gate.sh"), mode="0755")
    assert role.install(make_node()) == Desired()


def test_engines_load_side_by_side_and_stuck_ones_are_restarted_together(manifest: str) -> None:
    node = host(manifest)
    text = render(difference(role.serve(node), node.observed))
    begun = [text.index(f"systemctl start --no-block metalserve-vllm-{i}.service") for i in range(4)]
    waited = text.index("systemctl start metalserve-vllm-0.service")
    assert max(begun) < waited
    assert text.index("engine-gate") < min(begun)
    done = serving(node, range(8000, 8004), **{"engine-answers": answer(8000) + answer(8002)})
    wish = role.serve(done)
    assert [c.split(":")[0] for c in changes(wish, done)] == ["restart engine 1, 3"]
    again = after(done, wish, sections={"engine-answers": "".join(answer(8000 + i) for i in range(4))})
    assert changes(wish, again) == []
