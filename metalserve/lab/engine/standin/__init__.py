"""The stand-in vLLM: SIMULATED. Standard library only, since this package is what the lab's engine image runs.

It parses the arguments of the release it stands for, reads the staged weights, and answers vLLM's HTTP API with
fixed words. No model is ever run. Nothing here imports from the rest of metalserve.
"""
