"""Role cuda: a release whose driver cannot run its image is refused early; the toolkit only where it is wanted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metalserve.desired.model import NotYetKnown
from metalserve.errors import MetalserveError
from metalserve.releases import Release, load_release
from metalserve.verify.finding import worst
from roles.cuda import desired as role
from tests.roles.helpers import after, changes, make_node, with_hardware

LTS = load_release("2026.11-lts")


def old_release() -> Release:
    """Driver 570 with an image of CUDA 13."""
    pins = {"driver": {"branch": 570, "version": "570.211.01"}, "fabric_manager": {"version": "570.211.01"}}
    return Release.model_validate({**LTS.model_dump(), **pins})


def test_nothing_is_installed_unless_settings_want_it() -> None:
    node = make_node()
    assert changes(role.install(node), node) == []
    node = make_node(settings={"cuda": {"toolkit": True}})
    assert changes(role.install(node), node) == ["package cuda-toolkit-13-0: absent -> installed"]
    done = after(node, role.install(node))
    assert changes(role.install(done), done) == []


def test_a_driver_too_old_for_the_image_is_refused_before_anything_is_done() -> None:
    with pytest.raises(MetalserveError, match=r"570\.211\.01 cannot run the CUDA 13\.0.*580\.65\.06 or newer"):
        role.install(make_node(release=old_release()))


@pytest.mark.parametrize(("loaded", "status"), [("580.178.04", "ok"), ("580.65.05", "fail"), (None, "fail")])
def test_proof_looks_at_the_loaded_driver(loaded: str | None, status: str) -> None:
    node = with_hardware(make_node(), lambda h: replace(h, smi_state="ok", module_version=loaded))
    assert worst(role.findings(node)) == status


def test_without_a_driver_nothing_is_proved() -> None:
    with pytest.raises(NotYetKnown):
        role.findings(make_node())


def test_an_archive_s_driver_is_judged_by_its_branch_and_not_by_the_release_s_version() -> None:
    distro = {"driver": {"source": "distro"}}
    with pytest.raises(MetalserveError, match=r"Debian's archive has driver branch 535, which cannot run.*CUDA 13\.0"):
        role.install(make_node(gpus=["26b9"], settings=distro))
    older = Release.model_validate({**LTS.model_dump(), "vllm": {**LTS.vllm.model_dump(), "cuda": "12.9"}})
    assert role.check_release(make_node(gpus=["26b9"], settings=distro, release=older)) == "525.60.13"
