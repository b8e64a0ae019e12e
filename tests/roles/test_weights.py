"""Role weights: what is staged, when nothing is, what is refused before a byte is fetched, and what is kept or goes."""

from __future__ import annotations

import base64
import json
import subprocess
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.desired.diff import difference
from metalserve.desired.model import Desired, NotYetKnown
from metalserve.desired.node import Node
from metalserve.desired.observed import ObservedUnit
from metalserve.desired.render import render
from metalserve.errors import MetalserveError
from metalserve.verify.finding import worst
from metalserve.weights.agent.config import read_job
from metalserve.weights.host import PACKAGE, agent_files, config_path, job_of, secret_path
from metalserve.weights.observed import forgotten_command
from metalserve.weights.store import inspect
from metalserve.weights.units import timer_name, unit_name
from roles.weights import desired as role
from roles.weights import references
from tests.roles.helpers import BOOTED, a_file, after, changes, make_node, unit
from tests.roles.models import KEY, MANIFEST, PUBLISHED, REVISION, referring, status

MARKER = f"/srv/models/org--model/{REVISION}/.metalserve-manifest"
MOUNTED = json.dumps({"filesystems": [{"target": "/srv/models", "source": "/dev/nvme0n1", "fstype": "xfs"}]})
SPACE = "Filesystem 1-blocks Used Available Capacity Mounted on\n/dev/nvme0n1 {0} 1 {0} 1% /srv/models\nwritable\n"


def host(
    manifest: str,
    store: str = "absent",
    mounted: str = MOUNTED,
    size: int = 10**12,
    settings: dict[str, Any] | None = None,
    sections: dict[str, str] | None = None,
    units: dict[str, ObservedUnit] | None = None,
    **model: Any,
) -> Node:
    return make_node(
        settings={
            "model": {"name": "org/model", "revision": REVISION, "manifest": manifest, **model},
            **(settings or {}),
        },
        sections={
            "weights-store": store,
            "storage-mount": mounted,
            "storage-space": SPACE.format(size),
            **(sections or {}),
        },
        units=units,
    )


STAGES = (role.configure, role.refer, role.stage_model, role.schedule, role.forget, role.collect)


def all_changes(node: Node) -> list[str]:
    return [change for stage in STAGES for change in changes(stage(node), node)]


def in_place(node: Node, **sections: str) -> Node:
    """Return the host as it is when the role has run."""
    told = {"weights-store": PUBLISHED, "weights-references": referring("inventory"), **sections}
    staged = after(node, role.configure(node), sections=told)
    done = after(staged, role.schedule(staged))
    files = {**done.observed.files, MARKER: a_file(MARKER, mtime=BOOTED)}
    return done.with_observation(replace(done.observed, files=files))


def test_stages_once(manifest: str) -> None:
    node = host(manifest)
    assert changes(role.stage_model(node), node) == [f"stage org/model@{REVISION[:12]}, 5.00 GiB (not there)"]
    done = in_place(node)
    assert all_changes(done) == []
    assert changes(role.stage_model(node), done) == []  # the action of before sees that it is done
    assert worst(role.check(done)) == "ok"
    assert worst(role.check(node)) == "fail"
    assert role.in_words(done) == f"org/model@{REVISION[:12]}, 5.00 GiB proved"


def test_everything_it_writes_is_watched(manifest: str) -> None:
    node = host(manifest)
    wish = role.configure(node)
    watched = role.watch(node.settings, node.release)
    for path in {f.path for f in wish.files} | {d.path for d in wish.directories}:
        assert any(fnmatch(path, pattern) for pattern in watched.paths), path
    for wanted in role.schedule(host(manifest, PUBLISHED)).units:
        assert wanted.name in watched.units


