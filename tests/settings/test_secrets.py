"""Secrets: read from where they are, held in silence, refused with the reference and never with the value."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import sys
import traceback
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import metalserve.secrets
from metalserve.inventory import check_secrets
from metalserve.paths import ROOT
from metalserve.secrets import Secret, SecretError, resolve
from metalserve.settings import HostSettings, SecretRef, SettingsError

from .samples import host_data, problems

VALUE = "hf_Zq7SecretValue9"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{VALUE}\nsecond line\n", encoding="ascii")
    path.chmod(0o600)
    return path


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MS_TOKEN", f"  {VALUE}\n")
    assert resolve(SecretRef(env="MS_TOKEN")).reveal() == VALUE
    monkeypatch.delenv("MS_TOKEN")
    with pytest.raises(SecretError, match="environment variable MS_TOKEN: is not set"):
        resolve(SecretRef(env="MS_TOKEN"))


def test_from_a_file(secret_file: Path) -> None:
    assert resolve(SecretRef(file=str(secret_file))).reveal() == VALUE


def test_from_a_file_in_the_home_directory(secret_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(secret_file.parent))
    assert resolve(SecretRef(file="~/token")).reveal() == VALUE


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o620])
def test_a_file_others_can_reach_is_refused(secret_file: Path, mode: int) -> None:
    secret_file.chmod(mode)
    with pytest.raises(SecretError, match=f"mode {mode:o}.*chmod 600"):
        resolve(SecretRef(file=str(secret_file)))


def test_a_file_in_the_checkout_is_refused_also_through_a_link(tmp_path: Path) -> None:
    for path in (str(ROOT / "pyproject.toml"), str(tmp_path / "link")):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(ROOT / "pyproject.toml")
        with pytest.raises(SecretError, match="stands in the checkout"):
            resolve(SecretRef(file=path))


def test_odd_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, words in (("none", "No such file"), ("pipe", "not a plain file"), (".", "Is a directory")):
        with pytest.raises(SecretError, match=words):
            resolve(SecretRef(file=str(tmp_path / name)))
    for content, words in ((b"", "empty"), (b"\n \n", "empty"), (b"\xff\xfe", "plain text"), (b"a" * 70000, "64 KiB")):
        path = tmp_path / "x"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(SecretError, match=words):
            resolve(SecretRef(file=str(path)))


def test_from_a_command() -> None:
    assert resolve(SecretRef(command=[sys.executable, "-c", f"print({VALUE!r})"])).reveal() == VALUE


COMMANDS = [
    (
        [sys.executable, "-c", f"import sys; print({VALUE!r}); print({VALUE!r}, file=sys.stderr); sys.exit(3)"],
        "status 3",
    ),
    (["/nonexistent/program", VALUE], "cannot be run: No such file"),
    ([sys.executable, "-c", "pass", VALUE], "empty"),
]


@pytest.mark.parametrize(("command", "words"), COMMANDS)
def test_a_failing_command_is_named_without_output_and_arguments(command: list[str], words: str) -> None:
    with pytest.raises(SecretError, match=words) as caught:
        resolve(SecretRef(command=command))
    shown = "".join(traceback.format_exception(caught.value, chain=True))
    # The source lines of this test hold the value; what the error itself carries must not.
    assert VALUE not in str(caught.value)
    assert VALUE not in repr(caught.value)
    assert "During handling" not in shown
    assert caught.value.__suppress_context__


def test_a_command_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metalserve.secrets, "COMMAND_TIMEOUT_S", 0.3)
    with pytest.raises(SecretError, match="did not answer within"):
        resolve(SecretRef(command=["sleep", "30"]))


def test_output_of_a_command_is_not_logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG)
    code = f"import sys; print({VALUE!r}); print({VALUE!r}, file=sys.stderr)"
    assert resolve(SecretRef(command=[sys.executable, "-c", code])).reveal() == VALUE
    out = capfd.readouterr()
    assert VALUE not in out.out + out.err + caplog.text


def shown_by(secret: Secret) -> list[str]:
    """Return everything a careless print, log or format makes of a secret."""
    texts = [str(secret), repr(secret), f"{secret}", f"{secret:>30}", repr([secret]), repr({"a": secret})]
    return [*texts, "{}".format(secret)]  # noqa: UP032 - another way of formatting


@given(st.text(min_size=1), st.text(min_size=1))
def test_what_a_secret_shows_does_not_depend_on_its_value(one: str, other: str) -> None:
    secret = Secret(one)
    assert shown_by(secret) == shown_by(Secret(other))
    assert secret.reveal() == one
    for copier in (pickle.dumps, json.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            copier(secret)
    assert not hasattr(secret, "__dict__")


def test_a_secret_shows_its_value_to_nobody() -> None:
    assert all(VALUE not in text for text in shown_by(Secret(VALUE)))


def test_a_traceback_with_a_secret_does_not_show_it() -> None:
    try:
        secret = Secret(VALUE)
        raise RuntimeError(f"cannot use {secret}")
    except RuntimeError as error:
        lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
        assert "Secret(****)" in "".join(lines)
        assert f"secret = {VALUE}" not in "".join(lines)
        assert VALUE not in str(error)


REFS: list[tuple[dict[str, Any], str]] = [
    ({}, "exactly one of env, file, command"),
    ({"env": "A", "file": "/x"}, "exactly one of env, file, command"),
    ({"env": VALUE}, "must be the name of an environment variable"),
    ({"env": "sk-" + VALUE}, "must be the name of an environment variable"),
    ({"file": VALUE}, "must be an absolute path"),
    ({"command": []}, "must be a list: the program"),
    ({"command": f"echo {VALUE}"}, "must be a list"),
    ({"value": VALUE}, "unknown setting"),
]


@pytest.mark.parametrize(("ref", "words"), REFS)
def test_wrong_references_are_refused_in_silence(ref: dict[str, Any], words: str) -> None:
    found = problems(host_data(engine={"api_key": ref}))
    assert any(words in line for line in found), found
    assert VALUE not in "".join(found)


def test_a_secret_in_place_of_a_reference_is_refused_in_silence() -> None:
    found = problems(host_data(engine={"api_key": VALUE}))
    assert found == (
        "engine.api_key: must say where the secret is, such as {'env': 'NAME'}; "
        "the secret itself has no place in an inventory",
    )
    with pytest.raises(pydantic.ValidationError) as caught:
        HostSettings.model_validate({"release": "r", "engine": {"api_key": VALUE}})
    assert VALUE not in str(caught.value)
    assert VALUE not in repr(caught.value)


def test_settings_show_references_only(monkeypatch: pytest.MonkeyPatch, secret_file: Path) -> None:
    monkeypatch.setenv("MS_TOKEN", VALUE)
    model = {**host_data()["model"], "hf_token": {"file": str(secret_file)}}
    settings = HostSettings.from_data(
        host_data(engine={"api_key": {"env": "MS_TOKEN"}}, model=model), host="h", source="s"
    )
    assert settings.engine.api_key is not None
    resolve(settings.engine.api_key)
    shown = [
        repr(settings),
        str(settings),
        settings.model_dump_json(),
        str(settings.model_dump()),
        str(settings.engine),
    ]
    assert all(VALUE not in text for text in shown)
    assert "environment variable MS_TOKEN" in repr(settings)


def test_arguments_of_a_command_are_not_shown() -> None:
    ref = SecretRef(command=["vault", "read", VALUE])
    assert VALUE not in str(ref) + repr(ref)
    assert str(ref) == "command 'vault'"


def test_every_missing_secret_is_named_before_a_run(monkeypatch: pytest.MonkeyPatch, secret_file: Path) -> None:
    monkeypatch.delenv("MS_TOKEN", raising=False)
    secret_file.chmod(0o644)
    model = {**host_data()["model"], "hf_token": {"file": str(secret_file)}}
    data = host_data(engine={"api_key": {"env": "MS_TOKEN"}}, model=model)
    hosts = {name: HostSettings.from_data(data, host=name, source="s") for name in ("a", "b")}
    with pytest.raises(SettingsError) as caught:
        check_secrets(hosts, "prod.py")
    assert caught.value.problems[0].startswith(
        "prod.py: a, b: engine.api_key: environment variable MS_TOKEN: is not set"
    )
    assert caught.value.problems[1].startswith(f"prod.py: a, b: model.hf_token: file {secret_file}: may be read")
    assert len(caught.value.problems) == 2
    monkeypatch.setenv("MS_TOKEN", VALUE)
    secret_file.chmod(0o600)
    check_secrets(hosts, "prod.py")
