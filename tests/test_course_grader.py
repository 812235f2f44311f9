"""The isolated grader: what a submission may try, and that it neither gains points nor stops the run for others."""

import json
import os
import re
import subprocess
import sys
import time
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import minidl
from minidl import cli
from minidl.course import a2, commands, handout, isolate
from minidl.course.assignment import Assignment, hidden
from minidl.course.grade import Grade, Submission, grade, submission
from minidl.course.isolate import Call, Limits

pytestmark = pytest.mark.host("a student's code runs in a process of its own, on NumPy alone")

PACKAGE = Path(minidl.__file__).resolve().parent
SOURCE = handout.source(a2.A2)
ONE = Call("f", {})


TASKS = {task.function: task for task in a2.tasks(hidden("s", "A2", "eve"))}  # drawn once: it takes a while


def some(*functions: str) -> Assignment:
    """The assignment with some of its functions, as eve gets it, for the sake of time."""
    return replace(a2.A2, tasks=lambda draw: [TASKS[name] for name in functions])


def graded(text: str, *functions: str, seconds: float = 10) -> Grade:
    return grade(some(*(functions or ("glorot_normal",))), Submission("eve", text), "s", Limits(seconds))


def answer(text: str, **limits: float) -> isolate.Answer:
    """What the submission's ``f()`` comes to."""
    return isolate.call(text, "a2.py", [ONE], Limits(**limits)).answers[0]


def answers(bodies: dict[str, str]) -> dict[str, isolate.Answer]:
    """What functions with these bodies come to, one after the other in one process."""
    text = "import numpy as np\n" + "".join(f"def f{i}():\n    {body}\n" for i, body in enumerate(bodies.values()))
    found = isolate.call(text, "a2.py", [Call(f"f{i}", {}) for i in range(len(bodies))], Limits()).answers
    return dict(zip(bodies, found, strict=True))


# -- answers are arrays --------------------------------------------------------------------------------------------


VALUES = (
    "3; 2.5; True; [1, 2, 3]; (4, 0.5); np.arange(6.0).reshape(2, 3); np.arange(6.0).reshape(2, 3).T; np.float32(1); "
    "np.ones((0, 3), 'float32'); np.arange(8, dtype='int16')[::-2]; np.ma.ones(3)".split("; ")
)
FAILURES = {
    "return 1 / 0": r"ZeroDivisionError: division by zero \(a2.py, line 3\)",
    "return 'one'": "must be numbers",
    "return None": "must be numbers",
    "return 1j": "must be numbers",
    "return [[1, 2], [3]]": "ValueError",
    "raise SystemExit": "SystemExit",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "return f7()": "RecursionError",
    "import os; os._exit(0)": "the process ended",
}


@pytest.fixture(scope="module")
def returned() -> dict[str, isolate.Answer]:
    """What functions that return these values come to."""
    return answers({value: f"return {value}" for value in VALUES})


@pytest.fixture(scope="module")
def failed() -> dict[str, isolate.Answer]:
    """What functions that answer with no number come to; each failure leaves the process to the next."""
    return answers({body: body for body in FAILURES})


@pytest.mark.parametrize("value", VALUES)
def test_what_a_function_returns_comes_back_as_the_array_it_is(value, returned):
    expected, found = np.asarray(eval(value, {"np": np})), returned[value]
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("body", FAILURES)
def test_anything_else_is_a_failure_that_says_why(body, failed):
    assert isinstance(failed[body], str)
    assert re.search(FAILURES[body], failed[body]), failed[body]


def test_a_process_that_crashes_is_a_failure():
    assert "the process ended" in answer("import os\ndef f(): os.abort()\n")


def test_answers_that_came_before_the_end_of_the_process_count():
    text = "import os\ndef f(): return 7\ndef g(): os._exit(0)\n"
    outcome = isolate.call(text, "a2.py", [ONE, Call("g", {}), ONE])
    assert outcome.answers[0] == 7
    assert [type(each) for each in outcome.answers[1:]] == [str, str]


