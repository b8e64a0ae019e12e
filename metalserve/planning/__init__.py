"""Planning: from hardware, model and intent to the launch of vLLM. Values in, values out; no I/O."""

from __future__ import annotations

from metalserve.planning.launch import LaunchPlan, plan_launch
from metalserve.planning.model import ModelConfig, model_config_from
from metalserve.planning.named import hardware_by_name

__all__ = ["LaunchPlan", "ModelConfig", "hardware_by_name", "model_config_from", "plan_launch"]
