"""What frames say of a node: rates, ages, and the words for what is wrong."""

from __future__ import annotations

import pytest

from metalserve.watching.frames import FrameReader
from metalserve.watching.node import NodeWatch
from tests.watching.samples import NOW, Card, engine, frame, gpu_csv, healthy, links


def test_rates_are_differences_of_the_counters() -> None:
    view = healthy("a").view(NOW)
    assert view.state == "ok" and not view.stale
    (one,) = view.engines
    assert one.tokens_s == pytest.approx(450)
    assert one.prompt_tokens_s == pytest.approx(2000)
    assert one.cached == pytest.approx(0.25)
    assert view.gpus[0].held == ("sw_power_cap",)
    assert (view.gpus[0].margin_c, view.gpus[0].margin_from) == (26, "T.Limit")


def test_the_old_spellings_of_vllm_are_read_too() -> None:
    node = NodeWatch("a", 2.0)
    for step in range(2):
        told = engine(0, 1000.0 + 2 * step, made=5000 + 900 * step, old=True, kv=0.8)
        node.take(frame({"engines": told}, uptime=1000.0 + 2 * step), 500.0 + 2 * step)
    (one,) = node.view(NOW).engines
    assert one.tokens_s == pytest.approx(450) and one.sample.kv_usage == 0.8 and one.cached is None


def test_an_engine_that_was_restarted_has_no_rate_rather_than_a_wrong_one() -> None:
    node = healthy("a")
    node.take(frame({"engines": engine(0, 1003.8, made=12, read=40)}, uptime=1004.0), 504.0)
    (one,) = node.view(504.1).engines
    assert one.tokens_s is None and one.prompt_tokens_s is None
    node.take(frame({"engines": engine(0, 1005.8, made=32, read=60)}, uptime=1006.0), 506.0)
    assert node.view(506.1).engines[0].tokens_s == pytest.approx(10)


def test_a_reboot_forgets_what_was_before_it() -> None:
    node = healthy("a", log="[1.0] NVRM: Xid (PCI:0000:19:00): 79, GPU has fallen off the bus.")
    assert node.view(NOW).state == "xid"
    node.take(frame({"log": ""}, uptime=40.0, boot="another"), 600.0)
    view = node.view(600.1)
    assert view.xids == () and view.gpus == () and view.engines == ()


def test_a_nvidia_smi_that_hangs_is_told_from_the_node_that_is_down() -> None:
    node = healthy("a")
    for step in range(1, 20):
        node.take(frame({}, uptime=1002.0 + 2 * step, busy={"gpu": 1003.0}), 502.0 + 2 * step)
    view = node.view(540.0)
    assert view.state == "hung" and view.said == "nvidia-smi hangs for 37 s" and view.stale
    assert view.gpus[0].temperature_c == 61 and view.gpus_age_s == pytest.approx(38.2)
    assert view.engines[0].sample.answers


def test_one_that_is_killed_each_time_hangs_as_well() -> None:
    node = healthy("a")
    node.take(frame({"gpu": "Terminated"}, uptime=1012.0, rc=124), 512.0)
    view = node.view(512.5)
    assert view.state == "hung" and view.said == "nvidia-smi did not answer in time, last answer 11 s ago"
    assert view.gpus[0].power_w == 652.31


def test_a_node_that_falls_silent_is_down_with_the_age_of_its_values() -> None:
    node = healthy("a")
    assert node.view(505.0).state == "ok"
    view = node.view(562.0)
    assert view.state == "down" and view.said == "no answer for 60 s" and view.stale
    assert view.gpus_age_s == pytest.approx(60.2)
    node.lost("the session ended")
    assert node.view(562.0).said == "the session ended, 60 s ago"


def test_a_node_that_never_answered() -> None:
    node = NodeWatch("a", 2.0, began=0.0)
    assert node.view(1.0).state == "connecting"
    assert (node.view(13.0).state, node.view(13.0).said) == ("down", "no connection within 13 s")
    node.lost("no connection: timed out")
    view = node.view(2.0)
    assert (view.state, view.said, view.gpus) == ("down", "no connection: timed out", ())