@pytest.mark.parametrize(
    "frame",
    [
        b'{"dtype": "object", "shape": [1]}\n' + bytes(8),
        b'{"dtype": "float64", "shape": [1000000000000]}\n' + bytes(8),
        b'{"dtype": "float64", "shape": [-1, -1]}\n' + bytes(8),
        b'{"dtype": "float64", "shape": [2]}\n' + bytes(8),
        b'{"dtype": "<f8,O", "shape": [1]}\n' + bytes(16),
        b'{"dtype": "float64", "shape": "x"}\n',
        b'{"dtype": "float64", "shape": [-1]}\n' + bytes(8),
        b'{"dtype": "float64", "shape": [1e999]}\n',
        b'{"dtype": "float64", "shape": [1' + b"0" * 40 + b"]}\n",
        b'{"dtype": "complex128", "shape": [1]}\n' + bytes(16),
        b'{"dtype": "U2", "shape": [1]}\n' + bytes(8),
        b'{"dtype": "no such", "shape": [1]}\n' + bytes(8),
        b"[" * 3_000 + b"\n",
        b"\x80\x04\x95pickle\n",
        b"[1, 2]\n",
        b'"error"\n',
        b"null\n",
    ],
)
def test_a_forged_answer_is_unreadable_and_harmless(frame):
    assert list(isolate._frames(frame)) == [None]


def test_forged_answers_on_the_channel_are_judged_like_any_others():
    """Whoever finds the descriptor can send arrays, which he can do by returning them; not verdicts."""
    frame = '{"dtype": "float64", "shape": [], "share": 1, "points": 50}\\n'
    text = f"import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'{frame}')\n    except OSError: pass\n"
    assert graded(text + SOURCE).points == 0


# -- limits --------------------------------------------------------------------------------------------------------


ENDLESS = {
    "loop that catches all and is deaf to signals": "import signal\n"
    "    for s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\n"
    "    while True:\n        try:\n            while True: pass\n        except: pass",
    "sleep": "import time; time.sleep(1000)",
    "closed streams": "import os\n    os.closerange(0, 20)\n    while True: pass",
}  # fmt: skip


@pytest.mark.parametrize("way", ENDLESS)
def test_what_never_ends_is_stopped(way):
    began = time.monotonic()
    found = answer(f"def f():\n    {ENDLESS[way]}\n", seconds=1)
    assert isinstance(found, str) and "stopped after 1 seconds" in found
    assert time.monotonic() - began < 10


def test_a_file_that_never_loads_is_waited_for_once_and_not_for_every_function():
    began = time.monotonic()
    found = graded("while True: pass\n", *TASKS, seconds=1)
    assert found.points == 0 and "could not be loaded: stopped after 1 seconds" in found.results[-1].says
    assert time.monotonic() - began < 0.8 * len(TASKS)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_a_memory_hog_gets_an_error_and_the_machine_keeps_its_memory():
    found = answer("import numpy as np\ndef f(): return [np.ones(10**7) for _ in range(1000)]\n", megabytes=400)
    assert isinstance(found, str) and "MemoryError" in found


def test_what_is_printed_without_end_is_cut_and_the_process_stopped():
    outcome = isolate.call("def f():\n    while True: print('x' * 10_000)\n", "a2.py", [ONE], Limits(printed=100_000))
    assert "it printed more than 100000 bytes" in outcome.answers[0]
    assert len(outcome.printed) <= 2_000


def test_an_answer_without_end_is_not_kept():
    found = answer("import numpy as np\ndef f(): return np.ones(3_000_000)\n", answered=1_000_000)
    assert isinstance(found, str) and "far too large" in found


def test_what_is_printed_reaches_the_student_without_control_characters():
    printed = isolate.call("print('Zoë \\x1b[31m')\ndef f(): return 1\n", "a2.py", [ONE]).printed
    assert printed == "Zoë [31m"


# -- what is out of reach ------------------------------------------------------------------------------------------


def test_nothing_of_minidl_is_in_the_child_and_its_environment_is_empty(monkeypatch):
    monkeypatch.setenv("MINIDL_COURSE_SECRET", "a-secret-word")
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
    text = """import os, sys
print(sorted(os.environ), [name for name in sys.modules if "minidl" in name], sys.path, os.listdir is None)
def f(): return 1
"""
    printed = isolate.call(text, "a2.py", [ONE]).printed
    assert "MINIDL" not in printed and "minidl" not in printed
    assert str(PACKAGE.parent) not in printed and "site-packages" not in printed


