"""The launch plan: from hardware and model to the arguments of vLLM."""
