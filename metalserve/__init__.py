"""metalserve: converge bare-metal NVIDIA hosts, prove them, and serve LLMs from them."""

from __future__ import annotations

__version__ = "0.1.0"
