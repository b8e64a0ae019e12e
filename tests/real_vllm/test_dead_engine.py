"""Health green and generation dead: what a probe of /health alone would miss, and how such an engine ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from metalserve.releases import Release
from tests.real_vllm.conftest import NAME, planned
from tests.real_vllm.engine import Engine, free_port
from tests.real_vllm.test_serving import probe


def test_health_is_green_while_no_token_comes_and_a_dead_core_ends_with_status_zero(
    python: str, model: Path, release: Release, tmp_path: Path
) -> None:
    """bfloat16, the model's own type, ends the worker at the first token on CPUs that name AMX and do not run it."""
    port = free_port()
    engine = Engine(python, planned(model, release, port), port, tmp_path)
    try:
        engine.wait_until_ready()
        assert engine.status("/health") == 200
        assert engine.ask("/v1/models")["data"][0]["id"] == NAME
        gate = probe(engine)
        if gate.returncode == 0:
            # This CPU computes bfloat16: the core is frozen, which looks the same from outside, and then killed.
            print("bfloat16 works on this CPU: the core is frozen, then killed")
            cores = engine.children("EngineCore")
            for pid in cores:
                os.kill(pid, signal.SIGSTOP)
            assert cores and probe(engine).returncode != 0, "a token came from a frozen core"
            assert engine.status("/health") == 200
            for pid in cores:
                os.kill(pid, signal.SIGKILL)
        else:
            print("bfloat16 ends the worker on this CPU")
            assert "died unexpectedly" in engine.text, engine.text[-2000:]
        deadline = time.monotonic() + 300
        while engine.process.poll() is None and engine.status("/health") == 200:
            assert time.monotonic() < deadline, "the core is dead and /health stays green"
            time.sleep(0.2)
        assert engine.process.wait(timeout=300) == 0, "Restart=on-failure would do, and roles/vllm need not say always"
    finally:
        engine.kill()
