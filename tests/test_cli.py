"""The command line: arguments, exit codes, error lines, lessons, run folders."""

import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidl import backend, cli, files
from minidl.data.errors import DataError
from minidl.experiment import CellFailed

ROOT = Path(__file__).resolve().parent.parent

LESSON = """# %% [markdown]
# # Signals that vanish
# Some words.

# %%
import os
from pathlib import Path

import minidl

print("σ² measured", os.environ.get("MINIDL_FAST"), os.environ["MPLBACKEND"], "on", os.environ["MINIDL_BACKEND"])
Path("figure.txt").write_text("drawn", encoding="utf-8")
"""


def minidl(*arguments: str, packages: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a shell runs it; without ``packages``, on a Python where nothing is installed."""
    return subprocess.run(
        [sys.executable, *([] if packages else ["-S"]), "-m", "minidl", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"} | environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )


@pytest.fixture
def lesson_folder(tmp_path, monkeypatch):
    """A lessons folder with a good lesson 1 and a lesson 2 that fails."""
    folder = tmp_path / "lessons"
    folder.mkdir()
    (folder / "01_vanish.py").write_text(LESSON, encoding="utf-8")
    (folder / "02_fail.py").write_text("import sys\nsys.exit(7)\n", encoding="utf-8")
    (folder / "notes.py").write_text("raise SystemError\n", encoding="utf-8")
    monkeypatch.setattr(files, "folder", lambda name: folder)
    return folder


def failing(monkeypatch, error: BaseException) -> None:
    """Let ``minidl doctor`` raise the error."""

    def run(args):
        raise error

    command = cli.Command("doctor", "fails", cli.doctor_arguments, run)
    monkeypatch.setattr(cli, "COMMANDS", (command,))


def test_help_names_every_command():
    answer = minidl("--help")
    assert answer.returncode == 0
    for command in cli.COMMANDS:
        assert f" {command.name} " in answer.stdout


@pytest.mark.parametrize("name", [command.name for command in cli.COMMANDS])
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["dcotor"], ["doctor", "--nonsense"], ["compare", "--seed", "one"]])
def test_wrong_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: minidl" in capsys.readouterr().err


@pytest.mark.parametrize("name", [command.name for command in cli.COMMANDS])
def test_every_command_takes_a_backend(name, capsys):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    assert "--backend {numpy,cupy,auto}" in capsys.readouterr().out


@pytest.fixture
def without_cupy(monkeypatch):
    """No library but NumPy, whatever is installed here and whatever this test run is about."""
    found = importlib.util.find_spec
    monkeypatch.setattr(backend, "_BY_TYPE", {np.ndarray: backend.NUMPY})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "cupy" else found(name, *a))
    monkeypatch.delenv("MINIDL_BACKEND", raising=False)


def test_bench_measures_nothing_in_place_of_a_gpu(without_cupy, tmp_path, capsys, monkeypatch):
    asked = ["bench", "--backend", "cupy", "--out", str(tmp_path / "out")]
    assert cli.main(asked) == 3
    assert "CuPy is not installed" in capsys.readouterr().err
    monkeypatch.setattr(backend, "device_for", lambda name: "gpu")
    assert cli.main(asked) == 2
    assert "bench measures on the processor alone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--rounds", "0"], ["--threads", "1", "-2"]])
def test_bench_refuses_what_cannot_be_counted(options, tmp_path, capsys):
    assert cli.main(["bench", "W1", *options, "--out", str(tmp_path / "out")]) == 4
    assert f"at least 1; got {options[-1]}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [["compare"], ["variance"], ["lesson", "1"]])
@pytest.mark.parametrize("how", ["option", "environment"])
def test_a_backend_that_is_not_there_ends_with_3_and_one_message(
    command, how, without_cupy, lesson_folder, tmp_path, capfd, monkeypatch
):
    if how == "environment":
        monkeypatch.setenv("MINIDL_BACKEND", "cupy")
    asked = ["--backend", "cupy"] if how == "option" else []
    assert cli.main([*command, *asked, "--out", str(tmp_path / "out")]) == 3
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "CuPy is not installed" in captured.err and "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()


def test_the_doctor_reports_and_ends_with_3_where_cupy_was_asked_for_by_name(without_cupy, capsys):
    assert cli.main(["doctor", "--backend", "numpy"]) == 0
    capsys.readouterr()
    assert cli.main(["doctor", "--backend", "cupy", "--json"]) == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["schema"] == "minidl.doctor/1"
    assert "CuPy is not installed" in captured.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (cli.CommandError("a", "b", "c", 3), 3),
        (ModuleNotFoundError("No module named 'numpy'", name="numpy"), 3),
        (ImportError("libopenblas.so is missing"), 3),
        (FileNotFoundError(2, "No such file or directory", "digits.npz"), 4),
        (ValueError("unknown scheme 'he_norml'"), 4),
        (CellFailed("the process of the cell [x] was killed (signal 9)"), 1),
        (RuntimeError("surprise"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_becomes_its_exit_code(error, code, monkeypatch, capsys):
    failing(monkeypatch, error)
    assert cli.main(["doctor"]) == code
    assert "Traceback" not in capsys.readouterr().err


def test_an_error_says_what_why_and_what_to_do_on_three_lines(monkeypatch, capsys):
    failing(monkeypatch, ValueError("unknown scheme\n 'he_norml'"))
    cli.main(["doctor"])
    what, why, fix = capsys.readouterr().err.splitlines()
    assert what == "minidl: unknown scheme 'he_norml'"
    assert why.startswith("  why: ")
    assert fix.startswith("  do:  ")


def test_a_data_set_that_is_not_there_is_no_wrong_argument(monkeypatch, capsys):
    class Unreachable(DataError):
        pass

    failing(monkeypatch, Unreachable("no network"))
    assert cli.main(["doctor"]) == 4
    assert capsys.readouterr().err.splitlines() == [
        "minidl: no network",
        "  why: the data set is not here as it should be",
        "  do:  see: minidl data list",
    ]


def test_a_cell_that_failed_is_no_surprise_and_the_way_on_is_said(monkeypatch, capsys):
    failing(monkeypatch, CellFailed("the process of the cell [x] was killed (signal 9): out of memory?"))
    assert cli.main(["doctor"]) == 1
    what, why, fix = capsys.readouterr().err.splitlines()
    assert "cell [x] was killed" in what and "stored" in why and "--resume" in fix


def test_verbose_shows_the_traceback(monkeypatch, capsys):
    failing(monkeypatch, RuntimeError("surprise"))
    assert cli.main(["doctor", "-v"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="head and pipefail are a POSIX shell's")
def test_a_reader_that_leaves_early_sees_no_error(tmp_path):
    code = "import sys; from minidl import cli; sys.exit(cli.main(['doctor', '--json']))"
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() == 141


def test_the_lessons_are_listed_by_number_and_title(lesson_folder, capsys):
    assert cli.main(["lesson"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["  1  Signals that vanish", "  2  02_fail"]


def test_the_command_line_prints_plainly_where_the_terminal_lacks_its_signs(lesson_folder, monkeypatch):
    (lesson_folder / "03_variance.py").write_text("# %% [markdown]\n# # Keep σ² ✓\n", encoding="utf-8")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli.main(["lesson"]) == 0
    assert b"  3  Keep var ok\n" in terminal.buffer.getvalue()


def test_the_list_of_lessons_is_one_json_document(lesson_folder, capsys):
    assert cli.main(["lesson", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "minidl.lessons/1"
    assert document["version"]
    assert document["lessons"] == [
        {"number": 1, "title": "Signals that vanish"},
        {"number": 2, "title": "02_fail"},
    ]


def test_a_lesson_writes_into_a_fresh_folder_each_time(lesson_folder, tmp_path, capfd):
    for _ in range(2):
        assert cli.main(["lesson", "1", "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["lesson-01-001", "lesson-01-002"]
    assert (tmp_path / "out" / "lesson-01-002" / "figure.txt").is_file()
    assert "σ² measured None Agg" in capfd.readouterr().out


def test_fast_reaches_the_lesson(lesson_folder, tmp_path, capfd):
    cli.main(["lesson", "1", "--fast", "--out", str(tmp_path / "out")])
    assert "σ² measured 1 Agg" in capfd.readouterr().out


@pytest.mark.parametrize(("asked", "told"), [(["--backend", "numpy"], "numpy"), ([], "numpy")])
def test_the_backend_reaches_the_lesson(asked, told, without_cupy, lesson_folder, tmp_path, capfd):
    assert cli.main(["lesson", "1", *asked, "--out", str(tmp_path / "out")]) == 0
    assert f"on {told}\n" in capfd.readouterr().out


def test_the_option_beats_the_environment_in_a_lesson(without_cupy, lesson_folder, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("MINIDL_BACKEND", "cupy")
    assert cli.main(["lesson", "1", "--backend", "numpy", "--out", str(tmp_path / "out")]) == 0
    assert "on numpy\n" in capfd.readouterr().out


def test_a_lesson_speaks_plainly_where_the_terminal_lacks_its_signs(lesson_folder, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert cli.main(["lesson", "1", "--out", str(tmp_path / "out")]) == 0
    assert "var measured" in capfd.readouterr().out


def test_a_lesson_in_json_mode_leaves_stdout_to_the_document(lesson_folder, tmp_path, capfd):
    assert cli.main(["lesson", "1", "--json", "--out", str(tmp_path / "out")]) == 0
    captured = capfd.readouterr()
    document = json.loads(captured.out)
    assert (document["exit_code"], document["files"]) == (0, ["figure.txt"])
    assert "measured" in captured.err


def test_the_exit_code_of_a_lesson_is_passed_on(lesson_folder, tmp_path):
    assert cli.main(["lesson", "2", "--out", str(tmp_path / "out")]) == 7


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_lesson_ended_by_a_signal_answers_as_a_shell_would(lesson_folder, tmp_path):
    source = "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n"
    (lesson_folder / "02_fail.py").write_text(source, encoding="utf-8")
    assert cli.main(["lesson", "2", "--out", str(tmp_path / "out")]) == 128 + 15


def test_a_lesson_that_does_not_exist_is_wrong_usage_and_names_those_that_do(lesson_folder, tmp_path, capsys):
    assert cli.main(["lesson", "9", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "there is no lesson 9" in error
    assert "1, 2" in error
    assert not (tmp_path / "out").exists()


def test_a_run_folder_takes_the_next_free_number(tmp_path):
    for name in ("compare-001", "compare-007", "compare-x", "variance-050"):
        (tmp_path / name).mkdir()
    assert files.run_folder(tmp_path, "compare").name == "compare-008"
    assert files.run_folder(tmp_path / "new" / "deep", "compare").name == "compare-001"


def test_an_unknown_folder_of_minidl_is_named_with_the_nearest_one():
    with pytest.raises(ValueError, match="did you mean 'datasets'"):
        files.folder("dataset")


def test_the_data_cache_follows_its_environment_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path))
    assert files.data_cache() == tmp_path


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "chosen/minidl"),
        ("win32", "LOCALAPPDATA", "chosen/minidl"),
        ("linux", None, "home/.cache/minidl"),
        ("darwin", None, "home/Library/Caches/minidl"),
        ("win32", None, "home/AppData/Local/minidl"),
    ],
)
def test_the_data_cache_lies_where_the_platform_keeps_caches(platform, variable, expected, monkeypatch, tmp_path):
    for name in ("MINIDL_DATA", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "chosen"))
    monkeypatch.setattr(files.sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert files.data_cache() == tmp_path / expected