def test_the_agent_is_told_what_the_manifest_and_the_settings_say(manifest: str, tmp_path: Path) -> None:
    node = host(manifest, settings={"staging": {"jobs": 7, "rate_mib_s": 2.0}, "storage": {"min_free_gib": 1.5}})
    wish = {f.path: f for f in role.configure(node).files}
    (tmp_path / "job.json").write_text(wish[config_path(KEY)].content or "")
    job = read_job(str(tmp_path / "job.json"))
    assert (job.key, job.repository, job.revision) == (KEY, "org/model", REVISION)
    assert (job.store, job.total) == ("/srv/models/org--model", MANIFEST.total)
    assert (job.source.kind, job.source.base) == ("hub", f"https://huggingface.co/org/model/resolve/{REVISION}")
    assert (job.jobs, job.rate_bytes_s, job.reserve_bytes) == (7, 2 * 2**20, 3 * 2**29)
    assert job.authorisation == "" and job.swarm is None
    assert [wish[path].content for path in agent_files()] == list(agent_files().values())
    assert f"{PACKAGE}/config.py" in wish


def test_modules_of_another_version_go(manifest: str) -> None:
    node = host(manifest)
    old = f"{PACKAGE}/forgotten.py"
    node = node.with_observation(replace(node.observed, files={old: a_file(old), role.OLD_SCRIPT: a_file("x")}))
    found = changes(role.configure(node), node)
    assert f"file {old}: -> removed" in found and f"file {role.OLD_SCRIPT}: -> removed" in found


def test_the_unit_starts_after_its_files_are_written_and_is_followed(manifest: str) -> None:
    node = host(manifest)
    text = render(difference(role.configure(node) + role.stage_model(node), node.observed))
    start = text.index(f"systemctl start {unit_name('stage', KEY)}")
    assert text.index(f"ms_put {PACKAGE}/__init__.py") < text.index(f"ms_put {config_path(KEY)}") < start
    follow = role.following(node)
    assert unit_name("stage", KEY) in follow.script(10)
    assert follow.read(["@@ActiveState=inactive", "@@Result=success"]).failed == ""


def test_a_unit_that_runs_is_followed_and_one_that_was_told_something_else_begins_anew(manifest: str) -> None:
    name = unit_name("stage", KEY)
    node = host(manifest, status("partial"), units={name: unit(name, started=BOOTED + 500)})
    assert changes(role.stage_model(node), node) == [
        f"follow the staging of org/model@{REVISION[:12]}, 5.00 GiB (1.00 of 5.00 GiB there)"
    ]
    assert f"systemctl start {name}" in role.stage_model(node).actions[0].script, "which does nothing to one that runs"
    newer = a_file(config_path(KEY), mtime=BOOTED + 600)
    changed = node.with_observation(replace(node.observed, files={config_path(KEY): newer}))
    assert f"systemctl restart {name}" in role.stage_model(changed).actions[0].script


@pytest.mark.parametrize(
    ("store", "state", "why"),
    [
        ("partial 1073741824\n", "partial", "1.00 of 5.00 GiB there"),
        (status("partial"), "partial", "1.00 of 5.00 GiB there"),
        (status("published", list="0" * 64), "changed", "another manifest"),
        (status("changed", what="extra.safetensors: is not in the manifest"), "changed", "is not in the manifest"),
        (status("damaged", what="config.json: bytes are not those"), "changed", "damaged: config.json: bytes are not"),
        (status("absent"), "absent", "not there"),
        ("absent\n", "absent", "not there"),
    ],
)
def test_what_lies_there_is_judged_without_reading_it(manifest: str, store: str, state: str, why: str) -> None:
    node = host(manifest, store)
    assert inspect(store, MANIFEST).state == state
    assert why in changes(role.stage_model(node), node)[0]
    assert worst(role.check(node)) == "fail"


@given(st.text(alphabet='\t\n0123456789.abc @-:{}"lisngmtfe', max_size=300))
def test_no_output_is_taken_for_a_published_model(text: str) -> None:
    assert inspect(text, MANIFEST).state != "published"


def test_a_model_of_another_revision_is_refused(manifest: str) -> None:
    with pytest.raises(MetalserveError, match="is of revision"):
        role.stage_model(host(manifest, revision="cd" * 20))
    with pytest.raises(MetalserveError, match="is of repository org/model, but the inventory names org/other"):
        role.configure(host(manifest, name="org/other"))


