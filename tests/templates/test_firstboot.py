"""What a template carries for its first boot: the files of a specification, and the scripts in a sandbox."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from metalserve.paths import FILES
from metalserve.templates.firstboot import SOURCE, UNVERIFIED, first_boot_files
from metalserve.templates.spec import TemplateSpec, known_specs, load_spec
from roles.vllm import paths


def spec(base: str = "debian-13-base", **first_boot: Any) -> TemplateSpec:
    found = load_spec(base)
    return found.model_copy(update={"first_boot": found.first_boot.model_copy(update=first_boot)})


@pytest.mark.parametrize("name", known_specs())
def test_every_template_gives_its_nodes_an_identity(name: str) -> None:
    files = first_boot_files(load_spec(name))
    assert files["/etc/machine-id"] == (0o444, "")
    assert files["/usr/local/lib/metalserve/first-boot"][0] == 0o755
    assert UNVERIFIED in files
    assert not any("@" in text.replace("ssh://", "") for path, (_, text) in files.items() if path.endswith(".service"))
    wanted = files["/etc/systemd/system/multi-user.target.d/50-metalserve.conf"][1]
    assert "metalserve-first-boot.service" in wanted
    assert all(path.startswith("/") and mode in (0o644, 0o755, 0o444) for path, (mode, _) in files.items())


def test_the_engines_gate_and_role_know_the_same_mark() -> None:
    assert paths.UNVERIFIED == UNVERIFIED
    assert f"MS_UNVERIFIED:-{UNVERIFIED}}}" in (FILES / "vllm" / "gate.sh").read_text()


def test_cloud_init_probes_nothing_and_sets_no_locale() -> None:
    files = first_boot_files(spec())
    config = yaml.safe_load(files["/etc/cloud/cloud.cfg.d/90-metalserve.cfg"][1])
    assert config["datasource_list"] == ["NoCloud", None] or config["datasource_list"] == ["NoCloud", "None"]
    assert config["locale"] is False and config["growpart"]["devices"] == ["/"]
    # the installer made them on this disk, and told the controller
    assert config["ssh_deletekeys"] is False
    assert "MS_GROW=no" in files["/etc/systemd/system/metalserve-first-boot.service"][1]
    bare = first_boot_files(spec(cloud_init=False))
    assert not any(path.startswith("/etc/cloud") for path in bare)
    assert "MS_GROW=yes" in bare["/etc/systemd/system/metalserve-first-boot.service"][1]


def test_the_network_and_pull_mode_are_only_there_when_asked_for() -> None:
    dhcp = first_boot_files(spec())
    assert "DHCP=yes" in dhcp["/etc/systemd/network/80-metalserve-wired.network"][1]
    assert not any("converge" in path for path in dhcp)
    none = first_boot_files(spec(network="none", converge=True))
    assert not any(path.startswith("/etc/systemd/network") for path in none)
    assert none["/usr/local/lib/metalserve/converge"][0] == 0o755
    wants = none["/etc/systemd/system/multi-user.target.d/50-metalserve.conf"][1]
    assert "metalserve-converge.service" in wants and "networkd" not in wants


def test_the_identity_comes_before_what_runs_early_without_a_cycle() -> None:
    unit = first_boot_files(spec())["/etc/systemd/system/metalserve-first-boot.service"][1]
    # nvmefc-boot-connections.service runs before local-fs-pre.target, and so before sysinit.target
    assert "Before=nvmefc-boot-connections.service" in unit and "DefaultDependencies=no" in unit.splitlines()


def test_host_keys_are_made_before_sshd_tests_its_configuration() -> None:
    lines = first_boot_files(spec())["/etc/systemd/system/ssh.service.d/50-metalserve.conf"][1].splitlines()
    starts = [line for line in lines if line.startswith("ExecStartPre=")]
    assert starts == ["ExecStartPre=", "ExecStartPre=/usr/bin/ssh-keygen -A", "ExecStartPre=/usr/sbin/sshd -t"]


def run(script: str, root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": f"{root}/bin:/usr/bin:/bin:/usr/sbin:/sbin", "MS_ROOT": str(root), **environment}
    return subprocess.run(["sh", SOURCE / script], env=variables, capture_output=True, text=True, check=False)


def test_nvme_hosts_get_names_of_their_own_and_keep_them(tmp_path: Path) -> None:
    names = set()
    for root in (tmp_path / "a", tmp_path / "b"):
        (root / "etc/nvme").mkdir(parents=True)
        (root / "proc/sys/kernel/random").mkdir(parents=True)
        (root / "proc/sys/kernel/random/uuid").write_text(Path("/proc/sys/kernel/random/uuid").read_text())
        assert run("first-boot.sh", root).returncode == 0
        nqn = (root / "etc/nvme/hostnqn").read_text().strip()
        assert nqn == f"nqn.2014-08.org.nvmexpress:uuid:{(root / 'etc/nvme/hostid').read_text().strip()}"
        assert run("first-boot.sh", root).stdout == ""
        assert (root / "etc/nvme/hostnqn").read_text().strip() == nqn
        names.add(nqn)
    assert len(names) == 2


class Pull:
    """A node that converges itself, with a pyinfra that only notes what it was asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkout = root / "checkout"
        (self.checkout / ".venv/bin").mkdir(parents=True)
        pyinfra = self.checkout / ".venv/bin/pyinfra"
        pyinfra.write_text(
            '#!/bin/sh\nprintf "%s\\n" "$PWD" "$PYTHONPATH" "$@" >"$MS_ROOT/asked"; cat "$2" >"$MS_ROOT/inventory"\n'
            'exit "${PYINFRA_STATUS:-0}"\n'
        )
        pyinfra.chmod(0o755)
        (root / "etc/metalserve").mkdir(parents=True)
        (root / "etc/metalserve/node.json").write_text('{"release": "2026.11-production"}')

    def run(self, **told: str) -> subprocess.CompletedProcess[str]:
        return run("converge.sh", self.root, **told)

    @property
    def converged(self) -> bool:
        return (self.root / "var/lib/metalserve/converged").exists()


