"""Role vllm: a host's part of an engine that several hosts run together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from metalserve.desired.node import Node
from metalserve.desired.observed import ObservedFile
from metalserve.errors import MetalserveError
from metalserve.hardware.machine import Nic
from metalserve.hardware.section import Section
from metalserve.verify.finding import worst
from roles.vllm import desired as role
from roles.vllm.launch import planned
from roles.vllm.paths import BEACON_SOCKET, BEACON_SOCKET_PATH
from tests.roles.engines import answer, host
from tests.roles.helpers import after, changes, unit, with_hardware

ADDRESSES = """\
1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever
2: eno1    inet 192.0.2.7/24 brd 192.0.2.255 scope global eno1\\       valid_lft forever
3: bond0@if9    inet 10.0.0.{last}/24 brd 10.0.0.255 scope global bond0\\       valid_lft forever
"""


def member(
    manifest: str, name: str = "a", profile: str = "h100-sxm-8", hosts: dict[str, str] | None = None, **engine: Any
) -> Node:
    hosts = hosts or {"a": "10.0.0.1", "b": "10.0.0.2"}
    last = hosts.get(name, "10.0.0.9").rpartition(".")[2]
    node = host(
        manifest,
        profile,
        engine={"group": {"hosts": hosts}, **engine},
        sections={"addresses": ADDRESSES.format(last=last)},
    )
    return replace(node, name=name)


def text_of(node: Node) -> str:
    (file,) = role.serve(node).files
    return file.content or ""


def test_head_and_member_run_one_engine(manifest: str) -> None:
    head, second = text_of(member(manifest)), text_of(member(manifest, "b"))
    for text, rank in ((head, 0), (second, 1)):
        assert "--tensor-parallel-size 8 \\\n" in text and "--pipeline-parallel-size 2 \\\n" in text
        assert "--nnodes 2 \\\n" in text and f"--node-rank {rank} \\\n" in text
        assert "--master-addr 10.0.0.1 \\\n" in text and "--master-port 29501" in text
        assert "--env NCCL_SOCKET_IFNAME==bond0 \\\n" in text and "--env GLOO_SOCKET_IFNAME=bond0 \\\n" in text
        assert f"--env VLLM_HOST_IP=10.0.0.{rank + 1} \\\n" in text
        assert "--env NCCL_IB_DISABLE=1 \\\n" in text, "no RDMA device is there"
        # both count as started when the head gives a token
        assert "Environment=MS_ADDRESS=10.0.0.1\n" in text
        assert f"Environment=MS_RANK={rank}\n" in text
    assert "--headless" in second and "--headless" not in head
    assert "MS_LISTEN" in head and "MS_LISTEN" not in second
    assert "Environment=MS_PEERS=b=10.0.0.2\n" in head and "Environment=MS_PEERS=a=10.0.0.1\n" in second
    versions = {line for text in (head, second) for line in text.splitlines() if line.startswith("Environment=MS_VERS")}
    assert len(versions) == 1
    longer = text_of(member(manifest, "b", max_model_len=4096))
    assert not any(line in longer for line in versions), (
        "hosts that are set up for something else do not start together"
    )


def test_rdma_is_used_where_its_port_is_up(manifest: str) -> None:
    node = member(manifest)
    nics = tuple(
        Nic(name=f"mlx5_{i}", address=f"0000:0{i}:00.0", rdma=f"mlx5_{i}", state=state)
        for i, state in enumerate(("up", "down", "up"))
    )
    seen = replace(
        node.observed,
        files={"/dev/infiniband": ObservedFile("/dev/infiniband", "directory", "0755", "root", "root", 0.0)},
    )
    hardware = with_hardware(node.with_observation(seen), lambda h: replace(h, nics_detail=nics))
    text = text_of(hardware)
    assert "--env NCCL_IB_HCA==mlx5_0,mlx5_2 \\\n" in text
    assert "--device /dev/infiniband --cap-add IPC_LOCK \\\n" in text


def test_the_split_may_be_given(manifest: str) -> None:
    node = member(manifest, tensor_parallel=2, pipeline_parallel=2)
    assert node.settings.model is not None
    plan = planned(node, node.settings.model)
    assert plan.gpus_per_replica == ((0, 1),)
    with pytest.raises(MetalserveError, match="cannot be served on this host"):
        role.serve(member(manifest, tensor_parallel=1, pipeline_parallel=3))


def test_three_hosts_are_named_to_the_head(manifest: str) -> None:
    hosts = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}
    text = text_of(member(manifest, hosts=hosts, tensor_parallel=8))
    assert '"MS_PEERS=b=10.0.0.2 c=10.0.0.3"\n' in text
    assert "--pipeline-parallel-size 3 \\\n" in text


def test_a_host_that_is_not_in_its_group_or_not_in_its_network(manifest: str) -> None:
    with pytest.raises(MetalserveError, match="does not name this host; it names a, b") as refused:
        role.serve(member(manifest, "z"))
    assert refused.value.where == "engine.group.hosts"
    node = member(manifest)
    lost = node.with_observation(
        replace(node.observed, sections={**node.observed.sections, "addresses": Section(ADDRESSES.format(last=8))})
    )
    with pytest.raises(MetalserveError, match=r"gives this host 10.0.0.1.*it has 192.0.2.7 \(eno1\), 10.0.0.8"):
        role.serve(lost)


def test_a_run_begins_each_part_and_waits_only_in_the_proof(manifest: str) -> None:
    node = member(manifest)
    wanted = changes(role.serve(node), node)
    assert "unit metalserve-vllm-0.service: absent -> enable" in wanted
    assert wanted[-2].startswith("begin engine 0")
    done = after(node, role.install(node), role.configure(node), role.watched(node), role.serve(node))
    name = "metalserve-vllm-0.service"
    starting = {**done.observed.units, name: unit(name, active="activating", started=None)}
    waiting = done.with_observation(replace(done.observed, units=starting))
    assert changes(role.serve(waiting), waiting) == []
    assert worst(role.check(waiting)) == "fail"
    # while it is being replaced it may be seen between its stop and its start
    name_of_replacing = "metalserve-vllm-replace.service"
    stopped = {**starting, name: unit(name, active="inactive"), name_of_replacing: unit(name_of_replacing)}
    between = done.with_observation(replace(done.observed, units=stopped))
    assert changes(role.serve(between), between) == []
    answers = {**waiting.observed.sections, "engine-answers": Section(answer(8000))}
    ready = waiting.with_observation(replace(waiting.observed, sections=answers))
    assert worst(role.check(ready)) == "ok"
    assert role.ready_within_s(ready) == 1800


def test_a_part_is_replaced_in_step_and_the_proof_tells_when_it_went_back(manifest: str) -> None:
    node = member(manifest)
    done = after(node, role.install(node), role.configure(node), role.watched(node), role.serve(node))
    name = "metalserve-vllm-0.service"
    running = {**done.observed.units, name: unit(name)}
    told = {**done.observed.sections, "engine-answers": Section(answer(8000))}
    seen = replace(done.observed, units=running, sections=told)
    new = replace(member(manifest, max_model_len=4096), observed=seen)
    assert changes(role.serve(new), new)[1:] == [
        "replace this host's part of the engine, in step with the other hosts of the group"
    ]
    # the old one answers again, its unit is back
    sections = {**told, "engine-refused": Section("ValueError: too long; the one before serves again\n")}
    back = new.with_observation(replace(seen, sections=sections))
    bad = [f for f in role.check(back) if f.failing]
    assert [f.observed for f in bad] == ["ValueError: too long; the one before serves again"]


def test_the_beacon_listens_to_the_group_alone_and_goes_with_it(manifest: str) -> None:
    node = member(manifest)
    wish = role.watched(node)
    socket = next(f.content or "" for f in wish.files if f.path == BEACON_SOCKET_PATH)
    assert "ListenStream=10.0.0.1:29502\n" in socket
    assert "IPAddressAllow=localhost 10.0.0.1 10.0.0.2\nIPAddressDeny=any\n" in socket
    assert BEACON_SOCKET in [u.name for u in wish.units]
    done = after(node, wish)
    alone = replace(host(manifest), observed=done.observed)
    assert "remove the beacon: the host is in no group" in changes(role.watched(alone), alone)


def test_what_a_group_refuses(manifest: str) -> None:
    with pytest.raises(MetalserveError, match=r"cannot be served on this host: .*heads"):
        role.serve(member(manifest, tensor_parallel=3, pipeline_parallel=2))
    with pytest.raises(MetalserveError, match=r"\(2 hosts\), of .* usable; the KV cache holds 0 tokens"):
        role.serve(member(manifest, gpu_memory_utilization=0.02))
