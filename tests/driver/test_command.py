"""`metalserve driver plan`, as a user calls it: without a host, with one over the seam, with a kept observation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metalserve.cli import main
from metalserve.paths import ROOT
from tests.roles.helpers import lspci
from tests.seam.conftest import Seam, seam

__all__ = ["seam"]

LTS = ("--release", "2026.11-lts")
B200 = ("driver", "plan", "--os", "ubuntu-24.04", "--gpu", "8xB200", *LTS)


def answer(os_id: str = 'ID=ubuntu\nVERSION_ID="24.04"', *, modules: str = "nouveau", **facts: str) -> str:
    """What a host with eight H100 and NVSwitches answers to the observation."""
    told = {"uid": "0", "arch": "x86_64", "kernel": "6.8.0-90-generic", "live": "1", "secure_boot": "0", **facts}
    return "\n".join(
        [
            "@@ms:facts",
            *(f"{k}={v}" for k, v in {**told, "virt": "none", "hostname": "gpu-a"}.items()),
            "@@ms:os-release",
            os_id,
            *(f"@@ms:{name}" for name in ("packages", "files", "units", "sysctls", "keys")),
            f"@@ms:lspci\n{lspci(['2330'] * 8, switches=4)}\n@@rc:0",
            f"@@ms:modules\n{modules}\n@@rc:0",
            "@@ms:end",
        ]
    )


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*B200]) == 0
    out = capsys.readouterr().out
    assert out.startswith("8 x b200 on ubuntu-24.04 x86_64, release 2026.11-lts\n")
    assert "branch 580, 580.178.04; open kernel modules, built by DKMS" in out
    assert re.search(r"fabric +nvidia-fabricmanager +580\.178\.04\n", out)
    assert "- open: b200 needs them [1]" in out and "\n[1] NVIDIA" in out
    assert "apt-get install -y nvidia-driver-pinning-580.178.04" in out
    assert "planned only" not in out and "warning" not in out


def test_the_page_and_the_json_have_the_same_keys(capsys: pytest.CaptureFixture[str]) -> None:
    data = as_json(capsys, *B200)
    page = (ROOT / "docs" / "driver-plan-schema.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| (.+) \|$", page, re.MULTILINE))
    assert list(rows) == list(data)
    assert data["schema"] == 1
    for key in ("origin", "kept", "cuda"):
        assert set(re.findall(r"`(\w+)`", rows[key])) >= set(data[key])
    for key in ("gpus", "packages", "reasons", "steps"):
        assert set(re.findall(r"`(\w+)`", rows[key])) >= set(data[key][0])
    distro = as_json(capsys, "driver", "plan", "--os", "debian-13", "--gpu", "2xL40S", "--source", "distro")
    assert set(re.findall(r"`(\w+)`", rows["preferences"])) == set(distro["preferences"][0])


def test_distro_and_secure_boot_are_options(capsys: pytest.CaptureFixture[str]) -> None:
    distro = as_json(
        capsys, "driver", "plan", "--os", "Debian 13", "--gpu", "2xL40S", "--source", "distro", "--modules", "open"
    )
    assert (distro["source"], distro["version"], distro["module_file"]) == ("distro", None, "nvidia-current-open")
    assert distro["planned_only"] or distro["steps"]
    signed = as_json(
        capsys,
        *B200[:4],
        "--gpu",
        "2xL40S",
        "--secure-boot",
        "--kernel",
        "6.8.0-90-generic",
        "--release",
        "2026.11-lts",
    )
    assert (signed["source"], signed["signed"], signed["build"]) == ("distro", True, "precompiled")


def test_arm64_is_taken_for_grace_and_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert as_json(capsys, "driver", "plan", "--os", "ubuntu-24.04", "--gpu", "GB200", *LTS)["arch"] == "aarch64"
    found = as_json(capsys, "driver", "plan", "--os", "ubuntu-24.04", "--gpu", "L4", "--arch", "arm64", *LTS)
    assert found["origin"]["url"].endswith("/ubuntu2404/sbsa") and found["planned_only"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--os", "ubuntu-24.10", "--gpu", "B200"], "did you mean 'ubuntu-24.04'?"),
        (["--os", "ubuntu-24.04", "--gpu", "8xB20"], "did you mean 'b200'?"),
        (["--os", "ubuntu-24.04", "--gpu", "8xA100"], "may be a100-sxm-40 or a100-sxm-80 or"),
        (["--os", "ubuntu-24.04", "--gpu", "99xB200"], "99 GPUs in one host"),
        (["--os", "ubuntu-24.04", "--gpu", "B200", "--release", "2026.11-ltss"], "did you mean '2026.11-lts'?"),
        (["--os", "ubuntu-24.04", "--gpu", "B200", "--arch", "arm65"], "did you mean"),
        (["--os", "debian-12", "--gpu", "B200", "--secure-boot"], "Enroll MOK"),
        (["--os", "debian-12", "--gpu", "B200", "--modules", "proprietary"], "open kernel modules only"),
        (["--os", "debian-12", "--gpu", "10de:ffff"], "not in the catalogue"),
        (["no-such-file"], "add --inventory"),
    ],
)
def test_refused_in_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["driver", "plan", *arguments, "--json"]) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert words in told.err


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["driver", "plan", "--os", "debian-12"]) == 2
    assert main(["driver", "plan", "gpu-a", "--inventory", "x.py", "--gpu", "B200"]) == 2
    assert "without a host" in capsys.readouterr().err


def test_a_kept_observation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gpu-a.txt"
    file.write_text(answer())
    data = as_json(capsys, "driver", "plan", str(file), *LTS)
    assert (data["host"], data["kernel"]) == ("gpu-a", "6.8.0-90-generic")
    assert data["gpus"] == [{"id": "h100-sxm", "pci_id": "2330", "name": "NVIDIA H100 80GB HBM3", "count": 8}]
    assert [s["what"] for s in data["steps"] if s["stops_gpus"]] == ["reboot"]  # nouveau holds the GPUs
    file.write_text(answer()[:200])
    assert main(["driver", "plan", str(file)]) == 1
    assert "broke off" in capsys.readouterr().err


def metalserve(seam: Seam, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "metalserve", "driver", "plan", *arguments, "--inventory", str(seam.inventory)],
        cwd=ROOT,
        env=seam.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_host_is_observed_in_one_session_with_its_own_settings(seam: Seam) -> None:
    settings = {"driver": {"modules": "proprietary"}}
    seam.hosts({"@fake/gpu-a": {**seam.fake(answer(modules="")), **settings}, "@fake/b": seam.fake("nonsense")})
    done = metalserve(seam, "@fake/gpu-a", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert (data["host"], data["release"], data["modules"]) == ("@fake/gpu-a", "2026.11-lts", "proprietary")
    assert [p["name"] for p in data["packages"] if p["part"] == "fabric"] == ["nvidia-fabricmanager", "libnvidia-nscq"]
    assert any(s["what"] == "load the modules" for s in data["steps"])


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("@fake/b", "observation"),
        ("@fake/c", "no such host or group"),
        ("nodes", "names several hosts"),
        ("@fake/arch", "no NVIDIA packages are known for arch-rolling"),
    ],
)
def test_a_host_that_cannot_be_planned_for_is_told_in_one_line(seam: Seam, host: str, words: str) -> None:
    other = seam.fake(answer("ID=arch\nVERSION_ID=rolling"))
    seam.hosts({"@fake/a": seam.fake(answer()), "@fake/b": seam.fake("nonsense"), "@fake/arch": other})
    done = metalserve(seam, host)
    assert done.returncode == 1 and done.stdout == ""
    assert words in done.stderr and done.stderr.count("\n") == 1, done.stderr
