"""Hosts that are to serve the model of `models`, and what their engines answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metalserve.desired.node import Node
from metalserve.hardware.section import Section
from roles.vllm import desired as role
from tests.roles.helpers import after, make_node
from tests.roles.models import KEY, PUBLISHED, REVISION, referring
from tests.verify.simulated import SimulatedHost

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
DOCKER = {"docker.io": "26.1.5+dfsg1-9", "systemd": "257.9-1"}
UUID = "GPU-0000000{}-0000-0000-0000-000000000000"


def answer(port: int, name: str = "org/model", text: str = "Paris") -> str:
    models = json.dumps({"data": [{"id": name}]})
    completion = json.dumps({"choices": [{"text": text}]})
    return f"@engine {port}\nhealth 200 \nmodels 200 {models}\ncompletion 200 {completion}\n"


def host(
    manifest: str,
    profile: str = "l40s-4",
    engine: dict[str, Any] | None = None,
    sections: dict[str, str | Section] | None = None,
    **more: Any,
) -> Node:
    simulated = SimulatedHost(Path(manifest).parent, profile)
    known = json.loads(Path(simulated.path("profile.json")).read_text())
    for number, slot in enumerate(known["gpus"]):
        slot["uuid"] = UUID.format(number)
    Path(simulated.path("profile.json")).write_text(json.dumps(known))
    return make_node(
        settings={
            "model": {"name": "org/model", "revision": REVISION, "manifest": manifest},
            "engine": engine or {},
        },
        packages=more.pop("packages", DOCKER),
        sections={
            **simulated.sections(),
            "weights-store": PUBLISHED,
            "weights-references": referring("inventory", f"vllm-{KEY}"),
            "model-config": json.dumps(CONFIG),
            "engine-image": "sha256:1234\n",
            **(sections or {}),
        },
        **more,
    )


def serving(node: Node, ports: range, **sections: str) -> Node:
    told = {"engine-answers": "".join(answer(port) for port in ports), **sections}
    wishes = role.install(node), role.configure(node), role.watched(node), role.serve(node)
    return after(node, *wishes, sections=told)
