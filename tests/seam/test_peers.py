"""A router's role looks at the other hosts of the run: their engines' units, wherever in the inventory they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.seam.conftest import BARE, Seam

MODEL = {
    "name": "organisation/model",
    "served_name": "m",
    "revision": "0123456789abcdef0123456789abcdef01234567",
    "manifest": "",
}
ROUTER = {"release": "2026.11-lts", "router": {"port": 8080}}


def serving(*numbers: int) -> str:
    """Return the answer of a host that has units of these engines."""
    entry = f"regular file\t644\troot\troot\t1700000000.0\t10\t{'0' * 64}\t\t/etc/systemd/system/"
    files = "\n".join(f"{entry}metalserve-vllm-{number}.service" for number in numbers)
    return BARE.replace("@@ms:files", f"@@ms:files\n{files}")


@pytest.fixture
def model(tmp_path: Path) -> dict[str, str]:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(
        f"repository: {MODEL['name']}\nrevision: {MODEL['revision']}\n"
        f"files:\n- path: config.json\n  size: 2\n  sha256: '{'0' * 64}'\n"
    )
    return {**MODEL, "manifest": str(manifest)}


def test_engines_of_hosts_before_and_after_the_router_are_its_replicas(seam: Seam, model: dict[str, str]) -> None:
    seam.hosts(
        {
            "@fake/gpu-01": seam.fake(serving(0, 1), model=model, ssh_hostname="192.0.2.1"),
            "@fake/door": seam.fake(BARE, **ROUTER),
            "@fake/gpu-02": seam.fake(serving(3), model=model, ssh_hostname="192.0.2.2"),
        }
    )
    run = seam.pyinfra("--dry", deploy="deploys/router.py")
    assert run.rc == 0, run.out
    planned = [what for _, _, what in run.host("@fake/door")["planned"]]
    assert any(what.startswith("load router configuration") for what in planned), run.out
    assert "file /etc/metalserve/router/replicas.json: absent -> written" in planned
    assert run.host("@fake/gpu-01")["status"] == "unchanged"


def test_a_router_alone_in_the_run_does_not_guess(seam: Seam, model: dict[str, str]) -> None:
    seam.hosts(
        {
            "@fake/door": seam.fake(BARE, **ROUTER),
            "@fake/gpu-01": seam.fake(serving(0), model=model, ssh_hostname="192.0.2.1"),
        }
    )
    run = seam.pyinfra("--dry", "--limit", "@fake/door", deploy="deploys/router.py")
    failure = run.host("@fake/door")["failure"]
    assert failure is not None and "how many engines @fake/gpu-01 has is not known" in failure["what"], run.out


def test_a_serving_host_that_fails_does_not_hold_the_router_up(seam: Seam, model: dict[str, str]) -> None:
    kept = '{"version": 1, "hosts": {"@fake/gpu-01": [8000]}}'
    door = BARE.replace("@@ms:end", f"@@ms:router-replicas\n{kept}\n@@rc:0\n@@ms:end")
    seam.hosts(
        {
            "@fake/gpu-01": seam.fake("nothing that can be understood", model=model, ssh_hostname="192.0.2.1"),
            "@fake/gpu-02": seam.fake(serving(0), model=model, ssh_hostname="192.0.2.2"),
            "@fake/door": seam.fake(door, **ROUTER),
        }
    )
    run = seam.pyinfra("--dry", deploy="deploys/router.py")
    assert run.host("@fake/gpu-01")["failure"] is not None
    planned = [what for _, _, what in run.host("@fake/door")["planned"]]
    assert any(what.startswith("load router configuration") for what in planned), run.out
