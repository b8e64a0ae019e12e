"""The main job on the fleet that `./run demo` shows: it converges, changes nothing twice, and lives on by itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from metalserve.paths import ROOT
from tests.lab.fleet import Fleet

pytestmark = [pytest.mark.lab, pytest.mark.fleet]

SWITCHED, BRIDGED, PCIE = "lab-h100x8", "lab-h100nvl", "lab-l40s"
ENGINES = {SWITCHED: range(8000, 8008), BRIDGED: range(8000, 8002), PCIE: range(8000, 8004)}


def test_a_second_run_changes_nothing_in_a_few_sessions(serving: Fleet) -> None:
    run = serving.run()
    assert run.rc == 0, run.out
    assert run.statuses == dict.fromkeys(ENGINES, "unchanged")
    assert "3 hosts: nothing changed" in run.out
    for name, host in run.report["hosts"].items():
        assert host["sessions"] <= 8, name
        assert host["simulated"] is True
        assert "metalserve-lab/tiny-llama on :8000" in host["proofs"]["answers"]
        assert "ready in" in host["proofs"]["load"]
        assert {load["replica"] for load in host["loads"]} >= set(range(len(ENGINES[name])))


def test_dry_and_drift_agree_that_there_is_nothing_to_do(serving: Fleet) -> None:
    assert serving.run("--dry").statuses == dict.fromkeys(ENGINES, "unchanged")
    done = subprocess.run(
        [sys.executable, "-m", "metalserve", "drift", "inventories/lab.py"],
        cwd=ROOT,
        env=serving.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "3 of 3 hosts as they should be" in done.stdout


@pytest.mark.slow
def test_drift_on_one_host_is_named_and_mended_there_alone(serving: Fleet) -> None:
    serving.lab.ssh(PCIE, "echo '# by hand' >>/etc/sysctl.d/90-metalserve.conf; systemctl disable --now chrony")
    dry = serving.run("--dry")
    assert dry.statuses == {**dict.fromkeys(ENGINES, "unchanged"), PCIE: "would change"}
    assert "/etc/sysctl.d/90-metalserve.conf: content" in dry.out
    mended = serving.run()
    assert mended.statuses == {**dict.fromkeys(ENGINES, "unchanged"), PCIE: "changed"}
    assert serving.run().statuses[PCIE] == "unchanged"


def test_a_killed_engine_comes_back_by_itself(serving: Fleet) -> None:
    before = serving.lab.ssh(BRIDGED, "docker inspect -f '{{.Id}}' metalserve-vllm-1").stdout
    assert serving.lab.ssh(BRIDGED, "docker kill metalserve-vllm-1").returncode == 0
    serving.wait_for_tokens(BRIDGED, range(8001, 8002))
    assert serving.lab.ssh(BRIDGED, "docker inspect -f '{{.Id}}' metalserve-vllm-1").stdout != before
    assert serving.token(BRIDGED, 8000)
    assert serving.run("--limit", BRIDGED).statuses == {BRIDGED: "unchanged"}


def test_a_rebooted_node_comes_back_serving_by_itself(serving: Fleet) -> None:
    boot = "cat /run/metalserve-boot 2>/dev/null || systemctl show -p UserspaceTimestampMonotonic"
    before = serving.lab.ssh(SWITCHED, boot).stdout
    serving.lab.reboot(SWITCHED)
    assert serving.lab.ssh(SWITCHED, boot).stdout != before
    serving.wait_for_tokens(SWITCHED, ENGINES[SWITCHED])
    assert "Completed" in serving.lab.ssh(SWITCHED, "nvidia-smi -q | grep -A1 Fabric").stdout
    assert serving.run("--limit", SWITCHED).statuses == {SWITCHED: "unchanged"}


def test_weights_that_were_changed_are_not_served_but_mended(serving: Fleet) -> None:
    files = serving.lab.ssh(PCIE, "ls /srv/models/metalserve-lab--tiny-llama/*/*.safetensors").stdout.split()
    assert files
    # with its times put back: who looks at sizes and times alone would serve it
    flip = f"printf x | dd of={files[0]} bs=1 seek=4000 conv=notrunc"
    serving.lab.ssh(PCIE, f"touch -r {files[0]} /run/times; {flip}; touch -r /run/times {files[0]}")
    assert serving.lab.ssh(PCIE, "systemctl restart metalserve-vllm-3").returncode != 0
    said = serving.lab.ssh(PCIE, "journalctl -q -o cat -u metalserve-vllm-3 -n 40").stdout
    assert re.search(r"engine not started: \S+: \S+\.safetensors: bytes are not those that were proved -> ", said)
    run = serving.run("--limit", PCIE)
    assert run.rc == 0, run.out
    assert any(role == "weights" for role, _, _ in run.report["hosts"][PCIE]["changes"])
    serving.wait_for_tokens(PCIE, ENGINES[PCIE])
    assert serving.run("--limit", PCIE).statuses == {PCIE: "unchanged"}


def test_settings_that_contradict_the_host_fail_it_alone(serving: Fleet) -> None:
    run = serving.run(overrides={PCIE: {"expect": {"gpu": "h100-sxm", "count": 8, "links": "nvswitch"}}})
    assert run.rc == 1
    assert run.statuses == {**dict.fromkeys(ENGINES, "unchanged"), PCIE: "failed"}
    assert re.search(r"expected .*(H100|h100-sxm|8 GPU)", run.failure(PCIE))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({PCIE: {"release": "2026.11-ltz"}}, r"2026\.11-ltz.*did you mean.*2026\.11-lts"),
        ({PCIE: {"engine": {"gpu_memory_utilisation": 0.9}}}, "engine.*gpu_memory_util"),
        ({PCIE: {"storage": {"device": "sda"}}}, r"storage\.device"),
        ({BRIDGED: {"expect": {"count": "many"}}}, r"lab-h100nvl.*expect\.count"),
    ],
)
def test_wrong_settings_are_refused_before_any_host_is_contacted(
    serving: Fleet, overrides: dict[str, object], words: str
) -> None:
    run = serving.run(overrides=overrides)
    assert run.rc == 1
    assert re.search(words, run.out), run.out
    assert "Connected" not in run.out and "Traceback" not in run.out
    assert run.report == {}


def test_a_limit_that_matches_nothing_is_refused(serving: Fleet) -> None:
    run = serving.run("--limit", "lab-l40")
    assert run.rc == 1
    assert "no such host or group" in run.out and "Connected" not in run.out


def test_a_host_with_another_key_is_not_spoken_to(serving: Fleet, tmp_path: Path) -> None:
    known = serving.lab.layout.known_hosts.read_text().splitlines()
    keys = {line.split()[0]: line.split()[1:] for line in known}
    names = {name.split(",")[0]: name for name in keys}
    wrong = {names[PCIE]: keys[names[BRIDGED]]}
    file = tmp_path / "known_hosts"
    file.write_text("".join(f"{name} {' '.join(wrong.get(name, key))}\n" for name, key in keys.items()))
    run = serving.run(overrides={"all": {"ssh_known_hosts_file": str(file)}})
    assert run.rc == 1
    assert run.statuses == {**dict.fromkeys(ENGINES, "unchanged"), PCIE: "unreachable"}
    assert "key" in run.failure(PCIE).lower()


def test_secrets_are_nowhere_but_in_files_of_roots(serving: Fleet, tmp_path: Path) -> None:
    key, token = "ms-api-key-5f0c2d7e91", "hf_5f0c2d7e91TokenOfNobody"
    store = tmp_path / "token"
    store.write_text(token)
    overrides = {
        PCIE: {
            "engine": {"api_key": {"env": "TEST_API_KEY"}},
            "model": {"hf_token": {"command": ["cat", str(store)]}},
        }
    }
    mark = "touch /run/before-secrets"
    # the model is fetched anew, so that the token travels
    serving.lab.ssh(PCIE, f"{mark}; rm -rf /srv/models/metalserve-lab--tiny-llama")
    seen: set[str] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            for place in Path("/proc").glob("[0-9]*/cmdline"):  # the hosts' processes are seen here too
                try:
                    seen.add(place.read_bytes().decode(errors="replace"))
                except OSError:
                    continue
            time.sleep(0.05)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        run = serving.run(
            "--limit", PCIE, "-vvv", "--debug", "--diff", overrides=overrides, extra={"TEST_API_KEY": key}
        )
    finally:
        stop.set()
        watcher.join()
    try:
        assert run.rc == 0, run.out
        assert [line for line in seen if key in line or token in line] == []
        for secret in (key, token):
            assert secret not in run.out
            assert secret not in json.dumps(run.report)
            log = ROOT / "pyinfra-debug.log"
            assert not log.exists() or secret not in log.read_text(errors="replace")
            # as somebody else sees it, below directories that are closed to others too
            readable = serving.lab.ssh(
                PCIE,
                f"echo {secret} >/root/needle; chmod 644 /root/needle; exec 3</root/needle; "
                "su nobody -s /bin/sh -c 'find / -type f -newer /run/before-secrets "
                '-not -path "/proc/*" -not -path "/sys/*" -print0 2>/dev/null '
                "| xargs -0 -r grep -lF -f /dev/fd/3 2>/dev/null' 3<&3; rm /root/needle; "
                f"journalctl -q -o cat --no-pager | grep -F -- {secret}",
            )
            assert readable.stdout.strip() == "", readable.stdout
        holders = serving.lab.ssh(PCIE, f"grep -rlF -- {key} /etc | xargs stat -c '%a %U %n'").stdout.splitlines()
        assert len(holders) == 2 and all(line.startswith("600 root /etc/metalserve/") for line in holders), holders
        assert serving.token(PCIE) == "", "the key is asked for"
    finally:
        (ROOT / "pyinfra-debug.log").unlink(missing_ok=True)
        back = serving.run("--limit", PCIE)
    assert back.rc == 0, back.out
    assert serving.token(PCIE)
    assert serving.run("--limit", PCIE).statuses == {PCIE: "unchanged"}
