"""A whole inventory is checked before any host is contacted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from metalserve.cli.settings import rows
from metalserve.inventory import check_hosts, check_warnings
from metalserve.paths import ROOT
from metalserve.settings import HostSettings, SettingsError
from metalserve.settings.reading import dotted_names

from .samples import REVISION, host_data


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    path = tmp_path / "manifest.yaml"
    files = [{"path": "config.json", "size": 3, "sha256": "a" * 64}]
    path.write_text(
        yaml.safe_dump({"repository": "organisation/model", "revision": REVISION, "files": files}), encoding="utf-8"
    )
    return str(path)


def served(manifest: str, **changes: Any) -> dict[str, Any]:
    model = {"name": "organisation/model", "revision": REVISION, "manifest": manifest}
    return host_data(**{"model": model, **changes})


def lines(hosts: list[tuple[str, dict[str, Any]]]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        check_hosts(hosts, "prod.py")
    return caught.value.problems


def test_a_right_inventory_gives_settings_by_name(manifest: str) -> None:
    hosts = [(f"gpu-{i}", served(manifest, ssh_hostname=f"192.0.2.{i}")) for i in (1, 2)]
    assert list(check_hosts(hosts, "prod.py")) == ["gpu-1", "gpu-2"]


def test_every_problem_of_every_host_comes_at_once(manifest: str) -> None:
    found = lines(
        [
            ("a", served(manifest, ssh_hostname="192.0.2.1", release="2026.11-lst")),
            ("b", served(manifest, ssh_hostname="192.0.2.2", engine={"prot": 1})),
            ("c", served(str(manifest) + ".none", ssh_hostname="192.0.2.3")),
            ("d", served(manifest, ssh_hostname="192.0.2.1")),
            ("d", served(manifest, ssh_hostname="192.0.2.4")),
        ]
    )
    assert found[0].startswith("prod.py: a: release: no release '2026.11-lst' (did you mean '2026.11-lts'?)")
    assert found[1] == "prod.py: b: engine.prot: unknown setting (did you mean 'port'?)"
    assert found[2].startswith("prod.py: c: model.manifest: ")
    assert "does not exist" in found[2]
    assert found[3] == "prod.py: d: ssh_hostname: is 192.0.2.1, the address of a too"
    assert found[4] == "prod.py: d: is in the inventory twice"
    assert len(found) == 5


def test_what_a_group_shares_is_said_once(manifest: str) -> None:
    hosts = [(f"h{i}", served(manifest, ssh_hostname=f"192.0.2.{i}", release="none")) for i in range(9)]
    assert [line.split(": release")[0] for line in lines(hosts)] == ["prod.py: h0, h1, h2, h3 and 5 more"]


def test_manifest_of_another_model_or_revision_is_refused(manifest: str) -> None:
    other = {"name": "organisation/other", "revision": "f" * 40, "manifest": manifest}
    found = lines([("a", served(manifest, model=other))])
    assert "is of organisation/model, but model.name is organisation/other" in found[0]
    assert f"is of revision {REVISION}, but model.revision is {'f' * 40}" in found[1]


def test_release_that_does_not_fit_together_is_refused(manifest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALSERVE_RELEASES_DIR", str(ROOT / "tests" / "releases" / "data"))
    found = lines(
        [
            ("a", served(manifest, ssh_hostname="192.0.2.1", release="broken-toolkit")),
            ("b", served(manifest, ssh_hostname="192.0.2.2", release="broken-latest")),
        ]
    )
    assert "a: release: container_toolkit.version: 1.17.7-1 is open to CVE" in found[0]
    assert "b: release: data/broken-latest.yaml: vllm: tag 'latest' pins nothing" in found[1]


def test_release_whose_driver_does_not_know_the_gpu_is_refused(manifest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from metalserve import inventory
    from metalserve.releases import load_release

    release = load_release("2026.11-lts")
    old = release.model_copy(update={"driver": release.driver.model_copy(update={"branch": 550})})
    monkeypatch.setattr(inventory, "load_release", lambda name: old)
    monkeypatch.setattr(inventory, "check_release", lambda release, catalogue: [])
    found = lines([("a", served(manifest, expect={"gpu": "b200"}))])
    assert found == ("prod.py: a: release: its driver branch 550 is too old: b200 needs 570 or newer",)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--swap-space", "16"], "--swap-space was removed in vLLM 0.18.0"),
        (["--dtype", "fp8"], "--dtype cannot be 'fp8'"),
        (["--max-num-batched-tokens", "128", "--max-num-seqs", "256"], "128 is less than --max-num-seqs 256"),
        (["stray"], "belongs to no option"),
    ],
)
def test_arguments_that_the_releases_vllm_refuses(manifest: str, extra: list[str], words: str) -> None:
    [line] = lines([("a", served(manifest, engine={"extra_args": extra}))])
    assert line.startswith("prod.py: a: engine.extra_args: ") and words in line


def test_arguments_that_vllm_only_warns_of(manifest: str) -> None:
    hosts = [("a", served(manifest, engine={"extra_args": ["--seed", "1", "--seed", "2"]}))]
    found = check_warnings(hosts, check_hosts(hosts, "inv.py"), "inv.py", today=date(2026, 11, 25))
    assert any("--seed is given twice" in line for line in found)


def test_same_address_on_another_port_is_another_machine(manifest: str) -> None:
    hosts = [("a", served(manifest, ssh_port=2201)), ("b", served(manifest, ssh_port=2202))]
    assert len(check_hosts(hosts, "prod.py")) == 2
    assert lines([*hosts, ("c", served(manifest, ssh_port=2201))])[0].endswith("the address of a too")
    assert lines([("x", {"release": "2026.11-lts"}), ("b", {"release": "2026.11-lts", "ssh_hostname": "X"})])


def test_a_thousand_hosts_are_checked_in_seconds(manifest: str) -> None:
    import time

    hosts = [(f"gpu-{i:04}", served(manifest, ssh_hostname=f"198.51.{100 + i // 250}.{i % 250}")) for i in range(1000)]
    start = time.process_time()
    assert len(check_hosts(hosts, "prod.py")) == 1000
    assert time.process_time() - start < 5


def test_warnings_of_an_inventory(manifest: str, tmp_path: Path) -> None:
    plain = served(manifest, _sudo_password="hunter2-secret", ssh_known_hosts_file=str(tmp_path / "none"))
    strict = served(manifest, ssh_strict_host_key_checking="yes", ssh_hostname="192.0.2.12")
    hosts = [("a", plain), ("b", {**plain, "ssh_hostname": "192.0.2.13"}), ("c", strict)]
    found = check_warnings(hosts, check_hosts(hosts, "prod.py"), "prod.py", today=date(2028, 7, 1))
    keys = [line.split(": ")[1:3] for line in found]
    assert keys == [
        ["a, b", "ssh_strict_host_key_checking"],
        ["a, b", "ssh_known_hosts_file"],
        ["a, b", "ssh_password or _sudo_password"],
        ["release 2026.11-lts", "driver.branch"],
        ["release 2026.11-lts", "vllm.digest"],
    ]
    assert "hunter2" not in "".join(found)


def run(*arguments: str, columns: int = 100, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does: reading an inventory patches the process, so it gets its own."""
    environment = {**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "metalserve", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, timeout=60, check=False)


