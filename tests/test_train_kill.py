"""A training run that is killed for good, as by ``kill -9``: a sample of ``python tests/kill_training.py``."""

import kill_training
import pytest


@pytest.mark.host("runs in processes of its own")
def test_a_run_killed_three_times_also_inside_a_write_ends_with_the_same_bits(tmp_path):
    verdict = kill_training.series(kills=3, seed=1, folder=tmp_path, report=print)
    assert verdict.startswith("3 kills") and int(verdict.split()[2]) >= 2
