"""What sharing a model rests on: torrents, certificates, shares of the source, and who shares with whom."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from hypothesis import given
from hypothesis import strategies as st

from metalserve.errors import MetalserveError
from metalserve.settings import HostSettings, SettingsError
from metalserve.weights.agent.config import WantedFile
from metalserve.weights.agent.shares import Piece, Shares, pieces_of
from metalserve.weights.agent.torrent import (
    TorrentError,
    decode,
    encode,
    make_torrent,
    piece_size_for,
    with_authority,
)
from metalserve.weights.credentials import authority_of, credentials_of
from metalserve.weights.sharing import Member, sharing, swarm_config
from tests.weights.agent_host import wanted
from tests.weights.swarm_fleet import engine

REVISION = "ab" * 20
SECRET = "5e" * 16


def written(root: Path, sizes: Mapping[str, int]) -> tuple[WantedFile, ...]:
    for name, size in sizes.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(random.Random(size).randbytes(size))
    return wanted({name: (root / name).read_bytes() for name in sizes})


SIZES = {"a/big": 5 * 65536 + 7, "a/even": 4 * 65536, "b": 1, "c empty": 0, "d": 16384 * 3, "e": 65536, "f": 65537}


def test_a_torrent_is_what_the_engine_makes_of_the_same_files(tmp_path: Path) -> None:
    lt = engine()
    files = written(tmp_path / "model", SIZES)
    made = make_torrent(tmp_path / "model", files, 65536)
    storage = lt.file_storage()
    for each in sorted(files, key=lambda each: each.path):
        storage.add_file(f"model/{each.path}", each.size)
    theirs = lt.create_torrent(storage, 65536, lt.create_torrent.v2_only)
    theirs.set_priv(True)
    lt.set_piece_hashes(theirs, str(tmp_path))
    expected = decode(lt.bencode(theirs.generate()))
    assert decode(made) == {key: expected[key] for key in (b"info", b"piece layers")}


def test_a_torrent_tells_no_time_and_no_place(tmp_path: Path) -> None:
    files = written(tmp_path / "one", SIZES)
    made = make_torrent(tmp_path / "one", files, 65536)
    written(tmp_path / "other", SIZES)
    assert make_torrent(tmp_path / "other", tuple(reversed(files)), 65536) == made
    assert set(decode(made)) == {b"info", b"piece layers"}
    assert set(decode(made)[b"info"]) == {b"file tree", b"meta version", b"name", b"piece length", b"private"}
    assert decode(made)[b"info"][b"private"] == 1


def test_a_torrent_of_other_files_is_refused(tmp_path: Path) -> None:
    files = written(tmp_path, SIZES)
    made = make_torrent(tmp_path, files, 65536)
    pieces = pieces_of(made, files)
    assert sum(piece.length for piece in pieces) == sum(SIZES.values())
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    for other in (files[1:], (*files, WantedFile("g", 1, "0" * 64)), (WantedFile("a/big", 1, "0" * 64), *files[1:])):
        with pytest.raises(TorrentError, match="other files"):
            pieces_of(made, other)
    (tmp_path / "b").write_bytes(b"too long")
    with pytest.raises(TorrentError, match="has 8 bytes, not 1"):
        make_torrent(tmp_path, files, 65536)
    with pytest.raises(TorrentError, match="power of two"):
        make_torrent(tmp_path, files, 100_000)


@given(st.binary(max_size=200))
def test_no_bytes_pass_for_a_torrent(data: bytes) -> None:
    with pytest.raises(TorrentError):
        pieces_of(data, [WantedFile("a", 1, "0" * 64)])


VALUES = st.recursive(
    st.integers() | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_encoded_is_decoded(value: Any) -> None:
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    ("total", "size"), [(1, 256 << 10), (10 << 30, 1 << 20), (140 << 30, 4 << 20), (1 << 41, 16 << 20)]
)
def test_pieces_are_neither_too_many_nor_too_large(total: int, size: int) -> None:
    assert piece_size_for(total) == size
    assert total / size < 2**18


def test_certificates_come_from_the_secret_alone() -> None:
    one, again, other = credentials_of(SECRET, "a"), credentials_of(SECRET, "a"), credentials_of(SECRET, "b")
    assert one == again and one.authority == other.authority == authority_of(SECRET)
    assert one.key != other.key and credentials_of("0f" * 16, "a").authority != one.authority
    assert "PRIVATE" not in repr(one) and "PRIVATE" not in str(one)
    authority, certificate = (
        x509.load_pem_x509_certificate(text.encode()) for text in (one.authority, one.certificate)
    )
    certificate.verify_directly_issued_by(authority)
    with pytest.raises(InvalidSignature):
        certificate.verify_directly_issued_by(
            x509.load_pem_x509_certificate(credentials_of("0f" * 16, "a").authority.encode())
        )
    assert certificate.not_valid_before_utc < datetime(2021, 1, 1, tzinfo=UTC) < certificate.not_valid_after_utc
    with pytest.raises(MetalserveError, match="at least 32"):
        credentials_of("short", "a")


def test_the_authority_changes_the_identity_and_no_digest(tmp_path: Path) -> None:
    files = written(tmp_path, SIZES)
    made = make_torrent(tmp_path, files, 65536)
    bound = with_authority(made, authority_of(SECRET))
    assert decode(bound)[b"piece layers"] == decode(made)[b"piece layers"]
    assert (
        hashlib.sha256(encode(decode(bound)[b"info"])).digest()
        != hashlib.sha256(encode(decode(made)[b"info"])).digest()
    )
    assert pieces_of(bound, files) == pieces_of(made, files)
    with pytest.raises(TorrentError):
        with_authority(b"de", "x")


def a_model(count: int) -> list[Piece]:
    file = WantedFile("a", count, "0" * 64)
    return [Piece(index, file, index, 1) for index in range(count)]


def taken(shares: Shares) -> set[int]:
    """Take until there is nothing more now."""
    found: set[int] = set()
    while run := shares.take():
        assert not found & {piece.index for piece in run}, "twice"
        found |= {piece.index for piece in run}
    return found


@given(st.integers(1, 60), st.integers(1, 8))
def test_shares_are_everything_once(count: int, hosts: int) -> None:
    found = [taken(Shares(a_model(count), rank, hosts, 2)) for rank in range(hosts)]
    assert sorted(index for share in found for index in share) == list(range(count))


def test_a_host_helps_only_where_another_is_late() -> None:
    shares = Shares(a_model(40), 0, 4, 2)
    nothing, own = [0] * 40, set(range(10))
    shares.update([False] * 40, nothing, 0.0, alone=False)
    assert taken(shares) == own
    have = [index in own for index in range(40)]
    # the second and third get on, the fourth was never there
    shares.update(have, [int(10 <= index < 25) for index in range(40)], 2.0, alone=False)
    assert taken(shares) == set()
    shares.update(have, [int(10 <= index < 28) for index in range(40)], 4.0, alone=False)
    assert taken(shares) == set(range(30, 40))


def test_what_peers_have_is_fetched_only_when_they_are_too_slow() -> None:
    shares = Shares(a_model(10), 0, 1, 2)
    shares.update([False] * 10, [1] * 10, 0.0, alone=False)
    assert taken(shares) == set()
    shares.update([False] * 10, [1] * 10, 0.0, alone=True)
    assert taken(shares) == set(range(10))


def test_what_came_wrong_is_not_asked_for_again_and_what_did_not_come_is() -> None:
    shares = Shares(a_model(4), 0, 1, 1)
    assert taken(shares) == {0, 1, 2, 3}
    shares.wrong(2)
    shares.give_back(a_model(4)[1:3])
    assert taken(shares) == {1}


def member(name: str, at: str = "", **staging: Any) -> Member:
    data = {
        "release": "2026.11-lts",
        "model": {"name": "org/model", "revision": REVISION, "manifest": "m.yaml"},
        "staging": {"distribution": "swarm", "swarm_secret": {"env": "FLEET"}, **staging},
    }
    return Member(name, at or f"10.0.0.{ord(name)}", HostSettings.from_data(data, host=name, source="test"))


def test_who_shares_with_whom() -> None:
    hosts = [member("c"), member("a"), member("b")]
    alone = member("d", distribution="direct")
    model = hosts[0].settings.model
    assert model is not None
    assert [each.name for each in sharing([*hosts, alone], model)] == ["a", "b", "c"]
    config = swarm_config("b", model, [*hosts, alone])
    port = config.listen.rpartition(":")[2]
    assert 6881 <= int(port) < 6897
    assert config.listen == f"10.0.0.98:{port}" and config.peers == (f"10.0.0.97:{port}", f"10.0.0.99:{port}")
    limited = [member("a", upload_mib_s=2, download_mib_s=1, address="fd00::1"), member("b")]
    own = swarm_config("a", model, limited)
    assert (own.upload_bytes_s, own.download_bytes_s, own.listen) == (2 << 20, 1 << 20, f"[fd00::1]:{port}")


def test_addresses_that_cannot_be_are_refused() -> None:
    model = member("a").settings.model
    assert model is not None
    with pytest.raises(MetalserveError, match=r"is a name.*staging\.address"):
        swarm_config("a", model, [member("a", "node.example"), member("b")])
    with pytest.raises(MetalserveError, match="same address"):
        swarm_config("a", model, [member("a", "10.0.0.1"), member("b", "10.0.0.1")])


def test_a_swarm_without_a_secret_is_refused() -> None:
    data = {"release": "2026.11-lts", "staging": {"distribution": "swarm"}}
    with pytest.raises(SettingsError, match="swarm_secret"):
        HostSettings.from_data(data, host="a", source="test")