ROOT = repr(str(PACKAGE.parent))
SITE = repr(str(Path(np.__file__).resolve().parent.parent))

#: Ways to minidl, to other people's files, out of the process; each tries to get a number for it.
REACHES = {
    "import": "import {module}",
    "path": "import sys; sys.path.append({root}); import {module}",
    "site": "import site; site.main(); site.addsitedir({site}); import sys; sys.path.append({root}); import {module}",
    "numpy's neighbour": "import sys, numpy; sys.path += [numpy.__file__[:-18], {root}]; import {module}",
    "importlib": "import importlib.util as u\n    spec = u.spec_from_file_location('m', {root} + '/minidl/text.py')\n"
    "    spec.loader.exec_module(u.module_from_spec(spec))",
    "runpy": "import runpy; runpy.run_path({root} + '/minidl/text.py')",
    "open": "open({root} + '/minidl/init/scaling.py').read()",
    "open by bytes": "open(({root} + '/minidl/init/scaling.py').encode()).read()",
    "os.open": "import os; os.read(os.open({root} + '/minidl/init/scaling.py', os.O_RDONLY), 10)",
    "dots": "import os; open(os.__file__[:-5] + '/' + '../' * 30 + {root} + '/minidl/init/scaling.py').read()",
    "numpy reads": "import numpy; numpy.fromfile({root} + '/minidl/init/scaling.py', 'uint8', 10)",
    "codecs": "import codecs; codecs.open({root} + '/minidl/init/scaling.py').read()",
    "a disguised path": "class P(str):\n        __class__ = int\n        startswith = lambda *a: True\n"
    "    open(P({root} + '/minidl/init/scaling.py')).read()",
    "exchanged builtins": "import builtins, os.path\n    real = builtins.isinstance, builtins.type, builtins.str\n"
    "    builtins.isinstance, builtins.type, builtins.str = [lambda *a: int] * 3\n"
    "    try: open({root} + '/minidl/init/scaling.py').read()\n"
    "    finally: builtins.isinstance, builtins.type, builtins.str = real",
    "exchanged globals": "import __main__\n    __main__.BAR = __main__.EVENTS = ''\n    __main__._door = None\n"
    "    open({root} + '/minidl/init/scaling.py').read()",
    "listing": "import os; os.listdir({root})",
    "parent's environment": "import os; open(f'/proc/{{os.getppid()}}/environ').read()",
    "parent's command": "import os; open(f'/proc/{{os.getppid()}}/cmdline').read()",
    "kill": "import os; os.kill(os.getppid(), 0)",
    "subprocess": "import subprocess; subprocess.run(['python3', '-c', 'import minidl'])",
    "system": "import os; os.system('true')",
    "fork": "import os; os.fork() or os._exit(0)",
    "exec": "import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'import minidl'])",
    "raw fork": "import sys; sys.modules.pop('_posixsubprocess', 0); import _posixsubprocess",
    "write": "open('left behind.txt', 'w')",
    "remove": "import os; os.remove({root} + '/README.md')",
    "rename": "import os; os.rename('a', 'b')",
    "link": "import os; os.symlink({root}, 'here')",
    "chdir": "import os; os.chdir({root})",
    "network": "import socket; socket.socket()",
    "ctypes": "import ctypes; ctypes.CDLL(None)",
    "objects": "import gc; gc.get_objects()",
    "sqlite": "import sqlite3; sqlite3.connect({root} + '/x.db')",
    "parent's limits": "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
}
POSIX = {"parent's environment", "parent's command", "fork", "raw fork", "parent's limits"}


@pytest.fixture(scope="module")
def reached() -> dict[str, isolate.Answer]:
    """Every way, tried in one process: what one has changed there, the next finds."""
    ways = {way: code for way, code in REACHES.items() if os.name == "posix" or way not in POSIX}
    return answers(
        {way: code.format(root=ROOT, site=SITE, module="minidl.init") + "\n    return 1" for way, code in ways.items()}
    )


