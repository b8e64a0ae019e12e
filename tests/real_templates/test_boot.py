"""A real image is proved: two boots on emulated machines. Minutes: no KVM."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalserve.templates.proving import SIMULATED, prove
from metalserve.templates.proving_roles import compare_roles
from metalserve.templates.signing import SignatureError, make_key, trusted_keys
from metalserve.templates.spec import load_spec
from tests.real_templates.images import TEMPLATE, Image, image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="needs mmdebstrap"),
]


@pytest.fixture(scope="module")
def made() -> Iterator[Image]:
    with image() as found:
        yield found


def test_an_image_is_proved(made: Image) -> None:
    spec = load_spec(TEMPLATE)
    proof = prove(
        made.build,
        trusted_keys([made.public]),
        made.tools,
        made.home / "work",
        roles=lambda shell, place: compare_roles(spec, shell, place, SIMULATED),
    )
    assert [str(finding) for finding in proof.findings if finding.failing] == []
    assert len(proof.measured["boot_to_ssh_s"]) == 2
    assert {f.subject for f in proof.findings if f.check == "template-identity" and f.status == "ok"} >= {
        "machine-id",
        "SSH host keys",
    }
    # the lock of a build in a home that was given stays
    assert [path.name for path in (made.home / "work").iterdir() if not path.name.startswith(".")] == []


def test_a_build_that_another_signed_is_not_booted(made: Image, tmp_path: Path) -> None:
    make_key(tmp_path / "other.sec", tmp_path / "other.pub")
    with pytest.raises(SignatureError, match="which is not trusted"):
        prove(made.build, trusted_keys([tmp_path / "other.pub"]), made.tools, made.home / "work")