@pytest.mark.parametrize(
    ("text", "rc", "said"),
    [
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure", 9, "communicate"),
        ("Failed to initialize NVML: Driver/library version mismatch", 18, "mismatch"),
        ("sh: 1: nvidia-smi: not found", 127, "not found"),
    ],
)
def test_a_nvidia_smi_that_fails_says_why(text: str, rc: int, said: str) -> None:
    node = NodeWatch("a", 2.0)
    node.take(frame({"gpu": text}, rc=rc), 500.0)
    view = node.view(500.5)
    assert view.state == "error" and said in view.said and view.gpus == ()


def test_a_lost_gpu_is_an_error_and_the_others_stay() -> None:
    text = f"Unable to determine the device handle for GPU3: 0000:1C:00.0: Unknown Error\n{gpu_csv([Card(0), Card(1)])}"
    node = NodeWatch("a", 2.0)
    node.take(frame({"gpu": text}), 500.0)
    view = node.view(500.5)
    assert view.state == "error" and "0000:1C:00.0" in view.said and len(view.gpus) == 2


def test_engines_that_are_down_loading_or_silent() -> None:
    node = NodeWatch("a", 2.0)
    told = "\n".join(
        [engine(0, 999.8), engine(1, 999.8, unit="failed", http=0), engine(2, 999.8, unit="activating", http=0),
         engine(3, 999.8, http=0), engine(4, 999.8, http=503)]
    )  # fmt: skip
    node.take(frame({"gpu": gpu_csv([Card(0)]), "engines": told}), 500.0)
    view = node.view(500.5)
    troubles = [each.trouble for each in view.engines]
    assert troubles == ["", "unit failed", "loading", "does not answer", "HTTP 503, no metrics"]
    assert view.state == "engine" and view.said.startswith("engine 1 unit failed, engine 2 loading")


def test_lost_links_slowdowns_and_xids_are_named() -> None:
    node = NodeWatch("a", 2.0)
    node.take(frame({"gpu": gpu_csv([Card(0), Card(1)]), "link": links(2, up=16, only=1)}), 500.0)
    assert node.view(500.5).said == "GPU 1: 16 of 18 NVLinks"
    brake = Card(1, {"clocks_event_reasons.active": "0x0000000000000088"})
    node.take(frame({"gpu": gpu_csv([Card(0), brake]), "link": links(2)}), 502.0)
    view = node.view(502.5)
    assert (view.state, view.said) == ("slowed", "GPU 1: the board's power brake slows the clocks down")
    log = (
        "[ 10.1] NVRM: Xid (PCI:0000:19:00): 13, pid=7, Graphics Exception\n"
        "[ 12.1] NVRM: Xid (PCI:0000:1a:00): 79, pid=7, GPU has fallen off the bus."
    )
    node.take(frame({"log": log}, uptime=1004.0), 504.0)
    view = node.view(504.5)
    assert (view.state, view.said) == ("xid", "Xid 79: GPU has fallen off the bus")
    assert [(x.code, x.pci, x.severity) for x in view.xids or ()] == [
        (13, "0000:19:00.0", "app"), (79, "0000:1a:00.0", "fatal")
    ]  # fmt: skip


def test_what_a_gpu_does_not_tell_is_unknown_and_the_margin_comes_from_the_catalogue() -> None:
    absent = {
        "utilization.gpu": "[N/A]", "temperature.gpu.tlimit": "[N/A]", "memory.used": "[N/A]", "fabric.state": "[N/A]",
        "clocks_event_reasons.active": "[N/A]", "name": "NVIDIA A100-SXM4-80GB", "temperature.gpu": "60",
    }  # fmt: skip
    node = NodeWatch("a", 2.0)
    node.take(frame({"gpu": gpu_csv([Card(0, absent)])}), 500.0)
    (gpu,) = node.view(500.5).gpus
    assert gpu.utilisation is None and gpu.memory_used_mib is None and gpu.held is None and gpu.fabric is None
    assert (gpu.margin_c, gpu.margin_from) == (25, "catalogue")  # 85 C highest operating temperature


def test_lines_that_belong_to_no_frame_are_what_the_host_said() -> None:
    reader = FrameReader()
    assert reader.feed("sudo: a password is required") is None
    assert reader.feed("@@frame nonsense") is None and reader.feed("@@end 1") is None
    assert reader.said == ["sudo: a password is required"]
