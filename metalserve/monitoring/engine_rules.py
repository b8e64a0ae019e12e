"""Rules about engines and the router: do they answer, how full are they, are they fast enough."""

from __future__ import annotations

from metalserve.monitoring.model import MAIN_JOB, Alert, Group, Options, Recorded, either

KV_CACHE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
"""vLLM renamed it in 0.10; both are there in 0.10 and 0.11."""

PREFIX_HITS = ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total")
PREFIX_QUERIES = ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total")
TOKEN_LATENCY = ("vllm:inter_token_latency_seconds_bucket", "vllm:time_per_output_token_seconds_bucket")
"""Renamed in 0.11; both are there in 0.11."""

_BY = "by (host, instance, model_name, le)"
_ENGINE = "{{ $labels.instance }} on {{ $labels.host }}"


def engine_rules(options: Options) -> tuple[Group, ...]:
    """Return the groups about engines and routers."""
    return (
        Group("metalserve-engine-recorded", recorded=_recorded(options)),
        Group("metalserve-engine", alerts=_alerts(options)),
    )


def _recorded(options: Options) -> tuple[Recorded, ...]:
    span = options.span(5)

    def p95(buckets: str) -> str:
        return f"histogram_quantile(0.95, sum {_BY} ({buckets}))"

    hits, queries = (either(names, f"rate({{}}[{span}])") for names in (PREFIX_HITS, PREFIX_QUERIES))
    return (
        Recorded("engine:kv_cache_usage:ratio", either(KV_CACHE)),
        Recorded("engine:ttft_seconds:p95", p95(f"rate(vllm:time_to_first_token_seconds_bucket[{span}])")),
        Recorded("engine:token_latency_seconds:p95", p95(either(TOKEN_LATENCY, f"rate({{}}[{span}])"))),
        Recorded("engine:tokens_generated:rate", f"rate(vllm:generation_tokens_total[{span}])"),
        Recorded("engine:tokens_prompted:rate", f"rate(vllm:prompt_tokens_total[{span}])"),
        Recorded("engine:prefix_cache_hits:ratio", f"({hits}) / ({queries})"),
    )


def _alerts(options: Options) -> tuple[Alert, ...]:
    waiting, span = "vllm:num_requests_waiting", options.span(10)
    return (
        Alert(
            "EngineDown", 'up{job="engine"} == 0', options.hold(3), "critical",
            f"{_ENGINE} does not answer",
            "A replica is gone; the others share its load, and requests fail where it was the only one.",
            f"`journalctl -u 'metalserve-vllm-*' -n 100` on the host says why; {MAIN_JOB} "
            "brings it back",
        ),
        Alert(
            "EngineNotReady", 'metalserve_engine_state{state=~"stalled|down"} == 1', options.hold(10), "critical",
            "{{ $labels.host }}: engine {{ $labels.replica }} is {{ $labels.state }}",
            "It may answer on its port, and it gives no token.",
            "`cat /run/metalserve/engines/*` and `journalctl -u metalserve-vllm-watch -n 50` on the host",
        ),
        Alert(
            "EngineGateRefuses", "metalserve_engine_gate_open == 0", options.hold(2), "critical",
            "{{ $labels.host }}: the gate does not let engine {{ $labels.replica }} start",
            "Something that an engine needs is not right: driver, GPUs, fabric, weights, port or memory.",
            f"`journalctl -u 'metalserve-vllm-*' | grep gate` on the host names it; {MAIN_JOB}",
        ),
        Alert(
            "EngineKvCacheFull", "engine:kv_cache_usage:ratio > 0.95", options.hold(10), "warning",
            f"{_ENGINE}: KV cache {{{{ $value | humanizePercentage }}}} full",
            "Requests are preempted and computed again, or wait: latency grows and throughput falls.",
            "add a replica, shorten `engine.max_model_len`, or take an FP8 KV cache: `metalserve plan` compares them",
        ),
        Alert(
            "EngineQueueGrowing",
            f"min_over_time({waiting}[{span}]) > {options.queue_limit} and deriv({waiting}[{span}]) > 0",
            options.hold(2), "warning",
            f"{_ENGINE}: requests wait, and more of them every minute",
            "More comes in than the engine serves; clients see time to first token grow without end.",
            "`metalserve router status INVENTORY` shows whether the load is spread; add a replica, or limit "
            "clients in `router.keys`",
        ),
        Alert(
            "EngineTtftAboveObjective", f"engine:ttft_seconds:p95 > {options.ttft_objective_s:g}", options.hold(10),
            "warning",
            f"{_ENGINE}: 95 % of first tokens come within {{{{ $value | humanizeDuration }}}}, "
            f"the objective is {options.ttft_objective_s:g} s",
            "Long prompts, a long queue or a GPU that is slowed down.",
            "look at queue and clocks on the dashboard `engine`; `metalserve plan --intent latency` proposes "
            "another layout",
        ),
        Alert(
            "RouterDown", 'up{job="router"} == 0', options.hold(2), "critical",
            "{{ $labels.host }}: the router does not answer",
            "Clients that come by it reach no engine.",
            "`journalctl -u metalserve-router -n 50` on the host; `pyinfra INVENTORY deploys/router.py`",
        ),
    )  # fmt: skip


__all__ = ["engine_rules"]
