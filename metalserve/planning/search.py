"""One planning: the option that is taken, or the nearest that would fit. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from metalserve.planning import explain
from metalserve.planning.choice import Candidate, rank
from metalserve.planning.constraints import split_problem
from metalserve.planning.memory import GIB, kv_bytes_per_token
from metalserve.planning.model import ModelConfig, quantised_online
from metalserve.planning.options import Host, Option, Options, Terms
from metalserve.planning.work import Split
from metalserve.planning.workload import Workload, workload_of

if TYPE_CHECKING:
    from metalserve.settings import EngineSettings

LEAST_CONTEXT = 8192
"""Below this many tokens of context (or the model's own, where shorter) a planned launch does not count as fitting."""


MOST_WITH_NVLINK = 8
"""GPUs of a host that NVLink joins on the boards that are sold."""

MOST_DOUBLINGS = 5
"""Times that the time a token which nobody set is doubled: 50 ms become 1.6 s."""


@dataclass(frozen=True)
class Found:
    """What a planning ended with: the options in order, the first is taken; or why there is none."""

    candidates: tuple[Candidate, ...] = ()
    said: tuple[str, ...] = ()
    refused: str = ""


class Search:
    """One planning: the options that the hardware allows, the choice, and the words for it."""

    def __init__(self, host: Host, model: ModelConfig, engine: EngineSettings, terms: Terms) -> None:
        self.host, self.model, self.engine, self.terms = host, model, engine, terms
        self.options = Options(host, model, engine, terms)
        self.workload: Workload = workload_of(engine).within(engine.max_model_len or model.max_position)

    @property
    def needed_tokens(self) -> int:
        """KV tokens without which the launch does not count as fitting."""
        if self.engine.max_model_len:
            return self.engine.max_model_len
        return min(self.model.max_position, LEAST_CONTEXT)

    def needed_of(self, split: Split) -> int:
        """Return the KV tokens that an engine needs: a request lives in one data-parallel rank."""
        return self.needed_tokens * split.data

    def plan(self) -> Found:
        """Return the chosen option, the runners-up, what there is to say about it, or why there is none."""
        engine, count = self.engine, len(self.host.gpus)
        options, problems = self.options.all
        if not options:
            return Found(refused=problems[0] if problems else f"{count} GPUs are too few")
        fitting = [option for option in options if option.share.kv_tokens >= self.needed_of(option.split)]
        if not fitting:
            return Found(refused=self._refusal(options))
        enough = [option for option in fitting if len(option.groups) >= (engine.replicas or 1)]
        if not enough:
            most = max(fitting, key=lambda option: len(option.groups))
            room = f"{count} GPUs hold {len(most.groups)} of {most.size} GPUs each"
            return Found(refused=f"engine.replicas is {engine.replicas}, but {room}, the least that the model fits")
        ranked = self._ranked(enough)
        chosen = ranked[0]
        said = explain.links(self.host)
        said += explain.choice(chosen, options, self.model, self.workload, engine.intent)
        said += explain.pipeline_note(self.host, chosen, self.workload)
        if engine.replicas is not None and engine.replicas < len(chosen.option.groups):
            option = replace(chosen.option, groups=chosen.option.groups[: engine.replicas])
            chosen = replace(chosen, option=option)
            said.append(f"engine.replicas limits the host to {engine.replicas}.")
        used = sum(len(group) for group in chosen.option.groups)
        if used < count:
            said.append(f"{count - used} of {count} GPUs stay idle.")
        said += explain.placement_notes(self.host, chosen.option)
        if self.model.rough:
            said.append(f"The memory is a rough estimate: {self.model.rough}.")
        return Found((chosen, *ranked[1:]), tuple(said))

    def _ranked(self, enough: Sequence[Option]) -> list[Candidate]:
        """Return the options in order; a limit that was not set is doubled until one keeps it."""
        engine, count = self.engine, len(self.host.gpus)
        for _ in range(MOST_DOUBLINGS):
            ranked = rank(enough, self.workload, engine.intent, self.model, count, engine.replicas)
            limit = self.workload.limit(engine.intent)
            if ranked[0].keeps or self.engine.workload.tpot_ms is not None or limit is None:
                break
            self.workload = replace(self.workload, tpot_ms=2 * limit, relaxed=True)
        return ranked

    def context(self, option: Option) -> tuple[int, str]:
        """Return the context length in tokens and the sentence that explains it."""
        model, tokens = self.model, option.share.kv_tokens // option.split.data
        each = f" in each of {option.split.data} ranks" if option.split.data > 1 else ""
        if self.engine.max_model_len:
            room = option.share.kv_tokens / self.engine.max_model_len
            return self.engine.max_model_len, (
                f"engine.max_model_len is {self.engine.max_model_len:,}; the KV cache of {option.share.kv_tokens:,} "
                f"tokens holds {room:.1f} requests of that length at once."
            )
        if tokens >= model.max_position:
            return model.max_position, (
                f"The model's whole context of {model.max_position:,} tokens is served; the KV cache holds "
                f"{tokens:,}{each}."
            )
        length = max(1024, tokens // 1024 * 1024) if tokens >= 1024 else tokens
        return length, (
            f"The context is cut to {length:,} of the model's {model.max_position:,} tokens: the KV cache holds "
            f"{tokens:,}{each}."
        )

    def _refusal(self, options: Sequence[Option]) -> str:
        """Return why nothing fits and what is the nearest that does."""
        best = max(options, key=lambda option: (option.share.kv_tokens, option.share.kv_bytes))
        share, model = best.share, self.model
        free = share.budget - share.weights - share.overhead
        why = (
            f"{model.architecture} needs {share.weights / GIB:.1f} GiB of weights and {share.overhead / GIB:.1f} GiB "
            f"overhead on each of {best.size} {self.host.name}, of {share.budget / GIB:.1f} GiB usable"
        )
        if free > 0:
            per_token = kv_bytes_per_token(
                model, best.tensor_parallel, best.pipeline_parallel, self.terms.kv_element_bytes
            )
            why += (
                f"; the {free / GIB:.1f} GiB left hold {share.kv_tokens:,} tokens of {per_token / 1024:.0f} KiB, "
                f"{self.needed_of(best.split):,} are needed"
            )
        return f"{why}. Nearest that fits: {self._nearest(best)}."

    def _nearest(self, best: Option) -> str:
        ways = []
        tokens = best.share.kv_tokens // best.split.data // 1024 * 1024
        if tokens >= 1024:
            ways.append(f"engine.max_model_len {tokens}")
        if way := self._quantised():
            ways.append(way)
        if way := self._larger(best):
            ways.append(way)
        return ", or ".join(ways) if ways else "a smaller or more strongly quantised model"

    def _quantised(self) -> str:
        """Return the smallest split on which an FP8 checkpoint fits, in words."""
        if self.model.quantisation is not None:
            return ""
        small = quantised_online(self.model)
        plain = [option for option in self.options.all[0] if option.split.data == 1]
        for option in sorted(plain, key=lambda option: (option.pipeline_parallel > 1, option.size)):
            share = self.options.share(option.split, small)
            wrong = split_problem(small, option.tensor_parallel, 1, option.split.expert_ranks)
            if share.kv_tokens >= self.needed_tokens and not wrong:
                return (
                    f"an FP8 checkpoint of the model ({share.weights / GIB:.1f} GiB a GPU at tensor parallel "
                    f"{option.tensor_parallel}, pipeline parallel {option.pipeline_parallel})"
                )
        return ""

    def _larger(self, best: Option) -> str:
        """Return how many more GPUs or hosts hold the model, in words: more share a layer up to 8 with NVLink."""
        count = len(self.host.gpus)
        linked = self.host.spec is not None and self.host.spec.nvlink is not None
        tensor = best.split.tensor * best.split.data
        plain = Split(tensor, best.split.pipeline)
        if split_problem(self.model, tensor, 1):
            plain = Split(best.split.tensor, best.split.pipeline, 1, best.split.expert)
        for factor in (2, 4, 8, 16):
            wider = replace(plain, tensor=plain.tensor * factor)
            for split in (wider, replace(plain, pipeline=plain.pipeline * factor)):
                if split is wider and (not linked or wider.tensor > MOST_WITH_NVLINK):
                    continue
                if split_problem(self.model, split.tensor, split.pipeline, split.expert_ranks):
                    continue
                if self.options.share(split).kv_tokens >= self.needed_of(split):
                    words = f"tensor parallel {split.tensor}, pipeline parallel {split.pipeline}"
                    said = f"{split.gpus} such GPUs ({words})"
                    hosts = split.gpus // count
                    if count > 1 and hosts > 1 and split.gpus % count == 0 and split.tensor <= count:
                        said += f", for example {hosts} such hosts together (--nodes {hosts})"
                    return said
        return ""
