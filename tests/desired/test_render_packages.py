"""Rendered scripts are run for real, with dash and bash: packages, units and the keys of repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from metalserve.desired.diff import Change, difference
from metalserve.desired.model import Desired, File, Package, SigningKey, Unit
from metalserve.desired.observed import Observation
from metalserve.desired.render import render
from tests.desired.rendered import changes, shells
from tests.desired.shells import function_call, run_script, tool, with_tools


class TestPackages:
    """apt-get and dpkg are stand-ins here; the real ones are met in the lab."""

    @shells
    def test_versions_are_resolved_before_anything_is_installed(self, shell: str, tmp_path: Path) -> None:
        tools, log = tmp_path / "tools", tmp_path / "log"
        tool(tools, "dpkg", "exit 0")
        tool(tools, "apt-get", f'echo "$*" >>{log}')
        tool(
            tools,
            "apt-cache",
            'for v in 590.1-1 2:580.178.04-1 580.178.041-1; do echo " driver | $v | http://x"; done',
        )
        desired = Desired(packages=(Package("driver", "580.178.04"), Package("plain"), Package("old", present=False)))
        observed = Observation(packages={})
        found = [
            *difference(desired, observed),
            Change(Package("old", present=False), "package old: 1 -> removed"),
        ]
        script = with_tools(render(found), tools)
        done = run_script(script, shell, tmp_path / "run")
        assert done.rc == 0, done.out
        calls = log.read_text().splitlines()
        assert calls[0].endswith(" update")
        assert calls[1].split()[-2:] == ["purge", "old"]
        assert calls[2].endswith("driver=2:580.178.04-1 plain")
        assert len(calls) == 3  # one transaction, whatever the number of packages

    @shells
    def test_a_version_the_repositories_do_not_have_is_told_with_what_they_have(
        self, shell: str, tmp_path: Path
    ) -> None:
        tools, log = tmp_path / "tools", tmp_path / "log"
        tool(tools, "dpkg", "exit 0")
        tool(tools, "apt-get", f'echo "$*" >>{log}')
        tool(
            tools,
            "apt-cache",
            """for v in 570.1-1 580.95.05-1 580.178.03-1~rc1 580.178.03-1; do
echo " driver | $v | http://mirror.invalid/nvidia/debian12 ./ Packages"; done
echo " driver | 580.95.05-1 | http://other.invalid stable/main amd64 Packages"
""",
        )
        wish = Desired(packages=(Package("driver", "580.178.04"),))
        removed = Change(Package("old", present=False), "package old: 1 -> removed")
        done = run_script(with_tools(render([*changes(wish), removed]), tools), shell, tmp_path / "run")
        assert done.rc == 1
        assert done.steps[-1] == "packages driver=580.178.04"
        assert done.out.splitlines()[-1] == (
            "the host's repositories have no driver 580.178.04; they have: 580.178.03-1, 580.178.03-1~rc1, "
            "580.95.05-1, 570.1-1 (in http://mirror.invalid/nvidia/debian12, http://other.invalid) "
            "-> check the release and repositories.nvidia.url"
        )
        assert [line.split()[-1] for line in log.read_text().splitlines()] == ["update"], "nothing else was done"

    @shells
    def test_all_versions_that_are_missing_are_told(self, shell: str, tmp_path: Path) -> None:
        tools, log = tmp_path / "tools", tmp_path / "log"
        tool(tools, "dpkg", "exit 0")
        tool(tools, "apt-get", f'echo "$*" >>{log}')
        tool(
            tools,
            "apt-cache",
            '[ "$2" = gone ] || for v in 1.10 1.9 1:1.2; do echo " $2 | $v | http://x ./ Packages"; done',
        )
        wish = Desired(packages=(Package("gone", "3"), Package("driver", "2"), Package("here", "1.9"), Package("any")))
        done = run_script(with_tools(render(changes(wish)), tools), shell, tmp_path / "run")
        assert done.rc == 1
        assert "the host's repositories have no gone 3; they have: no version of it -> check" in done.out
        assert (
            "the host's repositories have no driver 2; they have: 1:1.2, 1.10, 1.9 (in http://x) -> check" in done.out
        )
        assert done.out.splitlines()[-1] == (
            "the host's repositories lack 2 packages of the release: gone 3, driver 2 (what they have stands above) "
            "-> check the release and repositories.nvidia.url"
        )
        assert "install" not in log.read_text()

    @shells
    def test_a_package_that_no_repository_has_is_told_with_what_is_near_it(self, shell: str, tmp_path: Path) -> None:
        tools = tmp_path / "tools"
        tool(tools, "dpkg", "exit 0")
        tool(
            tools,
            "apt-get",
            '[ "$(eval echo "\\${$#}")" = update ] || { echo "E: Unable to locate package"; exit 100; }',
        )
        tool(
            tools,
            "apt-cache",
            'case $1 in pkgnames) for v in 580 580.9.1 580.178.04; do echo "pin-$v"; done ;; show) exit 100 ;; esac',
        )
        done = run_script(
            with_tools(render(changes(Desired(packages=(Package("pin-580.200.01"),)))), tools), shell, tmp_path / "run"
        )
        assert done.rc == 1
        assert done.out.splitlines()[-1] == (
            "the host's repositories have no package pin-580.200.01; near it they have: "
            "pin-580.178.04 pin-580.9.1 pin-580 -> check the release and the repositories"
        )

    @shells
    def test_a_long_list_of_versions_is_cut(self, shell: str, tmp_path: Path) -> None:
        offers = function_call('for n in $(seq 20); do echo " p | 1.$n | http://x ./ Packages"; done | ms_offers')
        done = run_script(offers, shell, tmp_path / "run")
        assert done.out.strip() == f"{', '.join(f'1.{n}' for n in range(20, 8, -1))} and 8 older (in http://x)"
        assert run_script(function_call("printf '\\nN: nothing\\n' | ms_offers"), shell, tmp_path / "run").out == ""

    @shells
    def test_a_lock_of_another_process_is_waited_for(self, shell: str, tmp_path: Path) -> None:
        tools, count = tmp_path / "tools", tmp_path / "count"
        tool(
            tools,
            "apt-get",
            f"""n=$(cat {count} 2>/dev/null || echo 0); echo $((n+1)) >{count}