def test_the_example_says_in_one_line_what_to_do() -> None:
    done = run("settings", "check", "inventories/prod.py")
    assert done.returncode == 1
    first, last = done.stderr.splitlines()
    assert first.startswith("inventories/prod.py: gpu-01, gpu-02, gpu-03: model.manifest: files/models/EXAMPLE.yaml: ")
    assert "metalserve weights manifest --hub" in first
    assert last == "metalserve: 1 problem in inventories/prod.py; no host was contacted"


def test_the_example_is_right_once_its_manifest_is_made(tmp_path: Path) -> None:
    """Only what the file says must be filled in is filled in."""
    text = (ROOT / "inventories" / "prod.py").read_text(encoding="utf-8")
    path = tmp_path / "manifest.yaml"
    name = "RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic"
    files = [{"path": "config.json", "size": 3, "sha256": "a" * 64}]
    path.write_text(yaml.safe_dump({"repository": name, "revision": REVISION, "files": files}), encoding="utf-8")
    text = text.replace('"0" * 40', repr(REVISION)).replace("files/models/EXAMPLE.yaml", str(path))
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    done = run("settings", "check", str(tmp_path / "mine.py"))
    assert done.returncode == 0, done.stderr
    assert "3 hosts are in order; none was contacted" in done.stdout
    assert f"warning: {tmp_path}/mine.py: gpu-03: driver.reboot" in done.stderr


INVENTORIES = [
    ("hosts = [('a', {'release': 'x'}", "was never closed"),
    ("hosts = ['a']\nx = 1 / 0", "line 2: ZeroDivisionError: division by zero"),
    ("hosts = [1, 2]", "hosts"),
    ("hosts = [('a', ['b'])]", "cannot be read"),
    ("settings = {}", "names no hosts"),
    ("import nothing_of_this_name", "ModuleNotFoundError"),
]


@pytest.mark.parametrize(("text", "words"), INVENTORIES)
def test_inventories_that_cannot_be_read_are_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "inventory.py"
    path.write_text(text, encoding="utf-8")
    done = run("settings", "check", str(path))
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_no_such_inventory() -> None:
    done = run("settings", "check", "inventories/none.py")
    assert done.returncode == 1
    assert "inventories/none.py: no such inventory file" in done.stderr


def test_group_data_and_groups_are_merged_as_pyinfra_does(tmp_path: Path) -> None:
    (tmp_path / "group_data").mkdir()
    (tmp_path / "group_data" / "all.py").write_text("release = '2026.11-lts'\nsimulated = True\n", encoding="utf-8")
    (tmp_path / "group_data" / "big.py").write_text("engine = {'prot': 1}\n", encoding="utf-8")
    (tmp_path / "fleet.py").write_text("big = ['a']\nsmall = [('b', {'simulated': False})]\n", encoding="utf-8")
    done = run("settings", "check", str(tmp_path / "fleet.py"))
    assert done.stderr.splitlines()[0].endswith("fleet.py: a: engine.prot: unknown setting (did you mean 'port'?)")
    assert "metalserve: 1 problem" in done.stderr


def test_the_shipped_group_data_is_strict_about_host_keys() -> None:
    from runpy import run_path

    data = run_path(str(ROOT / "inventories" / "group_data" / "all.py"))
    assert data["ssh_strict_host_key_checking"] == "yes"
    assert data["ssh_known_hosts_file"] == str(ROOT / "inventories" / "known_hosts")


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_shows_every_setting_whole(columns: int) -> None:
    done = run("settings", columns=columns)
    assert done.returncode == 0
    shown = done.stdout.splitlines()
    assert max(map(len, shown)) <= columns
    assert "…" not in done.stdout
    first_words = [line.split()[0] for line in shown if line.strip()]
    for row in rows(HostSettings):
        assert row.key.strip() in first_words
    assert len(list(rows(HostSettings))) <= len(list(dotted_names(HostSettings)))


def test_json_schema() -> None:
    schema = json.loads(run("settings", "--json-schema").stdout)
    assert schema["required"] == ["release"]
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["EngineSettings"]["properties"]["port"]["default"] == 8000
