from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from metalserve.lab.fileserver import application, request_log

CONTENT = bytes(range(256)) * 64


async def client_of(root: Path, log: io.StringIO) -> TestClient:  # type: ignore[type-arg]
    server = TestServer(application(root))
    await server.start_server(access_log_class=request_log(log), access_log=logging.getLogger("test"))
    client = TestClient(server)
    await client.start_server()
    return client


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "www/models").mkdir(parents=True)
    (tmp_path / "www/models/file.bin").write_bytes(CONTENT)
    (tmp_path / "secret").write_text("no")
    return tmp_path / "www"


def serve(
    root: Path, *requests: tuple[str, str, dict[str, str]]
) -> tuple[list[tuple[int, bytes]], list[dict[str, object]]]:
    """Send requests one after the other; return (status, body) of each, and the log."""
    log = io.StringIO()

    async def talk() -> AsyncIterator[tuple[int, bytes]]:
        client = await client_of(root, log)
        try:
            for method, path, headers in requests:
                response = await client.request(method, path, headers=headers)
                yield response.status, await response.read()
        finally:
            await client.close()

    async def collect() -> list[tuple[int, bytes]]:
        return [answer async for answer in talk()]

    answers = asyncio.run(collect())
    return answers, [json.loads(line) for line in log.getvalue().splitlines()]


def test_whole_files_ranges_and_heads(root: Path) -> None:
    answers, log = serve(
        root,
        ("GET", "/models/file.bin", {}),
        ("GET", "/models/file.bin", {"Range": "bytes=100-199"}),
        ("GET", "/models/file.bin", {"Range": "bytes=16000-"}),
        ("GET", "/models/file.bin", {"Range": "bytes=99999999-"}),
        ("HEAD", "/models/file.bin", {}),
        ("GET", "/models/other.bin", {}),
    )
    assert answers[0] == (200, CONTENT)
    assert answers[1] == (206, CONTENT[100:200])
    assert answers[2] == (206, CONTENT[16000:])
    assert [status for status, _ in answers[3:]] == [416, 200, 404]
    assert [entry["status"] for entry in log] == [200, 206, 206, 416, 200, 404]
    assert [entry["length"] for entry in log[:3]] == [len(CONTENT), 100, len(CONTENT) - 16000]
    assert log[1]["range"] == "bytes=100-199"


@pytest.mark.parametrize("path", ["/../secret", "/%2e%2e/secret", "/models/../../secret", "/models/%2fetc/passwd"])
def test_nothing_above_the_root_is_served(root: Path, path: str) -> None:
    answers, _ = serve(root, ("GET", path, {}))
    assert answers[0][0] in (403, 404)


def test_only_reading(root: Path) -> None:
    answers, _ = serve(root, ("PUT", "/models/file.bin", {}), ("DELETE", "/models/file.bin", {}))
    assert [status for status, _ in answers] == [405, 405]