if [ "$n" -lt 2 ]; then
  echo "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 77 (unattended-upgr)"; exit 100; fi
echo "Setting up x (1)"
""",
        )
        tool(tools, "sleep", "exit 0")
        done = run_script(function_call("ms_apt install x", tools, lock_timeout_s=30), shell, tmp_path / "run")
        assert done.rc == 0, done.out
        assert done.out.count("waiting for the apt lock: held by process 77 (unattended-upgr)") == 2
        assert "Setting up x" in done.out

    @shells
    def test_a_lock_that_is_never_given_back_ends_with_its_holder(self, shell: str, tmp_path: Path) -> None:
        tools = tmp_path / "tools"
        message = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 5 (apt-get)"
        tool(tools, "apt-get", f'echo "{message}"; exit 100')
        done = run_script(function_call("ms_apt update", tools, lock_timeout_s=1), shell, tmp_path / "run")
        assert done.rc == 1
        assert "apt is locked: held by process 5 (apt-get) after 1 s -> wait for it" in done.out
        assert not list((tmp_path / "run").glob("apt.*"))

    @shells
    def test_another_failure_is_not_taken_for_a_lock(self, shell: str, tmp_path: Path) -> None:
        tools = tmp_path / "tools"
        tool(tools, "apt-get", 'echo "E: Unable to locate package nope"; exit 100')
        tool(tools, "dpkg", "exit 0")
        script = with_tools(render(changes(Desired(packages=(Package("nope"),)))), tools)
        done = run_script(script, shell, tmp_path / "run")
        assert done.rc == 1
        assert "E: Unable to locate package nope" in done.out
        assert "waiting" not in done.out

    @shells
    def test_dpkg_left_half_way_is_healed_first(self, shell: str, tmp_path: Path) -> None:
        tools, log = tmp_path / "tools", tmp_path / "log"
        tool(
            tools,
            "dpkg",
            f'echo "dpkg $*" >>{log}; [ "$1" = --audit ] && echo "The following packages are broken"; exit 0',
        )
        tool(tools, "apt-get", f'echo "apt $*" >>{log}')
        script = with_tools(render(changes(Desired(packages=(Package("x"),)))), tools)
        assert run_script(script, shell, tmp_path / "run").rc == 0
        assert log.read_text().splitlines()[:2] == ["dpkg --audit", "dpkg --configure -a"]


class TestUnits:
    def test_one_reload_before_all_units(self) -> None:
        desired = Desired(
            files=(File("/etc/systemd/system/a.service", "[Unit]\n"),),
            units=(Unit("a.service"), Unit("b.service"), Unit("c.timer", masked=True)),
        )
        live = Observation(facts={"live": "1"})
        script = render(list(difference(desired, live)))
        body = script[script.rindex("\n(\n") :]
        assert body.index("daemon-reload") < body.index("systemctl -q enable a.service")
        assert body.count("systemctl daemon-reload") == 2  # once for all, once after the mask
        assert "systemctl start b.service ||" in body
        assert "ln -sfT /dev/null /etc/systemd/system/c.timer" in body

    def test_a_unit_file_alone_is_reloaded_too(self) -> None:
        desired = Desired(files=(File("/etc/systemd/system/a.service", "[Unit]\n"),))
        assert render(changes(desired)).count("systemctl daemon-reload") == 1


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Make a throw-away OpenPGP key: {"fingerprint", "armoured", "binary"}."""
    home = tmp_path_factory.mktemp("gnupg")
    home.chmod(0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--pinentry-mode", "loopback", "--passphrase", ""]
    made = subprocess.run([*gpg, "--quick-gen-key", "test", "ed25519", "sign", "never"], capture_output=True)
    assert made.returncode == 0, made.stderr
    listed = subprocess.run([*gpg, "--list-keys", "--with-colons"], capture_output=True, text=True, check=True).stdout
    fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
    export = [*gpg, "--export"]
    binary = subprocess.run(export, capture_output=True, check=True).stdout
    armoured = subprocess.run([*export, "--armor"], capture_output=True, check=True).stdout
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
    return {"fingerprint": fingerprint.encode(), "binary": binary, "armoured": armoured}


class TestKeys:
    @shells
    def test_installed_only_with_the_expected_fingerprint(
        self, shell: str, tmp_path: Path, keys: dict[str, bytes]
    ) -> None:
        target = tmp_path / "metalserve-x.asc"
        call = f"cat {tmp_path}/key | ms_key {target} "
        (tmp_path / "key").write_bytes(keys["armoured"])
        # ms_put gives it to root; whoever runs the tests stands for root here
        fix = f"chown() {{ :; }}\n{call}"
        refused = run_script(function_call(fix + "A" * 40), shell, tmp_path / "run")
        assert refused.rc == 1
        assert f"fingerprint(s) '{keys['fingerprint'].decode()} ', expected {'A' * 40}" in refused.out
        assert not target.exists()
        taken = run_script(function_call(fix + keys["fingerprint"].decode()), shell, tmp_path / "run")
        assert taken.rc == 0, taken.out
        assert target.read_bytes() == keys["armoured"]
        assert not list((tmp_path / "run").glob("key.*"))

    @shells
    def test_a_binary_key_is_armoured_so_that_apt_reads_it_as_asc(
        self, shell: str, tmp_path: Path, keys: dict[str, bytes]
    ) -> None:
        target = tmp_path / "metalserve-x.asc"
        (tmp_path / "key").write_bytes(keys["binary"])
        call = f"chown() {{ :; }}\ncat {tmp_path}/key | ms_key {target} {keys['fingerprint'].decode()}"
        done = run_script(function_call(call), shell, tmp_path / "run")
        assert done.rc == 0, done.out
        assert target.read_text().startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
        shown = subprocess.run(
            ["gpg", "--show-keys", "--with-colons", str(target)], capture_output=True, text=True, check=True
        )
        assert keys["fingerprint"].decode() in shown.stdout

    @shells
    def test_what_is_no_key_is_refused(self, shell: str, tmp_path: Path) -> None:
        target = tmp_path / "metalserve-x.asc"
        done = run_script(function_call(f"echo '<html>' | ms_key {target} {'A' * 40}"), shell, tmp_path / "run")
        assert done.rc == 1
        assert "fingerprint(s) 'none'" in done.out

    @shells
    def test_a_failed_download_is_not_told_as_a_wrong_fingerprint(self, shell: str, tmp_path: Path) -> None:
        tools = tmp_path / "tools"
        tool(tools, "curl", 'echo "curl: (6) Could not resolve host: nowhere" >&2; exit 6')
        key = SigningKey("/etc/apt/keyrings/metalserve-x.asc", "A" * 40, url="https://nowhere/key.asc")
        script = with_tools(render(changes(Desired(keys=(key,)))), tools)
        done = run_script(script, shell, tmp_path / "run")
        assert done.rc == 1
        assert done.out.splitlines()[-1].startswith("could not fetch the repository key -> check repositories")
        assert "curl: (6)" in done.out and "fingerprint(s)" not in done.out
