"""The wheel: what is in it, and that it works far from the clone."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from minidl import __version__

pytest.importorskip("hatchling", reason="hatchling builds the wheel; install the extra `test`")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built without the network."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that holds the unpacked wheel, with a space and an accent in its path."""
    folder = tmp_path_factory.mktemp("My Cöurse") / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONIOENCODING": "utf-8", "MPLBACKEND": "Agg"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8")


def test_minidl_is_the_only_top_level_name(names):
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"minidl"}
    assert len(tops) == 2


def test_types_data_lessons_and_benchmarks_are_inside(names):
    assert "minidl/py.typed" in names
    for folder in ("_datasets", "_lessons", "_benchmarks"):
        assert any(name.startswith(f"minidl/{folder}/") for name in names), folder
    assert any(name.startswith("minidl/_lessons/") and name.endswith(".py") for name in names)


def test_the_assignment_and_all_lessons_are_inside(names):
    for source in sorted((ROOT / "lessons").rglob("*.py")):
        assert f"minidl/_lessons/{source.relative_to(ROOT / 'lessons').as_posix()}" in names


def test_no_test_no_page_and_no_build_is_inside(names):
    assert not [name for name in names if re.search(r"(^|/)(tests?|docs|build|dist|minidl-out)/", name)]


def test_every_source_file_of_the_package_is_inside_and_no_cache(names):
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "minidl").rglob("*.py")}
    assert sources <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_the_wheel_runs_on_any_platform(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")


def test_one_version_in_the_package_the_citation_and_the_change_log():
    cited = dict(re.findall(r"^([\w-]+): (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE))
    logged = re.search(r"^## (\d\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited["version"] == logged[1] == __version__
    assert cited["date-released"] == logged[2]
    assert cited["license"] == "MIT"


def test_the_doctor_works_from_the_wheel(installed, tmp_path):
    answer = run(installed, tmp_path, "-m", "minidl", "doctor")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_wheel_finds_its_own_folders_and_not_the_clones(installed, tmp_path):
    code = "from minidl import files; print(*[files.folder(name) for name in files.FOLDERS], sep='\\n')"
    answer = run(installed, tmp_path, "-c", code)
    assert answer.stdout.splitlines() == [
        str(installed / "minidl" / f"_{name}") for name in ("benchmarks", "datasets", "lessons")
    ], answer.stderr


def test_the_wheel_lists_its_lessons(installed, tmp_path):
    answer = run(installed, tmp_path, "-m", "minidl", "lesson")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("  1  ")
