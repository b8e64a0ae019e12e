"""Flags of vLLM releases as their own parsers gave them (JSON), and how a release is added (`trim`)."""
