"""The running lab: what makes its hosts stand for real ones."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.lab import faults, operate
from metalserve.lab.api import Lab
from metalserve.lab.layout import Layout
from metalserve.lab.profiles import load_profile
from metalserve.lab.system import mounts_below, read_json

pytestmark = pytest.mark.lab


def test_all_hosts_have_booted_whole(lab: Lab) -> None:
    for host in lab.hosts:
        done = lab.ssh(host, "systemctl is-system-running; systemctl --failed --no-legend --plain; hostname")
        assert done.stdout.split() == ["running", host], done


def test_a_host_key_that_is_not_the_hosts_is_refused(lab: Lab, tmp_path: Path) -> None:
    host = lab.fleet.hosts[0]
    other = lab.fleet.hosts[1]
    text = lab.layout.known_hosts.read_text()
    key_of_other = re.search(rf"^{other.name},\S+ (.*)$", text, re.MULTILINE)
    assert key_of_other
    wrong = tmp_path / "known_hosts"
    wrong.write_text(f"{host.address} {key_of_other[1]}\n")
    line = [word.replace(str(lab.layout.known_hosts), str(wrong)) for word in operate.ssh_command(lab.layout, host)]
    done = subprocess.run([*line, "true"], capture_output=True, text=True, check=False)
    assert done.returncode == 255
    assert "verification failed" in done.stderr


def test_packages_come_from_the_lab_signed_and_nothing_else_is_reachable(lab: Lab) -> None:
    for host in lab.hosts:
        done = lab.ssh(host, "apt-get update && apt-cache policy docker.io xfsprogs chrony nvme-cli")
        assert done.returncode == 0, done
        assert "W:" not in done.stderr
        assert done.stdout.count("Candidate: (none)") == 0
        addresses = set(re.findall(r"https?://([^/: ]+)", done.stdout))
        assert addresses == {lab.layout.service_address}
    outside = lab.ssh(lab.hosts[0], "timeout 5 curl -sS http://192.0.2.1/ -m 3")
    assert outside.returncode != 0


def test_kernel_settings_of_a_host_are_its_own(lab: Lab) -> None:
    setting = Path("/proc/sys/vm/max_map_count")
    before = setting.read_text()
    first, second = lab.hosts[:2]
    other = lab.ssh(second, f"cat {setting}").stdout
    change = "sysctl -q -w vm.max_map_count=777777"
    back = "sysctl -q -w vm.max_map_count=$old"
    done = lab.ssh(first, f"old=$(cat {setting}); {change} && cat {setting}; {back}")
    assert done.stdout == "777777\n", done
    assert setting.read_text() == before, "the machine's own setting must not move"
    assert lab.ssh(second, f"cat {setting}").stdout == other
    assert (
        lab.ssh(first, "cat /proc/sys/kernel/random/uuid").stdout
        != lab.ssh(first, "cat /proc/sys/kernel/random/uuid").stdout
    )


def test_every_drive_of_the_profile_is_a_block_device_of_some_size(lab: Lab) -> None:
    for host in lab.fleet.hosts:
        wanted = len(load_profile(host.profile)["nvme"])
        listed = lab.ssh(host.name, "ls /dev/nvme*n1").stdout.split()
        assert listed == [f"/dev/nvme{number}n1" for number in range(wanted)]
        for device in listed:
            # reads and the size only: another test may have put models there
            size = lab.ssh(
                host.name, f"blockdev --getsize64 {device} && dd if={device} of=/dev/null count=8 status=none"
            )
            assert size.returncode == 0, size
            assert int(size.stdout) >= 512 * 1024**2


def test_a_reboot_from_inside_comes_back_as_another_boot(lab: Lab) -> None:
    host = lab.hosts[-1]
    boot = "cat /proc/sys/kernel/random/boot_id; ls /run/metalserve-test 2>/dev/null"
    lab.ssh(host, "touch /run/metalserve-test /root/kept")
    before = lab.ssh(host, boot).stdout.split()
    assert before[1:] == ["/run/metalserve-test"]
    boots = read_json(lab.layout.host(host) / "state.json")["boots"]
    lab.ssh(host, "systemctl reboot")
    deadline = time.monotonic() + 60
    while read_json(lab.layout.host(host) / "state.json")["boots"] == boots:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    operate.wait_until_up(lab.layout, [lab.fleet.host(host)])
    after = lab.ssh(host, boot).stdout.split()
    assert len(after) == 1
    assert after[0] != before[0]
    assert lab.ssh(host, "rm /root/kept").returncode == 0, "what is on the disk stays"


def test_power_off_and_on(lab: Lab) -> None:
    host = lab.hosts[-1]
    lab.stop(host)
    assert lab.state(host) == "stopped"
    assert lab.ssh(host, "true").returncode == 255
    lab.start(host)
    assert lab.ssh(host, "systemctl is-system-running").stdout == "running\n"


def test_an_unplugged_host_stays_so_over_a_reboot_until_healed(lab: Lab) -> None:
    host = lab.hosts[-1]
    lab.fault(host, "unreachable")
    try:
        assert lab.state(host) in ("booting", "unreachable")
        lab.reboot(host, wait=False)
        time.sleep(4)
        assert lab.state(host) in ("booting", "unreachable")
        assert [fault["kind"] for fault in lab.faults(host)] == ["unreachable"]
    finally:
        lab.heal(host)
    operate.wait_until_up(lab.layout, [lab.fleet.host(host)])
    assert lab.faults(host) == []


def test_every_outside_fault_is_handled_somewhere() -> None:
    """`unreachable` here, the other two where hosts are recovered from them (test_recover_live, test_reimage_live)."""
    outside = [name for name, kind in faults.KINDS.items() if kind.outside]
    assert outside == ["unreachable", "host-hang", "filesystem-destroyed"]


def test_delay_is_added_and_taken_away(lab: Lab) -> None:
    host = lab.hosts[0]

    def seconds() -> float:
        line = ["timeout", "5", "bash", "-c", f"exec 3<>/dev/tcp/{lab.address(host)}/22; head -c4 <&3"]
        started = time.monotonic()
        subprocess.run(line, check=True, capture_output=True)
        return time.monotonic() - started

    operate.delay(lab.layout, 40)
    try:
        # connecting and the greeting are two round trips; no machine, however busy, is faster than the delay
        delayed = min(seconds() for _ in range(5))
        assert delayed >= 0.08
        blob = lab.ssh(host, "head -c 3000000 /dev/zero | base64 -w0 | md5sum; head -c 3000000 /dev/zero | base64 -w0")
        assert len(blob.stdout) > 4_000_000, "whole frames must pass, large ones too"
    finally:
        operate.delay(lab.layout, 0)
    assert min(seconds() for _ in range(20)) < min(0.08, delayed)


def test_hosts_are_made_bare_again(lab: Lab) -> None:
    first, second = lab.hosts
    for host in (first, second):
        lab.ssh(host, "touch /root/kept; head -c 100000 /dev/urandom > /dev/nvme0n1")
    lab.fault(first, "pcie-downgraded")
    lab.reset(first)
    assert lab.faults(first) == []
    assert lab.ssh(first, "ls /root/kept").returncode != 0
    assert lab.ssh(first, "head -c 100000 /dev/nvme0n1 | tr -d '\\0' | wc -c").stdout == "0\n"
    assert lab.ssh(second, "ls /root/kept").returncode == 0, "only the host that was named"


def test_docker_is_the_real_engine_and_runs_containers(lab: Lab) -> None:
    for host in lab.hosts:
        client = "docker-cli" if "trixie" in lab.ssh(host, "cat /etc/os-release").stdout else ""
        done = lab.ssh(
            host, f"apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy docker.io {client}"
        )
        assert done.returncode == 0, done.stderr
        script = """
            set -e
            docker info --format '{{.Driver}}'
            mkdir -p /tmp/image/bin /tmp/image/lib64 /tmp/image/lib/x86_64-linux-gnu
            cp -L /bin/echo /tmp/image/bin/
            ldd /bin/echo | grep -o '/[^ ]*' | while read -r file; do cp -L --parents "$file" /tmp/image/; done
            tar -C /tmp/image -c . | docker import - lab/echo:1 >/dev/null
            docker run --rm --network host --ipc host --ulimit memlock=-1 lab/echo:1 /bin/echo from a container
        """
        done = lab.ssh(host, script)
        assert done.stdout == "overlay2\nfrom a container\n", done


def test_up_again_changes_nothing_and_is_quick(lab: Lab, fleet: Path) -> None:
    boots = {row["name"]: row["boots"] for row in operate.status(lab.layout)}
    started = time.monotonic()
    lab.up(str(fleet))
    assert time.monotonic() - started < 20
    assert {row["name"]: row["boots"] for row in operate.status(lab.layout)} == boots


def test_another_fleet_or_directory_of_the_same_number_is_refused(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(MetalserveError, match="another fleet is up"):
        lab.up("default")
    intruder = Lab(Layout(tmp_path / "other", lab.layout.lab_id))
    with pytest.raises(MetalserveError, match="another lab with number"):
        intruder.up()
    assert all(lab.state(host) == "up" for host in lab.hosts)


def test_a_crashed_lab_is_put_right_by_the_next_up(lab: Lab, fleet: Path) -> None:
    first, second = lab.hosts
    for host in lab.hosts:
        lab.ssh(host, "touch /root/kept && sync")
    kill(lab, first, "supervisor")
    kill(lab, second, "supervisor", "nspawn")
    os.kill(read_json(lab.layout.root / "service.json")["pid"], signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", lab.layout.namespace], check=True)
    lab.up(str(fleet))
    for host in lab.hosts:
        done = lab.ssh(host, "ls /root/kept && apt-get update && systemctl is-system-running")
        assert done.returncode == 0, done


@pytest.mark.ends_the_lab
def test_down_leaves_nothing_of_a_crashed_lab_and_touches_nothing_else(lab: Lab) -> None:
    kill(lab, lab.hosts[0], "supervisor")
    other = lab.layout.root / "not-the-labs"
    other.write_text("kept")
    layout = lab.layout
    lab.down()
    assert [path.name for path in layout.root.iterdir()] == ["not-the-labs"]
    other.unlink()
    layout.root.rmdir()
    assert not layout.namespace_path.exists()
    assert mounts_below(layout.root) == []
    assert str(layout.root) not in subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
    assert not [path for path in Path("/sys/fs/cgroup").glob(f"**/ms{layout.lab_id}-*") if path.is_dir()]
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"{layout.root}/" not in processes
    assert not Path("/sys/class/net", layout.controller_link).exists()
    assert not layout.lock.exists()
    assert not layout.owner_file.exists()


def kill(lab: Lab, host: str, *names: str) -> None:
    state = read_json(lab.layout.host(host) / "state.json")
    for name in names:
        os.kill(state[name]["pid"], signal.SIGKILL)
