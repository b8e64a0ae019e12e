from __future__ import annotations

from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.templates.spec import IMAGE_ROLES, SPECS, TemplateSpec, known_specs, load_spec

BASE = """\
os: {distribution: debian, release: "13", mirror: http://mirror.invalid/debian}
kernel: {package: linux-image-amd64}
release: 2026.11-lts
settings: {expect: {gpu: l40s, count: 4}}
"""


def written(place: Path, text: str, name: str = "one") -> str:
    path = place / f"{name}.yaml"
    path.write_text(text)
    return str(path)


def test_every_specification_that_comes_with_metalserve_is_valid() -> None:
    specs = {name: load_spec(name) for name in known_specs()}
    systems = {spec.os.id for spec in specs.values()}
    assert systems == {"debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04", "rocky-9", "rocky-10"}
    assert systems <= set(specs), "each system has a template of its own name"
    for name, spec in specs.items():
        assert spec.name == name
        assert spec.description
        if "nvidia_driver" in spec.roles:
            assert "gpu" in spec.settings["expect"], "an image has no PCI bus: the driver is chosen by `expect`"
        if spec.roles:
            assert spec.os.family == "apt", "the roles do not know the RHEL family"


def test_a_template_has_the_roles_in_the_order_of_the_main_job(tmp_path: Path) -> None:
    spec = load_spec(written(tmp_path, BASE + "roles: [storage, base]\n"))
    assert spec.roles == ["base", "storage"]
    assert load_spec(written(tmp_path, BASE)).roles == list(IMAGE_ROLES)


def test_a_specification_extends_another_key_by_key(tmp_path: Path) -> None:
    written(tmp_path, BASE, "below")
    spec = load_spec(
        written(tmp_path, "extends: below.yaml\nroles: [base]\nsettings: {expect: null, base: {ntp: false}}\n", "above")
    )
    assert spec.name == "above"
    assert spec.os.codename == "trixie"
    assert spec.settings == {"base": {"ntp": False}}
    assert spec.digest != load_spec(str(tmp_path / "below.yaml")).digest


def test_one_that_extends_itself_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "extends: two.yaml\n", "one")
    written(tmp_path, "extends: one.yaml\n", "two")
    with pytest.raises(MetalserveError, match="extends itself"):
        load_spec(str(tmp_path / "one.yaml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("roles: [vllm]\n", "no role for an image: vllm"),
        ("users: [{name: ops, password: secret}]\n", "users.0.password"),
        ("users: [{name: ops, authorized_keys: [secret]}]\n", "public keys"),
        ("users: [{name: '../x'}]\n", "login name"),
        ("name: ../up\n", "name"),
        ("packages: ['curl; reboot']\n", "names of packages"),
        ("kernel: {package: linux-image-amd64, files: [{path: pool/a.deb, sha256: x}]}\n", "kernel.files.0.sha256"),
        ("kernel: {}\n", "either a package or files"),
        ("kernel: {package: linux, command_line: 'a\"b'}\n", "one line"),
        ("os: {distribution: debian, release: '9', mirror: http://m.invalid}\n", "must be one of: 12, 13"),
        ("os: {distribution: debian, release: '13', mirror: 'http://user:word@m.invalid'}\n", "os.mirror"),
        ("release: 1999.01\n", "release"),
        ("settings: {expect: {gpu: no-such-gpu}}\n", "expect.gpu"),
        ("settings: {drivr: {}}\n", "drivr"),
        ("disk: {file_system: btrfs}\n", "disk.file_system"),
        ("nonsense: 1\n", "nonsense"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(tmp_path: Path, text: str, said: str) -> None:
    keys = {line.split(":")[0] for line in text.splitlines()}
    rest = "".join(f"{line}\n" for line in BASE.splitlines() if line.split(":")[0] not in keys)
    with pytest.raises(MetalserveError) as caught:
        load_spec(written(tmp_path, rest + text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(MetalserveError, match=r"debian-13.*rocky-9"):
        load_spec("debian-99")


def test_the_digest_is_of_what_is_said_not_of_how(tmp_path: Path) -> None:
    one = load_spec(written(tmp_path, BASE + "roles: [base]\n", "a"))
    value = one.model_dump(mode="json")
    assert TemplateSpec.model_validate(value).digest == one.digest
    assert TemplateSpec.model_validate({**value, "packages": ["jq"]}).digest != one.digest
    assert SPECS.is_dir()