@pytest.fixture
def pull(tmp_path: Path) -> Pull:
    return Pull(tmp_path)


def test_a_node_converges_itself_from_a_checkout(pull: Pull) -> None:
    done = pull.run(MS_SOURCE=str(pull.checkout))
    assert done.returncode == 0, done.stderr
    inventory = f"{pull.root}/run/metalserve/converge/inventory.py"
    told = [str(pull.checkout), str(pull.checkout), "-y", inventory, "deploys/gpu_node.py"]
    assert (pull.root / "asked").read_text().splitlines() == told
    found: dict[str, Any] = {}
    exec((pull.root / "inventory").read_text(), found)
    assert found["hosts"] == [("@local", {"release": "2026.11-production"})]
    assert pull.converged


def test_a_node_converges_itself_from_a_bundle_of_the_named_hash_only(pull: Pull) -> None:
    bundle = pull.root / "bundle.tar"
    with tarfile.open(bundle, "w") as tar:
        for name in (".venv/bin/pyinfra",):
            tar.add(pull.checkout / name, name)
    digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
    wrong = pull.run(MS_BUNDLE=str(bundle), MS_BUNDLE_SHA256="0" * 64)
    assert wrong.returncode == 1 and f"has SHA-256 {digest}, not 000" in wrong.stderr
    assert not (pull.root / "asked").exists() and not pull.converged
    unnamed = pull.run(MS_BUNDLE=str(bundle))
    assert unnamed.returncode == 1 and "its hash must be named" in unnamed.stderr
    done = pull.run(MS_BUNDLE=str(bundle), MS_BUNDLE_SHA256=digest)
    assert done.returncode == 0, done.stderr
    assert (pull.root / "asked").read_text().startswith(f"{pull.root}/opt/metalserve/{digest[:12]}\n")
    assert pull.converged


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "neither MS_SOURCE nor MS_BUNDLE names a checkout"),
        ({"MS_SOURCE": "/nowhere"}, "neither MS_SOURCE nor MS_BUNDLE"),
        ({"MS_SOURCE": "checkout", "PYINFRA_STATUS": "2"}, "pyinfra ended with 2"),
    ],
)
def test_a_node_that_did_not_converge_says_so_and_is_not_done(pull: Pull, told: dict[str, str], words: str) -> None:
    if told.get("MS_SOURCE") == "checkout":
        told = {**told, "MS_SOURCE": str(pull.checkout)}
    done = pull.run(**told)
    assert done.returncode == 1 and done.stderr.startswith("metalserve: not converged: ") and words in done.stderr
    assert not pull.converged
