"""The benchmarks' own machinery, on tiny workloads. No test judges a time."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidl import cli

ROOT = Path(__file__).resolve().parent.parent
report, runner, workloads = (cli._benchmarks(name) for name in ("report", "runner", "workloads"))
Conv, Draw, Train = workloads.Conv, workloads.Draw, workloads.Train

pytestmark = pytest.mark.host("other processes, on the host")

HERE = {"minidl": sys.executable}
BESIDE_TORCH = HERE | dict.fromkeys(["torch", "torch_tuned"], sys.executable)
TINY = Train("W tiny", workloads.mlp(6, 5, 10), (4, 6))


def small(work):
    """The same kind of work on fewer or smaller inputs."""
    if isinstance(work, Train):
        return Train(work.name, work.network, (8, *work.x[1:]), work.optimizer, work.record, tolerance=work.tolerance)
    if isinstance(work, Conv):
        return Conv(work.name, (2, *work.x[1:]), work.w, work.stride, work.padding)
    rows, columns = work.shape
    return Draw(work.name, work.scheme, (rows // 4, columns if work.scheme != "orthogonal" else rows // 4))


# -- interleaving and stopping -------------------------------------------------------------------------------------


def test_every_framework_runs_once_a_round_and_each_round_begins_with_the_next():
    assert "".join(runner.interleaved("abc", 4)) == "abc" + "bca" + "cab" + "abc"


@pytest.fixture
def worker(tmp_path):
    """A worker of minidl that has prepared the tiny workload."""
    arrays = TINY.arrays(np.random.default_rng(0))
    np.savez(tmp_path / "arrays.npz", **arrays)
    with runner.Worker("minidl", sys.executable, 1) as started:
        assert runner._prepare(started, TINY, tmp_path)["note"] == ""
        yield started


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the state of a process in /proc")
def test_a_worker_that_has_answered_is_stopped_and_still_answers_the_next_question(worker):
    for _ in range(2):
        assert Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        assert len(worker.ask(run=2)["seconds"]) == 2


def test_no_worker_is_left_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt), runner.Worker("minidl", sys.executable, 1) as started:
        started._stop()
        raise KeyboardInterrupt
    assert started.process.poll() is not None


@pytest.mark.parametrize("number", [1, 2])
def test_a_worker_is_given_its_number_of_threads(number, monkeypatch):
    seen = {}
    monkeypatch.setattr(subprocess, "Popen", lambda command, **how: seen.update(how["env"]))
    runner.Worker("minidl", sys.executable, number)
    assert {seen[name] for name in runner.THREADS} == {str(number)}


def test_a_framework_that_is_not_installed_or_fails_is_noted_and_the_others_are_measured(monkeypatch):
    monkeypatch.setitem(runner.FRAMEWORKS, "nonsense", "W")
    pythons = HERE | {"nonsense": sys.executable}
    good, bad = runner.measure(TINY, pythons, 1, 1)
    assert good["median"] > 0
    assert bad["note"].startswith("not installed: No module named")
    assert "median" not in bad
    wrong = Train("W wrong", [("relu",), ("linear", 7, 10)], (4, 6))  # 6 numbers meet a layer for 7
    (record,) = runner.measure(wrong, HERE, 1, 1)
    assert "ended with 1" in record["note"]


# -- statistics ----------------------------------------------------------------------------------------------------


def test_times_become_quartiles_and_ratios_of_the_same_round():
    found = runner._of_times("minidl", {"minidl": [1.0, 2.0, 9.0], "torch": [2.0, 4.0, 3.0]})
    assert (found["q1"], found["median"], found["q3"]) == (1.5, 2.0, 5.5)
    assert found["ratio"] == 0.5  # of 0.5, 0.5 and 3: not the ratio of the medians, 2/3


def test_without_pytorch_there_is_a_time_and_no_ratio():
    assert "ratio" not in runner._of_times("minidl", {"minidl": [1.0, 2.0]})


def test_short_steps_are_timed_by_the_hundred_and_long_ones_alone():
    assert [runner._steps_for([t, 9.0]) for t in (1e-6, 1e-3, 10.0)] == [1000, 50, 1]


def test_the_error_of_a_weight_is_relative_to_its_update():
    start = {"weight 0": np.full(4, 100.0)}
    ours, theirs = {"weight 0": np.full(4, 101.0)}, {"weight 0": np.full(4, 102.0)}
    assert runner.largest_error(ours, theirs, start) == (0.5, "weight 0")
    assert runner.largest_error(ours, theirs, start, relative=False) == (1.0, "weight 0")


@pytest.mark.parametrize("ours", [{}, {"loss": np.zeros(2)}, {"loss": np.array([np.nan])}])
def test_a_result_that_is_missing_misshapen_or_nan_is_infinitely_wrong(ours):
    assert runner.largest_error(ours, {"loss": np.ones(1)}, {}) == (math.inf, "loss")


def test_the_exponent_of_a_step_time_that_grows_in_proportion_is_one():
    times = {16: 2e-3, 32: 4e-3, 64: 16e-3}
    common = {"sweep": "s", "threads": 1, "framework": "minidl"}
    rows = report.slopes([common | {"size": n, "median": t} for n, t in times.items()])
    assert [row["minidl exponent"] for row in rows] == [None, 1.0, 2.0]
    assert [row["minidl ms"] for row in rows] == [2.0, 4.0, 16.0]


def test_memory_is_compared_with_idiomatic_pytorch_on_the_same_workload():
    peaks = {"torch": (300, 100), "minidl": (60, 50)}
    records = [
        {"workload": "W", "threads": 1, "framework": name, "peak_mb": whole, "above_import_mb": above}
        for name, (whole, above) in peaks.items()
    ]
    ours = report.with_memory_ratios(records)[1]
    assert (ours["peak_mb_ratio"], ours["above_import_mb_ratio"]) == (0.2, 0.5)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be forgotten on Linux only")
def test_the_peak_of_memory_counts_what_was_there_and_is_gone_until_it_is_forgotten():
    code = """