@pytest.mark.parametrize("way", REACHES)
def test_a_submission_reaches_nothing_but_numpy_and_the_standard_library(way, reached):
    if way not in reached:
        pytest.skip("there is no such thing here")
    found = reached[way]
    assert isinstance(found, str)
    assert "PermissionError" in found or "No module named" in found, found


@pytest.mark.parametrize("module", ["minidl", "minidl.init", "minidl.nn", "minidl.meanfield", "minidl.course.a2"])
def test_a_submission_that_imports_minidl_gets_nothing(module):
    found = graded(f"import sys\nsys.path.insert(0, {ROOT})\nimport {module}\n{SOURCE}")
    assert found.points == 0
    assert "No module named 'minidl'" in found.results[0].says


def test_the_call_of_the_librarys_own_scheme_costs_that_function_and_no_other():
    cheat = """
def glorot_normal(shape, *, fan_in, fan_out, rng):
    from minidl import init
    return init.get("glorot_normal")(shape, fan_in=fan_in, fan_out=fan_out, rng=rng)
"""
    found = graded(SOURCE + cheat, "glorot_normal", "glorot_uniform")
    assert [found.points, found.of] == [5, 10]


def test_what_a_submission_may_use_works():
    text = """
import collections, dataclasses, decimal, fractions, functools, itertools, math, random, statistics, typing, warnings
import numpy as np, numpy.linalg, numpy.ma, numpy.polynomial, numpy.testing
def f():
    warnings.warn("a word")
    np.testing.assert_allclose(np.linalg.svd(np.eye(3))[1], 1)
    return np.polynomial.hermite_e.hermegauss(5)[0].size + np.random.default_rng().integers(1, 2) + np.fft.fft([1]).size
"""
    assert answer(text) == 7


# -- tricks on the judge -------------------------------------------------------------------------------------------


