"""A build is believed only when a trusted key signed just its manifest, as just that build."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import minisign
import pytest

from metalserve.templates.manifest import MANIFEST, SIGNATURE, Manifest
from metalserve.templates.signing import (
    SignatureError,
    TemplateError,
    make_key,
    secret_key_path,
    sign,
    trusted_keys,
    verified_manifest,
)
from tests.templates.builds import make_build, make_keys


def signed(tmp_path: Path, number: int = 0) -> tuple[Path, Manifest, Path]:
    work = tmp_path / f"work-{number}"
    manifest = make_build(work, number)
    directory = tmp_path / manifest.name / manifest.build
    directory.parent.mkdir(exist_ok=True)
    work.rename(directory)
    secret = tmp_path / "secret.key"
    if not secret.exists():
        make_keys(tmp_path)
    manifest.write(directory / MANIFEST)
    sign(directory, secret)
    return directory, manifest, tmp_path / "public.pub"


def test_what_was_signed_is_verified(tmp_path: Path) -> None:
    directory, manifest, public = signed(tmp_path)
    assert verified_manifest(directory, trusted_keys([public])) == manifest
    text = (directory / SIGNATURE).read_text()
    assert f"trusted comment: metalserve template {manifest.name} {manifest.build}\n" in text


def test_the_secret_key_is_its_owners_only_and_is_never_replaced(tmp_path: Path) -> None:
    secret, public = tmp_path / "keys" / "a.key", tmp_path / "keys" / "a.pub"
    old = os.umask(0)
    try:
        key_id = make_key(secret, public)
    finally:
        os.umask(old)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert key_id in public.read_text()
    with pytest.raises(TemplateError, match="never replaced"):
        make_key(secret, tmp_path / "b.pub")
    with pytest.raises(TemplateError, match="never replaced"):
        make_key(tmp_path / "b.key", public)
    assert not (tmp_path / "b.key").exists()
    assert not (tmp_path / "b.pub").exists()


def test_a_secret_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    directory, _, _ = signed(tmp_path)
    (tmp_path / "secret.key").chmod(0o640)
    with pytest.raises(SignatureError, match=r"others may read .* chmod 600"):
        sign(directory, tmp_path / "secret.key")


def test_what_is_no_secret_key_is_refused_without_its_content(tmp_path: Path) -> None:
    directory, _, public = signed(tmp_path)
    wrong = tmp_path / "wrong.key"
    wrong.write_text("hunter2\nhunter3\n")
    wrong.chmod(0o600)
    for path in (wrong, public.rename(tmp_path / "p.key")):
        path.chmod(0o600)
        with pytest.raises(SignatureError, match="no secret key") as refused:
            sign(directory, path)
        assert "hunter" not in str(refused.value)
    with pytest.raises(SignatureError, match="does not exist"):
        sign(directory, tmp_path / "nowhere.key")
    with pytest.raises(SignatureError, match="METALSERVE_TEMPLATE_KEY: names no secret key"):
        secret_key_path({})


def test_a_secret_key_with_a_password_is_refused(tmp_path: Path) -> None:
    directory, _, _ = signed(tmp_path)
    pair = minisign.KeyPair.generate()
    pair.secret_key.encrypt("secret", opslimit=32768, memlimit=1 << 20)
    path = tmp_path / "encrypted.key"
    path.write_bytes(bytes(pair.secret_key) + b"\n")
    path.chmod(0o600)
    with pytest.raises(SignatureError, match="has a password"):
        sign(directory, path)


def test_an_altered_manifest_is_refused(tmp_path: Path) -> None:
    directory, manifest, public = signed(tmp_path)
    manifest.model_copy(update={"packages": 2}).write(directory / MANIFEST)
    with pytest.raises(SignatureError, match=r"not what key [0-9A-F]{16} signed"):
        verified_manifest(directory, trusted_keys([public]))


def test_an_unsigned_build_is_refused(tmp_path: Path) -> None:
    directory, _, public = signed(tmp_path)
    (directory / SIGNATURE).unlink()
    with pytest.raises(SignatureError, match="is not signed"):
        verified_manifest(directory, trusted_keys([public]))


def test_another_key_is_refused_by_name(tmp_path: Path) -> None:
    directory, _, _ = signed(tmp_path)
    other = make_key(tmp_path / "o.key", tmp_path / "o.pub")
    with pytest.raises(SignatureError, match=f"which is not trusted -> trusted: {other}"):
        verified_manifest(directory, trusted_keys([tmp_path / "o.pub"]))


def test_another_build_under_the_same_signature_is_refused(tmp_path: Path) -> None:
    old, _, public = signed(tmp_path)
    new, _, _ = signed(tmp_path, 1)
    for name in (MANIFEST, SIGNATURE):
        shutil.copy(old / name, new / name)
    with pytest.raises(SignatureError, match="signed as another build"):
        verified_manifest(new, trusted_keys([public]))


def test_a_signature_for_another_name_over_this_manifest_is_refused(tmp_path: Path) -> None:
    directory, manifest, public = signed(tmp_path)
    moved = tmp_path / "debian-12" / manifest.build
    moved.parent.mkdir()
    directory.rename(moved)
    secret = minisign.SecretKey.from_file(tmp_path / "secret.key")
    comment = f"metalserve template debian-12 {manifest.build}"
    signature = secret.sign((moved / MANIFEST).read_bytes(), trusted_comment=comment)
    (moved / SIGNATURE).write_bytes(bytes(signature) + b"\n")
    with pytest.raises(SignatureError, match="holds the manifest of debian-13/"):
        verified_manifest(moved, trusted_keys([public]))


def test_a_broken_signature_or_public_key_is_one_clear_line(tmp_path: Path) -> None:
    directory, _, public = signed(tmp_path)
    (directory / SIGNATURE).write_text("nothing\n")
    with pytest.raises(SignatureError, match="signature cannot be read"):
        verified_manifest(directory, trusted_keys([public]))
    public.write_text("nothing\n")
    with pytest.raises(SignatureError, match="no public key"):
        trusted_keys([public])
    with pytest.raises(SignatureError, match="holds no public key") as caught:
        trusted_keys(directory=tmp_path / "empty")
    assert str(tmp_path / "empty") in str(caught.value) and "--key FILE" in str(caught.value)


@pytest.mark.skipif(shutil.which("minisign") is None, reason="the program minisign is not installed")
def test_the_program_minisign_reads_what_is_written_here(tmp_path: Path) -> None:
    directory, manifest, public = signed(tmp_path)
    done = subprocess.run(
        ["minisign", "-V", "-p", public, "-m", directory / MANIFEST], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert manifest.build in done.stdout
