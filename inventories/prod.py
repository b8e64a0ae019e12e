"""Your own hosts: copy this file, then `metalserve settings check FILE` and `pyinfra FILE deploys/gpu_node.py`.

The hosts below are imaginary (192.0.2.0/24 is kept for documentation). `metalserve settings` explains every setting;
what is not given here has the default shown there. What all inventories share stands in `group_data/all.py`.

Every public list in this file is a group of hosts, so helper values begin with an underscore. pyinfra does not merge
dicts: a host's `engine` replaces its group's as a whole, which is why shared parts are spread with `**` below.
"""

# The pinned versions of everything: `metalserve release list`. The long-term branch asks for a reboot least often.
_RELEASE = "2026.11-lts"

# FP8 weights take half the memory of 16 bit ones: 70B parameters fit two 80 GB GPUs with room for requests.
_MODEL = {
    "name": "RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic",
    # The commit to serve. Forty zeros name none: put the commit here that you made the manifest from.
    "revision": "0" * 40,
    # What clients put into "model": a short name that survives a change of the weights behind it.
    "served_name": "llama-3.3-70b",
    # Sizes and hashes of the files. EXAMPLE.yaml is to be generated; it says how.
    "manifest": "files/models/EXAMPLE.yaml",
    # Only gated repositories need a token. It is read from the controller's environment when it is used.
    "hf_token": {"env": "HF_TOKEN"},
}

_ENGINE = {
    # Clients must send this key. Other ways: {"file": "~/secrets/llm-key"} or {"command": ["pass", "show", "llm/key"]}.
    "api_key": {"env": "METALSERVE_API_KEY"},
    # Long prompts take memory from parallel requests; without this the model's own 131072 would be planned for.
    "max_model_len": 32768,
    # How many GPUs a replica gets and how many replicas run is planned from what is found on the host.
    "intent": "throughput",
}

_SHARED = {
    "release": _RELEASE,
    "model": _MODEL,
    "engine": _ENGINE,
    # Only the empty NVMe drive, or the one metalserve formatted, is ever touched; anything else is refused.
    "storage": {"mount": "/srv/models", "device": "auto"},
}

# Eight H100 on an NVSwitch board. `expect` is what was bought: a host that has less fails before it serves.
hgx = [
    (
        "gpu-01",
        {
            **_SHARED,
            "ssh_hostname": "192.0.2.11",
            "expect": {"gpu": "h100-sxm", "count": 8, "links": "nvswitch", "nvlinks_per_gpu": 18, "nvme_count": 1},
        },
    ),
    (
        "gpu-02",
        {
            **_SHARED,
            "ssh_hostname": "192.0.2.12",
            "expect": {"gpu": "h100-sxm", "count": 8, "links": "nvswitch", "nvlinks_per_gpu": 18, "nvme_count": 1},
            # One setting changed for one host: the rest of `engine` must be spread, it would be lost otherwise.
            "engine": {**_ENGINE, "intent": "latency"},
        },
    ),
]

# Two H100 NVL cards joined by a bridge; the model's drive is named, since this host has two empty ones.
pairs = [
    (
        "gpu-03",
        {
            **_SHARED,
            "ssh_hostname": "192.0.2.13",
            "expect": {"gpu": "h100-nvl", "count": 2, "links": "bridge", "nvme_count": 2},
            "storage": {"mount": "/srv/models", "device": "serial:S0EXAMPLE0001"},
            # This host also serves others by night: it is rebooted by hand only, and a run that needs it stops.
            "driver": {"reboot": "never"},
        },
    ),
]
