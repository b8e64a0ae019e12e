"""The schema: what is right is taken, what is wrong is named with key and nearest name, all of it at once."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest

from metalserve.pyinfra_seam.keys import connector_keys
from metalserve.settings import HostSettings, Section, SettingsError
from metalserve.settings.reading import dotted_names, section_in

from .samples import host_data, problems


def test_right_data_is_taken_and_defaults_fill_the_rest() -> None:
    settings = HostSettings.from_data(host_data(), host="gpu-01", source="prod.py")
    assert settings.engine.port == 8000
    assert settings.storage.mount == "/srv/models"
    assert settings.model is not None
    assert settings.model.served_as == "organisation/model"
    assert settings.warnings() == []


def test_only_the_release_is_required() -> None:
    assert problems({}) == ("release: is missing",)
    assert problems({"release": "2026.11-lts"}) == ()


def test_settings_do_not_change() -> None:
    settings = HostSettings(release="r")
    with pytest.raises(pydantic.ValidationError):
        settings.engine.port = 1


def test_every_field_is_documented() -> None:
    def undocumented(schema: type[Section], prefix: str = "") -> list[str]:
        missing = [prefix + name for name, field in schema.model_fields.items() if not field.description]
        for name, field in schema.model_fields.items():
            section = section_in(field.annotation)
            missing += undocumented(section, f"{prefix}{name}.") if section else []
        return missing

    assert undocumented(HostSettings) == []
    assert "engine.tensor_parallel" in set(dotted_names(HostSettings))


UNKNOWN = [
    ({"engine": {"prot": 1}}, "engine.prot: unknown setting (did you mean 'port'?)"),
    ({"engin": {}}, "engin: unknown setting (did you mean 'engine'?)"),
    ({"port": 8001}, "port: unknown setting (did you mean 'staging.port' or 'engine.port'?)"),
    ({"ssh_hostnam": "x"}, "ssh_hostnam: unknown setting (did you mean 'ssh_hostname'?)"),
    ({"_sduo": True}, "_sduo: unknown setting (did you mean '_sudo'?)"),
    ({"cuda": {"zzz": 1}}, "cuda.zzz: unknown setting; known here: toolkit"),
    ({"engine": {"reboot": "auto"}}, "engine.reboot: unknown setting (did you mean 'driver.reboot'?)"),
    (
        {"repositories": {"nvidia": {"keys_by_distro": {"debian13": {"fingerprnt": 1}}}}},
        "repositories.nvidia.keys_by_distro.debian13.fingerprnt: unknown setting (did you mean 'fingerprint'?)",
    ),
    ({"name": "a/b"}, "name: unknown setting (did you mean 'model.name'?)"),
]


@pytest.mark.parametrize(("change", "line"), UNKNOWN)
def test_unknown_keys_name_the_nearest(change: dict[str, Any], line: str) -> None:
    assert line in problems(host_data(**change))


WRONG = [
    ({"engine": {"port": "8000"}}, "engine.port: must be a whole number"),
    ({"engine": {"port": True}}, "engine.port: must be a whole number"),
    ({"engine": {"port": 65536}}, "engine.port: must be at most 65535"),
    ({"engine": {"gpu_memory_utilization": 0}}, "engine.gpu_memory_utilization: must be more than 0"),
    ({"engine": {"gpu_memory_utilization": 90}}, "engine.gpu_memory_utilization: must be at most 1"),
    ({"engine": []}, "engine: must be a dict of settings"),
    ({"engine": {"extra_args": "--seed 1"}}, "engine.extra_args: must be a list"),
    ({"engine": {"extra_args": ["a", 1]}}, "engine.extra_args.1: must be text"),
    ({"engine": {"image_archive": "ftp://x/y"}}, "engine.image_archive: must begin with http:// or https://"),
    ({"base": {"ntp": "yes"}}, "base.ntp: must be True or False"),
    ({"base": {"sysctl": {"vm.swappiness": 1}}}, "base.sysctl.vm.swappiness: must be text"),
    ({"driver": {"modules": "opne"}}, "driver.modules: must be one of 'auto', 'open' or 'proprietary'"),
    ({"driver": {"reboot_timeout_s": 0}}, "driver.reboot_timeout_s: must be more than 0"),
    ({"storage": {"device": "/dev/nvme0n1"}}, "storage.device: must be 'auto', 'none', 'raid0'"),
    ({"storage": {"device": "raid0:ONE"}}, "storage.device: must be 'auto', 'none', 'raid0'"),
    ({"storage": {"device": "raid0:ONE,ONE"}}, "storage.device: names a drive twice"),
    ({"storage": {"erase": ["/dev/nvme0n1"]}}, "storage.erase: must be a list of serial numbers"),
    ({"storage": {"read_ahead_kib": 64}}, "storage.read_ahead_kib: "),
    ({"storage": {"mount": "/etc"}}, "storage.mount: must not be a directory of the system"),
    ({"storage": {"mount": "/srv/../etc"}}, "storage.mount: must be an absolute path without"),
    ({"storage": {"min_free_gib": float("nan")}}, "storage.min_free_gib: must be"),
    ({"container": {"log_max_size": "50"}}, "container.log_max_size: must be a number with k, m or g"),
    ({"model": {"name": "x"}}, "model.name: must be a repository id"),
    ({"model": {"name": "a/b", "revision": "main"}}, "model.revision: must be a commit of 40 hexadecimal digits"),
    ({"release": "../x"}, "release: must be the name of a release"),
    ({"release": None}, "release: must be text"),
]


@pytest.mark.parametrize(("change", "line"), WRONG)
def test_wrong_values_are_told_in_words(change: dict[str, Any], line: str) -> None:
    found = problems(host_data(**change))
    assert any(problem.startswith(line) for problem in found), found


FOUR = {"gpu": "h100-sxm", "count": 4}
CONTRADICTIONS = [
    ({"expect": {"count": 1, "links": "nvswitch"}}, "expect.links: 'nvswitch' joins GPUs, but expect.count is 1"),
    ({"expect": {"links": "pcie", "nvlinks_per_gpu": 18}}, "expect.nvlinks_per_gpu: 18 NVLinks contradict"),
    ({"expect": {"links": "bridge", "nvlinks_per_gpu": 0}}, "expect.nvlinks_per_gpu: 0 links contradict"),
    ({"expect": {"count": 0}}, "model: cannot be served on a host with expect.count 0"),
    ({"expect": {"gpu": "h100-sxn"}}, "expect.gpu: no GPU 'h100-sxn' in the catalogue (did you mean 'h100-sxm'?)"),
    ({"expect": {"gpu": "l40s", "count": 4, "links": "nvswitch"}}, "expect.links: l40s has no NVLink"),
    ({"expect": {"gpu": "h100-nvl", "count": 2, "links": "nvswitch"}}, "expect.links: h100-nvl is not joined by"),
    ({"expect": {"gpu": "h100-sxm", "count": 8, "links": "bridge"}}, "expect.links: h100-sxm is not joined by"),
    ({"expect": {"gpu": "a100-sxm-80", "nvlinks_per_gpu": 18}}, "expect.nvlinks_per_gpu: 18 is more than the 12"),
    ({"expect": FOUR, "engine": {"tensor_parallel": 8}}, "engine.tensor_parallel: tensor_parallel 8 needs 8 GPUs"),
    (
        {"expect": FOUR, "engine": {"tensor_parallel": 2, "pipeline_parallel": 2, "replicas": 2}},
        "engine.tensor_parallel: tensor_parallel 2 x pipeline_parallel 2 x replicas 2 needs 8 GPUs, but expect.count",
    ),
    ({"engine": {"port": 65535, "replicas": 2}}, "engine.port: 2 replicas from 65535 on end past port 65535"),
    ({"engine": {"image_archive_sha256": "0" * 64}}, "engine.image_archive_sha256: is given without"),
    ({"engine": {"extra_args": ["--api-key", "k"]}}, "engine.extra_args: --api-key has a setting of its own"),
    ({"engine": {"extra_args": ["--tensor_parallel_size=2"]}}, "engine.extra_args: --tensor-parallel-size has"),
    ({"storage": {"mount": "/var/lib/docker"}}, "storage.mount: is container.data_root too"),
    ({"expect": {"nvme_count": 0}}, "storage.device: 'auto' needs a drive, but expect.nvme_count is 0"),
    ({"expect": {"gpu": "b200"}, "driver": {"modules": "proprietary"}}, "driver.modules: 'proprietary' modules do not"),
]


@pytest.mark.parametrize(("change", "line"), CONTRADICTIONS)
def test_contradictions_are_refused(change: dict[str, Any], line: str) -> None:
    found = problems(host_data(**change))
    assert any(problem.startswith(line) for problem in found), found


FINE = [
    {"model": None, "engine": {"api_key": {"env": "KEY"}}},
    {"storage": {"device": "none", "filesystem": "ext4"}},
    {"expect": {"gpu": "h100-sxm"}, "driver": {"modules": "proprietary"}},
    {"expect": {"gpu": "b200"}, "driver": {"modules": "open"}},
    {"expect": {"gpu": "h100-sxm", "count": 8}, "engine": {"tensor_parallel": 2, "replicas": 4}},
    {"expect": {"gpu": "h100-nvl", "count": 2, "links": "bridge", "nvlinks_per_gpu": 12}},
    {"expect": {"gpu": "a100-sxm-80", "count": 4, "links": "direct"}},
    {"expect": {"gpu": "h100-nvl", "count": 2, "links": "pcie"}},
    {"engine": {"extra_args": ["--seed", "1", "--enable-expert-parallel"]}},
    {"expect": {"count": 0}, "model": None},
    {"repositories": {"container_toolkit": None}},
]


@pytest.mark.parametrize("change", FINE)
def test_what_looks_odd_but_works_is_taken(change: dict[str, Any]) -> None:
    assert problems(host_data(**change)) == ()


def test_all_problems_come_at_once_contradictions_too() -> None:
    found = problems(
        {
            "releas": "x",
            "expect": {"count": 1, "links": "nvswitch"},
            "engine": {"prot": 1, "port": "a", "tensor_parallel": 3},
            "model": {"name": "a/b"},
        }
    )
    starts = ["releas:", "release:", "engine.prot:", "engine.port:", "model.revision:", "model.manifest:"]
    starts += ["expect.links:", "engine.tensor_parallel:"]
    assert sorted(line.split(" ")[0] for line in found) == sorted(starts)


def test_the_error_is_one_line_a_problem() -> None:
    with pytest.raises(SettingsError) as caught:
        HostSettings.from_data({"release": "r", "a\nb": 1, "engine": {"port": "x"}}, host="h", source="s.py")
    assert len(str(caught.value).splitlines()) == len(caught.value.problems) == 2


def test_pyinfra_s_own_keys_are_left_alone() -> None:
    keys = connector_keys()
    assert {"ssh_hostname", "ssh_password", "_sudo", "_sudo_password", "fake_responses", "_env"} <= keys
    assert not keys & set(HostSettings.model_fields)
    assert problems(host_data(**dict.fromkeys(keys, object()))) == ()


def test_the_key_of_a_repository_can_differ_by_distribution() -> None:
    nvidia = HostSettings(release="r").repositories.nvidia
    assert nvidia.key_for("debian12").fingerprint == "EB693B3035CD5710E231E123A4B469963BF863CC"
    assert nvidia.key_for("debian13").fingerprint == "02182E60104FCDC26EAE1B8597A5D4CB8793F200"
    assert (nvidia.key_for("debian13").url or "").endswith("8793F200.pub")


REPOSITORIES = [
    ({"url": "https://user:hunter2@mirror/x", "key": {"file": "k", "fingerprint": "0" * 40}}, "user name or password"),
    ({"url": "https://m/x", "key": {"file": "k", "fingerprint": "DEADBEEF"}}, "full fingerprint"),
    ({"url": "https://m/x", "key": {"fingerprint": "0" * 40}}, "exactly one of url, file"),
    ({"url": "https://m/x", "components": ["main"], "key": {"file": "k", "fingerprint": "0" * 40}}, "must be empty"),
    ({"url": "https://m/x", "suite": "bookworm", "key": {"file": "k", "fingerprint": "0" * 40}}, "must be given"),
]


@pytest.mark.parametrize(("repository", "words"), REPOSITORIES)
def test_bad_repositories_are_refused(repository: dict[str, Any], words: str) -> None:
    found = problems(host_data(repositories={"nvidia": repository}))
    assert len(found) == 1
    assert words in found[0]
    assert "hunter2" not in found[0]


def test_warnings() -> None:
    data = host_data(
        engine={"image_archive": "http://x/i.tar"},
        driver={"reboot": "never"},
        model={**host_data()["model"], "source": "http://mirror", "hf_token": {"env": "HF_TOKEN"}},
    )
    keys = [line.split(":")[0] for line in HostSettings.from_data(data, host="h", source="s").warnings()]
    assert keys == ["engine.api_key", "engine.image_archive_sha256", "model.hf_token", "driver.reboot"]
    local = HostSettings.from_data(host_data(engine={"host": "127.0.0.1"}), host="h", source="s")
    assert local.warnings() == []


@pytest.mark.parametrize(
    ("listens", "open_"), [("0.0.0.0", True), ("::", True), ("8.8.8.8", True), ("10.0.0.5", False), ("fd00::5", False)]
)
def test_a_key_does_not_close_an_engine_that_all_can_reach(listens: str, open_: bool) -> None:
    data = host_data(engine={"api_key": {"env": "API_KEY"}, "host": listens})
    told = HostSettings.from_data(data, host="h", source="s").warnings()
    assert [line.split(":")[0] for line in told] == ["engine.host"] * open_
    assert all("/invocations" in line for line in told)


GROUP = {"hosts": {"a": "10.0.0.1", "b": "10.0.0.2"}}


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"group": GROUP}, ""),
        ({"group": {**GROUP, "hosts": {"a": "10.0.0.1"}}}, "engine.group.hosts: must name two hosts or more"),
        ({"group": {**GROUP, "hosts": {"a": "10.0.0.1", "b": "node-b"}}}, "must give each host an IP address"),
        ({"group": {**GROUP, "hosts": {"a": "10.0.0.1", "b": "10.0.0.1"}}}, "gives two hosts the same address"),
        ({"group": GROUP, "replicas": 2}, "engine.replicas: 2, but the hosts of a group run one engine together"),
        ({"group": GROUP, "host": "127.0.0.1"}, "engine.host: 127.0.0.1: the other hosts of the group ask the head"),
        ({"group": GROUP, "port": 29502}, "engine.group.master_port: 29501 and the next are the group's own"),
        ({"group": GROUP, "tensor_parallel": 8, "pipeline_parallel": 2}, ""),
        (
            {"group": GROUP, "tensor_parallel": 8, "pipeline_parallel": 4},
            "needs 32 GPUs, but expect.count is 8 on each of 2 hosts",
        ),
        ({"memory_limit": "much"}, "engine.memory_limit: must be a number with m or g"),
    ],
)
def test_groups_of_hosts(engine: dict[str, Any], words: str) -> None:
    found = problems(host_data(engine={"host": "10.0.0.1", **engine}))
    assert len(found) == bool(words)
    assert all(words in line for line in found)


def test_ranks_of_a_group() -> None:
    data = host_data(engine={"host": "10.0.0.1", "group": GROUP})
    group = HostSettings.from_data(data, host="a", source="s").engine.group
    assert group is not None
    assert (group.head, group.head_address, group.rank("b"), group.state_port) == ("a", "10.0.0.1", 1, 29502)
    with pytest.raises(KeyError):
        group.rank("c")
