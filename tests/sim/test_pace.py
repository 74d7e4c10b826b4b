"""How fast runs go is measured over whole runs, and told apart from their quiet ends."""

from __future__ import annotations

from zmqrel.testing.case import run
from zmqrel.testing.pace import Pace


def test_a_run_says_how_long_it_took_and_how_long_was_quiet() -> None:
    workload = run(1, "five peers", 5)
    pace = workload.pace
    assert pace.virtual_s == workload.network.now > 7 > pace.loaded_virtual_s > 0
    assert pace.core_s > pace.loaded_core_s > 0


def test_runs_add_up_to_a_rate() -> None:
    both = Pace(100.0, 2.0, 40.0, 1.0) + Pace(50.0, 1.0, 20.0, 0.5)
    assert (both.rate, both.loaded_rate) == (50, 40)
    assert (
        str(both) == "150.0 virtual seconds in 3.0 s of one core: 50 times real time, 40 times without the quiet ends"
    )