TRICKS = {
    "lying equality": """
import numpy as np
class Liar(np.ndarray):
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = lambda self, other: True
    def std(self, *a, **k): return 1.0
    def __array__(self, *a, **k): return self
def glorot_normal(shape, **k): return np.zeros(shape, 'float32').view(Liar)
""",
    "an object that is equal to all": """
class Liar:
    shape = dtype = None
    def __eq__(self, other): return True
    def __getattr__(self, name): return lambda *a, **k: True
def glorot_normal(shape, **k): return Liar()
""",
    "exchanged numpy": """
import numpy as np
np.array_equal = np.allclose = np.isclose = lambda *a, **k: True
np.testing.assert_allclose = lambda *a, **k: None
def glorot_normal(shape, **k): return np.zeros(shape, 'float32')
""",
    "frames of the caller": """
import sys
def glorot_normal(shape, **k):
    frame = sys._getframe()
    while frame is not None:
        for name, value in list(frame.f_locals.items()) + list(frame.f_globals.items()):
            if name in ('want', 'expected', 'std', 'points', 'verdict', 'judge', 'secret'): return value
        frame = frame.f_back
    raise LookupError('nothing to be found')
""",
    "changed requests": """
import __main__, json
json.dumps = lambda *a, **k: '{"share": 1.0, "points": 5}'
""",
    "a verdict as an answer": """
def glorot_normal(shape, **k): return {'share': 1.0, 'says': ''}
""",
    "not a number": """
import numpy as np
def glorot_normal(shape, **k): return np.full(shape, np.nan, 'float32')
""",
    "infinite": """
import numpy as np
def glorot_normal(shape, **k): return np.full(shape, np.inf, 'float32')
""",
    "leaving at the end of the import": "import atexit, os\natexit.register(os._exit, 0)\nos._exit(0)\n",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_on_the_judge_gains_no_point_and_raises_nothing(trick):
    found = graded(TRICKS[trick])
    # zeros are float32 of the right shape and always the same: that is "form", 1 point, for everyone
    assert found.points == (1 if trick in ("lying equality", "exchanged numpy") else 0)


def test_a_table_of_constants_found_out_beforehand_is_worth_nothing():
    """A submission that answers right for one student's hidden numbers fails with another's: only the law counts."""
    text = "import numpy as np\nW = {}\ndef activation_gain(phi, q): return W.get(round(q, 3), 1.0)\n"
    found = graded(text.format({0.5: 1.2, 2.0: 1.4}), "activation_gain")
    assert found.points == 0


# -- nobody stops the run ------------------------------------------------------------------------------------------


def test_a_class_with_every_kind_of_trouble_is_graded_to_the_end(tmp_path, monkeypatch, capsys):
    trouble = {
        "adam": SOURCE,
        "binary": b"\xff\xfe\x00\x01" * 100,
        "crash": "import os; os.abort()",
        "endless": "import time; time.sleep(1000)",
        "exit": "import os; os._exit(0)",
        "flood": "while True: print('x' * 100_000)",
        "hog": "x = []\nwhile True: x.append(bytearray(10**8))",
        "huge": b"#" * 2_000_000,
        "killer": "import os; os.kill(os.getppid(), 9)",
        "syntax": "def f(:\n",
        "zoe": SOURCE,
    }
    for student, text in trouble.items():
        (tmp_path / student).mkdir()
        (tmp_path / student / "a2.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a2.py").symlink_to(tmp_path / "adam" / "a2.py")
    (tmp_path / "nothing").mkdir()
    names = [*trouble, "linked", "nothing"]
    monkeypatch.setitem(commands.ASSIGNMENTS, "A2", some("glorot_normal"))
    paths = [str(tmp_path / name) for name in names]
    common = ["--secret", "s", "--seconds", "2", "--out", str(tmp_path / "out"), "--json"]
    assert cli.main(["course", "grade", "A2", *paths, *common]) == 1
    document = json.loads(capsys.readouterr().out)
    points = {each["student"]: each["points"] for each in document["grades"]}
    assert points == dict.fromkeys(names, 0) | {"adam": 5, "zoe": 5}
    for name in names:
        assert json.loads((Path(document["folder"]) / f"{name}.json").read_text("utf-8"))["score"] == points[name]
    for name, text in trouble.items():
        content = (tmp_path / name / "a2.py").read_bytes()
        assert content == (text if isinstance(text, bytes) else text.encode())


def test_a_submission_is_named_for_its_folder_or_for_its_file(tmp_path):
    (tmp_path / "ada").mkdir()
    for path in (tmp_path / "ada" / "a2.py", tmp_path / "bob.py"):
        path.write_text("x = 1\n", encoding="utf-8")
    assert submission(tmp_path / "ada", "a2.py").student == "ada"
    assert submission(tmp_path / "ada" / "a2.py", "a2.py").student == "ada"
    assert submission(tmp_path / "bob.py", "a2.py").student == "bob"


# -- installed in other ways ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pth", "beside numpy"])
def test_minidl_cannot_be_imported_however_it_is_installed(way, tmp_path):
    """An editable installation is a .pth file in site-packages; a wheel lies there beside NumPy."""
    venv.create(tmp_path / "env", symlinks=os.name == "posix")
    python = tmp_path / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    numpy = Path(np.__file__).resolve().parent
    for folder in (numpy, numpy.parent / "numpy.libs"):
        if folder.is_dir():
            link(packages / folder.name, folder)
    if way == "pth":
        (packages / "__editable__minidl.pth").write_text(str(PACKAGE.parent) + "\n", encoding="utf-8")
    else:
        link(packages / "minidl", PACKAGE)
    code = """
from pathlib import Path
import minidl, sys
from minidl.course import isolate
calls = [isolate.Call("f", {}), isolate.Call("g", {})]
text = "def f():\\n    import minidl\\n    return 1\\ndef g():\\n    import sys, numpy\\n" \\
       "    sys.path.append(sys.argv[0]); sys.path.append(%r); import minidl.init\\n    return 1\\n"
outcome = isolate.call(text % sys.argv[1], "a2.py", calls)
print(outcome.loaded, *outcome.answers, sep="|")
"""
    answered = subprocess.run([python, "-c", code, str(packages)], capture_output=True, text=True, cwd=tmp_path)
    assert answered.returncode == 0, answered.stderr
    loaded, *why = answered.stdout.strip().split("|")
    assert loaded == "True"
    assert all("No module named 'minidl'" in each for each in why), why


def link(path: Path, target: Path) -> None:
    path.symlink_to(target, target_is_directory=True)