def test_a_model_that_can_never_fit_is_refused_before_the_first_byte(manifest: str) -> None:
    with pytest.raises(MetalserveError, match=r"has 5.0 GiB, /srv/models only 4.0 GiB"):
        role.stage_model(host(manifest, size=4 * 2**30))
    with pytest.raises(MetalserveError, match="with 10 GiB to stay free"):
        role.stage_model(host(manifest, size=8 * 2**30, settings={"storage": {"min_free_gib": 10.0}}))


def test_nothing_is_staged_onto_the_system_disk(manifest: str) -> None:
    root = json.dumps({"filesystems": [{"target": "/", "source": "/dev/sda1", "fstype": "ext4"}]})
    for stage in (role.stage_model, role.refer):
        with pytest.raises(NotYetKnown, match="after /srv/models is mounted"):
            stage(host(manifest, mounted=root))
    node = host(manifest, mounted=root, settings={"storage": {"device": "none"}})
    assert changes(role.stage_model(node), node)


def test_the_token_is_in_no_file_argument_or_word(manifest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN_TEST", "hf_verysecret")
    node = host(manifest, hf_token={"env": "HF_TOKEN_TEST"})
    found = difference(role.configure(node) + role.stage_model(node), node.observed)
    assert not any("hf_verysecret" in c.summary for c in found)
    text = render(found)
    assert "hf_verysecret" not in text  # only as base64, on standard input of ms_put, into a file of mode 0600
    hidden = base64.b64encode(b"hf_verysecret\n").decode()
    assert text.count(hidden) == 1 and f"ms_put {secret_path(KEY)} 0600 root root <<'MS_EOF'\n{hidden}\n" in text
    assert f"trap 'rm -f {secret_path(KEY)}' EXIT" in text, "when no unit takes it over"
    files = {f.path: f.content or "" for f in role.configure(node).files}
    assert json.loads(files[config_path(KEY)])["authorisation"] == secret_path(KEY)
    for verb in ("", "-repair"):
        unit_text = files[f"/etc/systemd/system/metalserve-weights{verb}@.service"]
        assert "ExecStopPost=-/bin/rm -f /run/metalserve/weights/%i.secret\n" in unit_text
    monkeypatch.delenv("HF_TOKEN_TEST")
    with pytest.raises(MetalserveError, match="HF_TOKEN_TEST"):
        role.stage_model(node)
    # With everything in place nobody asks for the token.
    assert role.stage_model(host(manifest, PUBLISHED, hf_token={"env": "HF_TOKEN_TEST"})) == Desired()


def test_the_full_check_comes_by_a_timer_unless_it_is_not_wanted(manifest: str) -> None:
    assert role.schedule(host(manifest)) == Desired(), "what is not there is not checked"
    node = host(manifest, PUBLISHED)
    assert changes(role.schedule(node), node) == [f"unit {timer_name(KEY)}: absent -> enable, start"]
    files = {f.path: f.content or "" for f in role.configure(node).files}
    assert "OnCalendar=weekly\n" in files["/etc/systemd/system/metalserve-weights-check@.timer"]
    check = files["/etc/systemd/system/metalserve-weights-check@.service"]
    assert "check --full /etc/metalserve/weights/%i.json" in check and "IOSchedulingClass=idle" in check
    never = host(manifest, PUBLISHED, settings={"staging": {"full_check": "never"}})
    assert changes(role.schedule(never), never) == []
    was = in_place(node)
    off = host(manifest, PUBLISHED, settings={"staging": {"full_check": "never"}}, units=dict(was.observed.units))
    assert changes(role.schedule(off), off) == [f"unit {timer_name(KEY)}: enabled/active -> disable, stop"]


def test_what_the_inventory_names_is_referred_to_and_another_model_replaces_it(manifest: str) -> None:
    node = host(manifest)
    assert changes(role.refer(node), node) == [f"reference inventory: org/model@{REVISION[:12]}"]
    old = referring("inventory", revision="cd" * 20)
    node = host(manifest, sections={"weights-references": old})
    assert changes(role.refer(node), node) == [
        f"reference inventory: org/model@{'cd' * 6} -> org/model@{REVISION[:12]}"
    ]
    script = role.refer(node).actions[0].script
    assert f"reference add /srv/models inventory --repository org/model --revision {REVISION}" in script
    node = host(manifest, sections={"weights-references": referring("inventory")})
    assert role.refer(node) == Desired()
    assert references.engines_but(node.observed, "") == [], "no engine's"


def test_what_nothing_refers_to_is_collected(manifest: str) -> None:
    going = json.dumps({"dry": True, "removed": ["/srv/models/org--old/" + "0" * 40], "freed_bytes": 3 * 2**30})
    node = host(
        manifest, PUBLISHED, sections={"weights-collectable": going}, settings={"staging": {"keep_previous": 2}}
    )
    found = changes(role.collect(node), node)
    assert found == [
        f"remove 1 model(s) or remnants that nothing refers to (3.00 GiB: /srv/models/org--old/{'0' * 40})"
    ]
    assert role.collect(node).actions[0].script.endswith("gc /srv/models --keep 2\n")
    done = after(node, sections={"weights-collectable": json.dumps({"removed": [], "freed_bytes": 0})})
    assert changes(role.collect(node), done) == changes(role.collect(done), done) == []


def test_jobs_of_models_that_are_gone_are_forgotten(manifest: str, tmp_path: Path) -> None:
    node = host(manifest)
    here, gone = tmp_path / "org--here", tmp_path / "org--gone"
    (here / REVISION).mkdir(parents=True)
    configs = tmp_path / "configs"
    configs.mkdir()
    job = job_of(node.settings, node.settings.model, MANIFEST)  # type: ignore[arg-type]
    for store in (here, gone):
        told = replace(job, store=str(store), key=f"{store.name}-{REVISION[:12]}")
        (configs / f"{told.key}.json").write_text(told.to_json())
    (configs / f"{KEY}.json").write_text(job.to_json())
    asked = forgotten_command(KEY).replace("/etc/metalserve/weights", str(configs))
    told_ = subprocess.run(["sh", "-c", asked], capture_output=True, text=True, check=True).stdout
    assert told_ == f"org--gone-{REVISION[:12]}\n"
    timer = timer_name(f"org--gone-{REVISION[:12]}")
    node = host(manifest, PUBLISHED, sections={"weights-forgotten": told_}, units={timer: unit(timer)})
    path = config_path(f"org--gone-{REVISION[:12]}")
    node = node.with_observation(replace(node.observed, files={path: a_file(path)}))
    assert changes(role.forget(node), node) == [
        f"file {path}: -> removed",
        f"unit {timer}: enabled/active -> disable, stop",
    ]
    assert role.forget(host(manifest, PUBLISHED)) == Desired()


DAY = 86400


@pytest.mark.parametrize(
    ("hashed_ago", "checked_ago", "status_", "words"),
    [
        (3 * DAY, None, "ok", "hashed while it came 3 d ago"),
        (90 * DAY, 2 * DAY, "ok", "read and hashed again 2 d ago"),
        (90 * DAY, 40 * DAY, "warn", "read and hashed again 40 d ago"),
        (90 * DAY, None, "warn", "hashed while it came 90 d ago"),
        (None, None, "skipped", "never since it was published"),
        (-DAY, None, "ok", "by a clock that was ahead"),
    ],
)
def test_how_old_the_proof_is(
    manifest: str, hashed_ago: int | None, checked_ago: int | None, status_: str, words: str
) -> None:
    now = BOOTED + 1000
    last = json.dumps({"at": now - checked_ago, "state": "intact"}) if checked_ago is not None else ""
    node = host(manifest, PUBLISHED, sections={"weights-checked": last})
    if hashed_ago is not None:
        marker = a_file(MARKER, mtime=now - hashed_ago)
        node = node.with_observation(replace(node.observed, files={MARKER: marker}))
    published, verified = role.check(node)
    assert published.status == "ok" and (verified.check, verified.status) == ("verified", status_)
    assert words in verified.observed
    assert bool(verified.remedy) == (status_ != "ok")


def test_a_host_without_a_model(manifest: str) -> None:
    node = make_node()
    assert [stage(node) for stage in STAGES] == [Desired()] * len(STAGES)
    assert role.check(node) == ()
    assert role.watch(node.settings, node.release).commands == {}