import sys
sys.path.append(sys.argv[1])
import numpy as np
from benchmarks import memory
before = memory.resident()
np.ones(8_000_000)
high = memory.peak() - before
memory.forget_peak()
print(high, memory.peak() - before)
"""
    answer = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=True)
    high, after = map(float, answer.stdout.split())
    assert 55 < high < 75  # 8 million float64 are 61 MB
    assert after < 20


# -- workloads -----------------------------------------------------------------------------------------------------


def test_a_workload_survives_its_journey_to_a_worker():
    for work in (*workloads.WORKLOADS, *workloads.SLOPES):
        sent = json.loads(json.dumps(workloads.describe(work)))
        again = workloads.restored(sent)
        assert type(again) is type(work)
        assert json.loads(json.dumps(workloads.describe(again))) == sent


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (workloads.mlp(784, 256, 128, 10), 235_146),
        (workloads.lenet5(), 44_426),
        (workloads.resnet(1), 78_042),
        (workloads.resnet(3), 272_474),
    ],
)
def test_the_networks_have_their_published_number_of_parameters(network, count):
    assert sum(w.size for w in workloads.parameters(network, 1, np.random.default_rng(0))) == count


def test_workloads_are_chosen_by_the_beginning_of_their_names():
    assert [work.name for work in report.chosen(["w5 V"])] == ["W5 vgg6"]
    assert report.chosen(["slopes"]) == list(workloads.SLOPES)
    assert len(report.chosen([])) == len(workloads.WORKLOADS) + len(workloads.SLOPES)
    with pytest.raises(ValueError, match="did you mean 'slope'"):
        report.chosen(["slpoe"])


@pytest.mark.oracle
@pytest.mark.parametrize("work", [*map(small, workloads.WORKLOADS)], ids=lambda work: work.name)
def test_every_workload_gives_what_pytorch_gives(work, tmp_path):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    for record in runner.measure(work, BESIDE_TORCH, 1, 1):
        assert record["note"] == ""
        assert record["error"] <= work.tolerance
        assert record["ratio"] > 0


@pytest.mark.oracle
def test_a_framework_that_computes_something_else_gets_no_time(monkeypatch):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    same_name = Train("W tiny", workloads.mlp(6, 5, 10), (4, 6), "adam")
    honest = runner._prepare

    def swapped(worker, work, scratch):
        return honest(worker, same_name if worker.framework == "minidl" else work, scratch)

    monkeypatch.setattr(runner, "_prepare", swapped)
    ours, theirs = runner.measure(TINY, HERE | {"torch": sys.executable}, 1, 1)
    assert ours["note"].startswith("differs from PyTorch: weight")
    assert "median" not in ours
    assert theirs["median"] > 0


# -- commands ------------------------------------------------------------------------------------------------------


def test_minidl_bench_prints_one_document_and_keeps_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    arguments = ["bench", "W2", "--rounds", "2", "--json", "-q", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    (record,) = document["records"]
    assert document["schema"] == "minidl.bench/1"
    assert document["machine"]["cores"] >= 1
    assert document["date"].endswith("+00:00")
    assert (record["framework"], len(record["seconds"])) == ("minidl", 2)
    assert record["version"].startswith("minidl ")
    assert json.loads((tmp_path / "bench-001" / "results.json").read_text())["records"] == [record]


def test_minidl_bench_prints_a_table(tmp_path, capsys):
    assert cli.main(["bench", "slope mlp batch 16", "W2", "--rounds", "1", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "W2 small mlp momentum        1  minidl" in printed.out
    assert "mlp by batch" in printed.out
    assert "repeat   minidl bench 'slope mlp batch 16' W2" in printed.out
    assert "W2 small mlp momentum, threads: 1" in printed.err


def test_an_unknown_workload_is_bad_input(tmp_path, capsys):
    assert cli.main(["bench", "W9", "--out", str(tmp_path)]) == 4
    assert "unknown workload 'W9'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["W2", "--rivals-python", "nowhere/python"], "run benchmarks/make_rivals.sh"),
        (["W2", "--with", "dezro", "--rivals-python", sys.executable], "got dezro"),
        (["W9", "--rivals-python", sys.executable], "unknown workload 'W9'"),
    ],
)
def test_wrong_usage_of_the_module_says_what_to_do(arguments, message):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 2
    assert message in answer.stderr


@pytest.mark.oracle
def test_the_module_writes_its_json_file(tmp_path):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    command = [sys.executable, "-m", "benchmarks", "W2", "--threads", "2", "--rounds", "2"]
    command += ["--rivals-python", sys.executable, "--out", str(tmp_path / "times.json")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    document = json.loads((tmp_path / "times.json").read_text())
    assert document["settings"] == {"rounds": 2, "threads": [2]}
    ours, theirs, tuned = document["records"]
    assert [r["framework"] for r in (ours, theirs, tuned)] == ["minidl", "torch", "torch_tuned"]
    assert (ours["goal"], theirs["ratio"]) == (0.2, 1.0)
    assert ours["peak_mb_ratio"] > 0


# -- the account of a step -----------------------------------------------------------------------------------------


def test_the_account_names_each_kernel_and_adds_up_to_the_step():
    """In a process of its own: the clocks stay around the operations."""
    command = [sys.executable, "-m", "benchmarks.account", "W2", "--seconds", "0.2"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    lines = [line.split("  ") for line in answer.stdout.splitlines()[3:] if line]
    rows = {line[0]: [cell.strip() for cell in line[1:] if cell.strip()] for line in lines}
    kernels = {"linear", "linear, back", "relu", "relu, back", "cross_entropy", "cross_entropy, back", "optimizer"}
    assert rows.keys() == kernels | {"rest", "step"}
    assert (rows["linear"][0], rows["relu, back"][0], rows["optimizer"][0]) == ("2", "1", "1")
    parts = [float(rows[name][-2 if name == "rest" else 1].rstrip("%")) for name in kernels | {"rest"}]
    assert sum(parts) == pytest.approx(float(rows["step"][0]), abs=0.01)


def test_products_are_counted_by_their_plain_definition():
    account = cli._benchmarks("account")
    x, w, y = np.zeros((2, 3, 8, 8)), np.zeros((4, 3, 5, 5)), np.zeros((2, 4, 4, 4))
    flops = 2 * (2 * 4 * 4 * 4) * (3 * 5 * 5)
    assert account.counted("conv2d")(y, x, w) == flops
    assert account.counted("conv2d_input_grad")(x, y, w) == flops
    assert account.counted("conv2d_weight_grad")(w, x, y) == flops
    assert account.counted_back("linear")([1, 1, 1], np.zeros((7, 5)), None, np.zeros((7, 3)), np.zeros((5, 3))) == (
        2 * (2 * 7 * 5 * 3)
    )
    assert account.counted("relu")(y, x) == 0
