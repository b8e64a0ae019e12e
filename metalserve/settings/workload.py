"""Settings of the requests that a plan is made for."""

from __future__ import annotations

from pydantic import Field

from metalserve.settings.common import Positive, Section


class WorkloadSettings(Section):
    """What is expected of an engine's host. None lets the planner assume; it says what it assumed."""

    prompt_tokens: Positive | None = Field(None, description="tokens of a typical prompt; None: 1024")
    answer_tokens: Positive | None = Field(None, description="tokens of a typical answer; None: 512")
    concurrency: Positive | None = Field(None, description="requests at once on the host; None: as many as pay")
    tpot_ms: float | None = Field(
        None, gt=0, description="longest time an answer token, milliseconds; None: 50, for throughput 150"
    )
    ttft_ms: float | None = Field(
        None, gt=0, description="longest time to the first token without a queue, milliseconds; None: no limit"
    )
