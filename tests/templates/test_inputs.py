"""The digests of what goes into a template: another role, file or line gives another, a comment elsewhere does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from metalserve.paths import ROOT
from metalserve.templates.inputs import (
    CATALOGUE,
    FIRST_BOOT,
    LIBRARY,
    PLACED,
    imported,
    release_digest,
    role_digests,
    spec_digest,
)
from metalserve.templates.manifest import TemplateError


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in {
        "roles/base/__init__.py": "from metalserve.settings import one\nfrom . import desired\n",
        "roles/base/desired.py": "from metalserve import pyinfra_seam\n",
        "roles/other/__init__.py": "",
        "metalserve/__init__.py": "",
        "metalserve/settings/__init__.py": "from metalserve.settings.inner import one\n",
        "metalserve/settings/inner.py": "one = 1\n",
        "metalserve/pyinfra_seam/__init__.py": "",
        "metalserve/economics/__init__.py": "",
        "metalserve/catalogue/gpus.yaml": "a: 1\n",
        "files/vllm/gate.sh": "exit 0\n",
        "files/report/page.css": "",
        "files/templates/firstboot/run.sh": "exit 0\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("roles/base/desired.py", {"base"}),
        ("metalserve/settings/inner.py", {LIBRARY}),
        ("metalserve/catalogue/gpus.yaml", {CATALOGUE}),
        ("files/vllm/gate.sh", {PLACED}),
        ("files/templates/firstboot/run.sh", {FIRST_BOOT}),
        ("metalserve/pyinfra_seam/__init__.py", set()),
        ("metalserve/economics/__init__.py", set()),
        ("files/report/page.css", set()),
    ],
)
def test_what_changes_shows_where_it_belongs(checkout: Path, file: str, changed: set[str]) -> None:
    before = role_digests(["base", "other"], checkout)
    (checkout / file).write_text((checkout / file).read_text() + "# more\n")
    after = role_digests(["base", "other"], checkout)
    assert set(before) == {"base", "other", LIBRARY, CATALOGUE, PLACED, FIRST_BOOT}
    assert {name for name in before if before[name] != after[name]} == changed


def test_a_file_that_becomes_executable_counts(checkout: Path) -> None:
    before = role_digests(["base"], checkout)
    (checkout / "files/vllm/gate.sh").chmod(0o755)
    assert role_digests(["base"], checkout)[PLACED] != before[PLACED]


def test_the_roles_of_this_checkout_have_digests(checkout: Path) -> None:
    code = imported([ROOT / "roles" / "nvidia_driver" / "__init__.py"])
    assert ROOT / "metalserve" / "settings" / "common.py" in code
    assert not [path for path in code if "pyinfra_seam" in path.parts]
    with pytest.raises(TemplateError, match="no role 'nothing'"):
        role_digests(["nothing"])


def test_a_specification_is_digested_by_what_it_says() -> None:
    class Spec(BaseModel):
        name: str
        packages: list[str] = []

    assert spec_digest(Spec(name="a")) == spec_digest(Spec(name="a", packages=[]))
    assert spec_digest(Spec(name="a")) != spec_digest(Spec(name="a", packages=["b"]))


def test_a_release_is_digested_by_its_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METALSERVE_RELEASES_DIR", str(tmp_path))
    (tmp_path / "one.yaml").write_text("a")
    before = release_digest("one")
    (tmp_path / "one.yaml").write_text("b")
    assert release_digest("one") != before
    with pytest.raises(TemplateError, match="cannot be read"):
        release_digest("two")
