"""What bench/templates/serve.py makes of its runs and of the real driver's measurement."""

from __future__ import annotations

from typing import Any

from bench.templates.driver import chosen
from bench.templates.serve import compared, with_real_driver


def run(arm: str, seconds: float, driver_s: float = 0.0) -> dict[str, Any]:
    roles = {"observe": 2.0, "NVIDIA driver": driver_s, "vLLM": 10.0}
    return {"arm": arm, "seconds": seconds, "roles_s": roles}


RUNS = [run("plain", 60.0, 9.0), run("template", 30.0), run("plain", 62.0, 11.0), run("template", 32.0)]


def test_the_real_driver_takes_the_stand_ins_place_in_the_plain_arm_alone() -> None:
    real = {"role_s": 300.0, "compile_s": 200, "least_s": 150.0, "cpus": 2}
    compiled = [{"cpus": 16, "jobs": 16, "seconds": 40.0}, {"cpus": 16, "jobs": 2, "seconds": 160.0}]
    found = with_real_driver(RUNS, real, compiled)
    assert compared(RUNS)["ratio"] == round(61 / 31, 2)
    assert found["ratio_with_real_driver"] == round((61 - 10 + 300) / 31, 2)
    told = found["with_real_driver"]
    assert (told["stand_in_role_s"], told["plain_s"], told["cpus"]) == (10.0, 351.0, 2)
    assert told["at_least"] == {"role_s": 150.0, "plain_s": 201.0, "ratio": round(201 / 31, 2)}
    assert told["processors"] == {"16": {"role_s": 140.0, "plain_s": 191.0, "ratio": round(191 / 31, 2)}}


def test_what_dkms_did_not_tell_is_not_taken_away() -> None:
    real = {"role_s": 300.0, "compile_s": None, "least_s": 150.0, "cpus": 2}
    assert (
        with_real_driver(RUNS, real, [{"cpus": 16, "jobs": 16, "seconds": 40.0}])["with_real_driver"]["processors"]
        == {}
    )


def test_the_faster_run_of_the_driver_counts() -> None:
    runs = [{"role_s": 640.0, "compile_s": 490, "cpu_s": 500.0}, {"role_s": 900.0, "compile_s": 700, "cpu_s": 480.0}]
    assert chosen(runs, 2) == {"role_s": 640.0, "compile_s": 490, "least_s": 240.0}
