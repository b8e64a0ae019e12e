"""`vllm serve`, SIMULATED: arguments, weights, start-up log and signals of the real one; no GPU and no model behind.

Environment: METALSERVE_LAB_LOAD_SECONDS (how long loading takes, default 2), METALSERVE_LAB_TOKEN_SECONDS (time a
token, default 0.002), METALSERVE_LAB_GPU_MEMORY_MIB (memory a GPU, default 81559), VLLM_STANDIN_FLAGS (the release's
flag file).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .api import Server
from .arguments import build_parser, non_default
from .devices import hold_gpus, visible_gpus
from .engine import Engine, Settings, fault
from .group import GroupError, join
from .metrics import Metrics
from .weights import LoadError, Model, open_model, read_weights

BANNER = "SIMULATED: this is metalserve's stand-in for vLLM; no model runs and no GPU is used"


def _log(source: str, text: str, level: str = "INFO") -> None:
    stamp = time.strftime("%m-%d %H:%M:%S")
    print(f"({source} pid={os.getpid()}) {level} {stamp} [standin.py:1] {text}", flush=True)


class StartError(Exception):
    """vLLM would end with this line and status 1."""


def check_placement(parsed: argparse.Namespace, model: Model) -> int:
    """Return the GPUs that the engine needs; raises StartError where vLLM refuses."""
    text = model.config.get("text_config", model.config)
    heads, tensor = int(text.get("num_attention_heads", 1)), parsed.tensor_parallel_size
    if heads % tensor:
        raise StartError(
            f"ValueError: Total number of attention heads ({heads}) must be divisible by tensor parallel size "
            f"({tensor})."
        )
    world: int = tensor * parsed.pipeline_parallel_size
    have = visible_gpus()
    if have == 0:
        raise StartError("RuntimeError: Failed to infer device type: no GPU was passed to this container (SIMULATED)")
    if have is None:
        _log("APIServer", "SIMULATED: no GPU was passed to this container; a real vLLM would not start", "WARNING")
    elif world > have * (getattr(parsed, "nnodes", None) or 1):
        raise StartError(
            f"ValueError: World size ({world}) is larger than the number of available GPUs ({have}) in this node. "
            "If this is intentional and you are using: - ray, set '--distributed-executor-backend ray'. - "
            "multiprocessing, set '--nnodes' appropriately."
        )
    return world


def meet(parsed: argparse.Namespace) -> None:
    """Wait for the other nodes of a group; raises StartError when they do not come in time."""
    nodes = getattr(parsed, "nnodes", None) or 1
    if nodes == 1:
        return
    seconds = float(getattr(parsed, "distributed_timeout_seconds", None) or 600)
    head = f"{parsed.master_addr}:{parsed.master_port}"
    _log("EngineCore", f"distributed_init_method=tcp://{head} nnodes={nodes} node_rank={parsed.node_rank} (SIMULATED)")
    try:
        join(parsed.master_addr, parsed.master_port, parsed.node_rank, nodes, seconds)
    except GroupError as error:
        raise StartError(str(error)) from None
    _log("EngineCore", f"all {nodes} nodes have joined (SIMULATED)")


def context_length(parsed: argparse.Namespace, model: Model) -> int:
    """Return the context length in tokens; raises StartError when more is asked for than the model has."""
    derived, asked = model.derived_max_model_len, parsed.max_model_len
    if asked in {None, -1}:
        return derived
    if asked > derived and not os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN"):
        raise StartError(
            f"ValueError: User-specified max_model_len ({asked}) is greater than the derived max_model_len "
            f"(max_position_embeddings={derived}.0 or model_max_length=None in model's config.json). To allow "
            "overriding this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1."
        )
    return int(asked)


def kv_cache(parsed: argparse.Namespace, model: Model, world: int) -> tuple[float, int]:
    """Return (GiB for the KV cache on each GPU, tokens it holds); raises StartError when the weights leave no room."""
    text = model.config.get("text_config", model.config)
    heads = int(text.get("num_attention_heads", 1))
    size = text.get("head_dim") or int(text.get("hidden_size", 64)) // heads
    per_token = 2 * int(text.get("num_hidden_layers", 1)) * int(text.get("num_key_value_heads") or heads) * size * 2
    memory = float(os.environ.get("METALSERVE_LAB_GPU_MEMORY_MIB", "81559")) * 2**20
    weights = model.bytes_read / world
    free = memory * parsed.gpu_memory_utilization - weights - 0.75 * 2**30
    if free <= 0:
        raise StartError(
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
            "initializing the engine."
        )
    return free / 2**30, int(free * world / per_token) // 16 * 16


def load(model: Model, parsed: argparse.Namespace, version: str, world: int) -> None:
    """Read the weights and wait as long as loading would, printing vLLM's lines on the way."""
    seconds = float(os.environ.get("METALSERVE_LAB_LOAD_SECONDS", "2"))
    _log("EngineCore", f"Initializing a V1 LLM engine (v{version}) with config: model='{model.path}', ...")
    for rank in range(world):
        tensor = rank % parsed.tensor_parallel_size
        _log("Worker", f"world_size={world} rank={rank} local_rank={rank} backend=nccl (SIMULATED)")
        _log("Worker", f"rank {rank} in world size {world} is assigned as DP rank 0, PP rank "
             f"{rank // parsed.tensor_parallel_size}, PCP rank 0, TP rank {tensor}")  # fmt: skip
    _log("Worker", f"Starting to load model {model.path}...")
    began = time.monotonic()
    try:
        read_weights(model)
    except LoadError as error:
        raise StartError(str(error)) from None
    time.sleep(max(0.0, seconds * 0.6 - (time.monotonic() - began)))
    total = len(model.shards)
    print(f"Loading safetensors checkpoint shards: 100% Completed | {total}/{total}", flush=True)
    spent = time.monotonic() - began
    _log("Worker", f"Loading weights took {spent:.2f} seconds")
    gib = model.bytes_read / world / 2**30
    _log("Worker", f"Model loading took {gib:.2f} GiB memory and {spent:.6f} seconds")
    time.sleep(seconds * 0.4)


def warm_up(model: Model, parsed: argparse.Namespace, world: int, context: int) -> dict[str, str]:
    """Print the memory lines that a real start prints; return the labels of vllm:cache_config_info."""
    gib, tokens = kv_cache(parsed, model, world)
    if tokens < context:
        raise StartError(
            f"ValueError: To serve at least one request with the models's max seq len ({context}), more KV cache "
            f"memory is needed than the available {gib:.2f} GiB. Try increasing `gpu_memory_utilization` or decreasing "
            "`max_model_len` when initializing the engine."
        )
    _log("Worker", f"Available KV cache memory: {gib:.2f} GiB")
    concurrency = tokens / context
    _log("EngineCore", f"GPU KV cache size: {tokens:,} tokens, Maximum concurrency for {context:,} tokens per request: "
         f"{concurrency:.2f}x")  # fmt: skip
    _log("Worker", "Graph capturing finished in 0 secs, took 0.00 GiB (SIMULATED)")
    _log("EngineCore", "init engine (profile, create kv cache, warmup model) took 0.00 s (SIMULATED)")
    return {
        "block_size": "16",
        "cache_dtype": str(parsed.kv_cache_dtype),
        "enable_prefix_caching": str(parsed.enable_prefix_caching is not False),
        "gpu_memory_utilization": str(parsed.gpu_memory_utilization),
        "kv_cache_max_concurrency": f"{concurrency:.2f}",
        "kv_cache_size_tokens": str(tokens),
        "num_gpu_blocks": str(tokens // 16),
    }


def start(parsed: argparse.Namespace, name: str, version: str) -> Server | None:
    """Load everything and return the bound server, None on a node without an API.

    Raises StartError where vLLM would end with status 1.
    """
    try:
        model = open_model(name)
    except LoadError as error:
        raise StartError(str(error)) from None
    _log("APIServer", f"Resolved architecture: {model.architecture}")
    context = context_length(parsed, model)
    _log("APIServer", f"Using max model len {context}")
    world = check_placement(parsed, model)
    try:
        hold_gpus()
    except OSError as error:
        raise StartError(f"RuntimeError: CUDA error: {error} (SIMULATED)") from None
    meet(parsed)
    load(model, parsed, version, world)
    info = warm_up(model, parsed, world, context)
    if getattr(parsed, "headless", False):
        return None
    served = parsed.served_model_name or [name]
    keys = [key for key in (parsed.api_key or [os.environ.get("VLLM_API_KEY")]) if key]
    settings = Settings(
        served_names=served,
        max_model_len=context,
        max_num_seqs=parsed.max_num_seqs or 1024,
        token_seconds=float(os.environ.get("METALSERVE_LAB_TOKEN_SECONDS", "0.002")),
        prefix_caching=parsed.enable_prefix_caching is not False,
    )
    engine = Engine(settings, Metrics(served[0], info))
    host = parsed.host or "0.0.0.0"
    try:
        server = Server((host, parsed.port), engine, version=version, model=name, keys=keys)
    except OSError as error:
        raise StartError(f"OSError: [Errno {error.errno}] {error.strerror}: ({host!r}, {parsed.port})") from None
    _log("APIServer", "Supported tasks: ['generate']")
    _log("APIServer", f"Starting vLLM server on http://{host}:{parsed.port}")
    return server


def run(server: Server, shutdown_timeout: float) -> int:
    """Serve until SIGTERM or SIGINT, then drain for up to shutdown_timeout seconds; return the exit status, 0."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()
    print(f"(APIServer pid={os.getpid()}) INFO:     Application startup complete.", flush=True)
    died = 0.0
    while not stop.wait(0.3):
        if fault() == "dead":
            died = died or time.monotonic()
            if time.monotonic() - died > 4:  # the real API server follows its dead EngineCore after 4-5 s, status 0
                _log("APIServer", "AsyncLLM output_handler failed: EngineDeadError", "ERROR")
                return 0
    _log("APIServer", "Shutting down")
    server.engine.draining.set()
    deadline = time.monotonic() + shutdown_timeout
    while server.engine.in_flight and time.monotonic() < deadline:
        time.sleep(0.05)
    server.engine.aborting.set()
    time.sleep(0.3)  # lets the aborted requests get their answer
    server.shutdown()
    server.server_close()
    print(f"(APIServer pid={os.getpid()}) INFO:     Application shutdown complete.", flush=True)
    return 0


def follow() -> int:
    """Do a node's part without an API until SIGTERM; that the head has gone is not noticed, as with the real one."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _log("EngineCore", "headless: waiting for work from the head (SIMULATED)")
    while not stop.wait(0.3):
        if fault() == "dead":
            return 0
    return 0


def serve(arguments: Sequence[str], *, flags: Path, prog: str = "vllm serve") -> int:
    """Run the command with the flags of one release; return its exit status (2: wrong usage, 1: failed start)."""
    parser = build_parser(flags, prog=prog)
    parsed = parser.parse_args(parser.prepare(arguments))
    version = flags.stem.removeprefix("flags-")
    name = parsed.model_tag or parsed.model
    if parsed.config:
        parser.error("SIMULATED: the stand-in does not read --config files")
    print(f"\n{BANNER}\n", flush=True)
    _log("APIServer", f"  version {version} (SIMULATED)")
    _log("APIServer", f"  model   {name}")
    given: dict[str, Any] = non_default(parser, parsed)
    _log("APIServer", f"non-default args: {given}")
    if parsed.model_tag and "--model" in arguments:
        _log("APIServer", "With `vllm serve`, you should provide the model as a positional argument", "WARNING")
    try:
        server = start(parsed, name, version)
    except StartError as error:
        print(f"(APIServer pid={os.getpid()}) ERROR {error}", file=sys.stderr, flush=True)
        return 1
    if server is None:
        return follow()
    return run(server, float(getattr(parsed, "shutdown_timeout", None) or 0))


def main(arguments: Sequence[str] | None = None, *, prog: str = "vllm") -> int:
    """Run `vllm ...` (or, with another prog, the old api_server module) and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # As PID 1 of a container the process would not hear SIGTERM while it loads.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    flags = Path(os.environ["VLLM_STANDIN_FLAGS"])
    if prog != "vllm":
        return serve(words, flags=flags, prog=prog)
    if words[:1] in (["-v"], ["--version"]):
        print(f"{flags.stem.removeprefix('flags-')} (SIMULATED)")
        return 0
    if words[:1] != ["serve"]:
        print(f"{BANNER}\nvllm: error: the stand-in knows only `vllm serve`", file=sys.stderr)
        return 2
    return serve(words[1:], flags=flags)


if __name__ == "__main__":
    sys.exit(main())
