"""Is this a release? Builds sdist and wheel, looks into both, and uses the wheel in an empty environment far from here.

    make release-check

The source distribution is built from this folder, and the wheel from the source distribution alone, so that neither
lacks anything. Needs hatchling (extra `test`), and from outside only what pip needs to install NumPy and matplotlib.
Prints a table; ends with 1 if anything failed, else leaves both files in ``dist/``.
"""

from __future__ import annotations

import email
import email.message
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PROGRAMS = "Scripts" if sys.platform == "win32" else "bin"
SICK = ["--activation", "sigmoid", "--init", "glorot_normal", "--depth", "10"]
HEALTHY = ["--activation", "tanh", "--init", "glorot_normal", "--depth", "5"]
JUNK = re.compile(
    r"__pycache__|\.py[co]$|\.(git/|venv|mypy_cache|pytest_cache|ruff_cache|hypothesis)|(^|/)minidl-out/|~$"
)
MACHINE = re.compile(r"/home/\w|/Users/\w|[A-Z]:\\+Users\\")


def main() -> int:
    """Every check in turn; one that others need ends the run if it fails."""
    rows: list[tuple[str, str, float]] = []
    with tempfile.TemporaryDirectory(prefix="minidl rélease ") as name:
        release = Release(Path(name))
        for check, needed in CHECKS:
            began = time.monotonic()
            try:
                said, good = check(release), True
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1].line
                said, good = f"FAILED: {str(error) or where}", False
                if not isinstance(error, AssertionError):
                    traceback.print_exc()
            rows.append((check.__doc__.strip().rstrip("."), said, time.monotonic() - began))
            print(f"{'ok  ' if good else 'FAIL'}  {rows[-1][2]:5.0f} s  {rows[-1][0]}: {said}", flush=True)
            if needed and not good:
                break
        failed = sum(said.startswith("FAILED") for _, said, _ in rows)
        left = len(CHECKS) - len(rows)
        print(f"\n{len(rows) - failed} of {len(CHECKS)} checks passed" + (f", {left} not reached" if left else ""))
        if not failed:
            release.keep()
    return 1 if failed else 0


class Release:
    """The folders of one run: what is built, the empty environment, and a place to work in."""

    def __init__(self, folder: Path) -> None:
        self.built, self.source = folder / "built", folder / "source"
        self.environment, self.desk = folder / "environment", folder / "a stranger's désk"
        self.desk.mkdir()

    @property
    def sdist(self) -> Path:
        return next(self.built.glob("*.tar.gz"))

    @property
    def wheel(self) -> Path:
        return next(self.built.glob("*.whl"))

    @property
    def python(self) -> Path:
        return self.environment / PROGRAMS / "python"

    def in_wheel(self) -> dict[str, bytes]:
        """Name and content of every file of the wheel."""
        with zipfile.ZipFile(self.wheel) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}

    def in_sdist(self) -> dict[str, bytes]:
        """Name, below the top folder, and content of every file of the source distribution."""
        folder = next(self.source.iterdir())
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    def metadata(self) -> email.message.Message:
        """METADATA of the wheel."""
        (text,) = [content for name, content in self.in_wheel().items() if name.endswith(".dist-info/METADATA")]
        return email.message_from_string(text.decode("utf-8"))

    def minidl(self, *words: str, code: int = 0, folder: str = ".") -> str:
        """What a command of the installed wheel prints; an exit code other than ``code`` is a failure."""
        return run([str(self.environment / PROGRAMS / "minidl"), *words], self.desk / folder, code)

    def keep(self) -> None:
        """Copy what was built to dist/."""
        target = ROOT / "dist"
        target.mkdir(exist_ok=True)
        for path in (self.sdist, self.wheel):
            shutil.copy2(path, target)
            print(f"dist/{path.name}  {path.stat().st_size / 1e6:.2f} MB")


def run(command: list[str], folder: Path, code: int = 0, **variables: str) -> str:
    """Run a command that knows nothing of this folder and of the caller's settings for Python and minidl."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MINIDL", "VIRTUAL_ENV"))
    }
    kept |= {"PYTHONIOENCODING": "utf-8", "MPLBACKEND": "Agg", **variables}
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, encoding="utf-8")
    if done.returncode != code:
        shown = " ".join(Path(command[0]).name if word is command[0] else word for word in command)
        raise AssertionError(
            f"{shown}\nended with {done.returncode} and not with {code}\n{(done.stdout + done.stderr)[-3000:]}"
        )
    return done.stdout


# ------------------------------------------------------------------------------------------------ build and look inside


def source_distribution(release: Release) -> str:
    """Source distribution built from this folder."""
    run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(release.built)], ROOT)
    with tarfile.open(release.sdist) as archive:
        archive.extractall(release.source, filter="data")
    return f"{release.sdist.name}, {release.sdist.stat().st_size / 1e6:.2f} MB, {len(release.in_sdist())} files"


def wheel(release: Release) -> str:
    """Wheel built from the source distribution alone."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(release.built)]
    run(command, next(release.source.iterdir()))
    assert release.wheel.name.endswith("-py3-none-any.whl"), release.wheel.name
    return f"{release.wheel.name}, {release.wheel.stat().st_size / 1e6:.2f} MB, {len(release.in_wheel())} files"


def version(release: Release) -> str:
    """One version in all places."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("CITATION.cff", "CHANGELOG.md")}
    logged, date = re.search(r"^## (\S+) - (\S+)$", texts["CHANGELOG.md"], re.MULTILINE).groups()
    info = email.message_from_bytes(release.in_sdist()["PKG-INFO"])
    package = release.in_wheel()["minidl/__init__.py"].decode("utf-8")
    found = {
        "minidl/__init__.py": re.search(r'__version__ = "(.+)"', package)[1],
        "METADATA": release.metadata()["Version"],
        "PKG-INFO": info["Version"],
        "wheel": release.wheel.name.split("-")[1],
        "sdist": release.sdist.name.removesuffix(".tar.gz").split("-")[1],
        "CITATION.cff": re.search(r"^version: (.+)$", texts["CITATION.cff"], re.MULTILINE)[1],
        "CHANGELOG.md": logged,
    }
    assert len(set(found.values())) == 1, found
    released = re.search(r"^date-released: (.+)$", texts["CITATION.cff"], re.MULTILINE)[1]
    assert released == date, f"CITATION.cff says {released}, CHANGELOG.md {date}"
    assert re.fullmatch(r"\d+\.\d+\.\d+", logged), f"{logged} is not the number of a release"
    return f"{logged} of {date}, in {len(found)} places"


def metadata(release: Release) -> str:
    """Metadata: licence, Python, dependencies, extras, README."""
    found = release.metadata()
    assert found["Name"] == PROJECT["name"] and found["Summary"] == PROJECT["description"]
    assert found["License-Expression"] == "MIT" and found.get_all("License-File") == ["LICENSE"]
    assert found["Requires-Python"] == PROJECT["requires-python"]
    assert set(found.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    always = {each for each in found.get_all("Requires-Dist") if "extra ==" not in each}
    assert always == set(PROJECT["dependencies"]), always
    assert found["Description-Content-Type"] == "text/markdown"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert found.get_payload().strip() == readme.strip(), "the description is not the README"
    extras = len(found.get_all("Provides-Extra"))
    return f"MIT, Python {found['Requires-Python']}, {len(always)} dependencies, {extras} extras"


def readme(release: Release) -> str:
    """README: closed blocks, even tables, links that lead somewhere in the source distribution."""
    files, text = release.in_sdist(), release.metadata().get_payload()
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0, "a block of code is not closed"
    prose = re.sub(r"^```[\s\S]*?^```$", "", text, flags=re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n)+", prose, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", row))) for row in table.splitlines()}
        assert len(columns) == 1, f"rows of different length: {table[:200]}"
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    lost = [link for link in links if link and not any(name == link or name.startswith(f"{link}/") for name in files)]
    assert not lost, f"links that lead nowhere: {lost}"
    return f"{len(links)} links"


def contents_of_the_wheel(release: Release) -> str:
    """Wheel: package, data sets, lessons, assignment, benchmarks; no tests, pages or caches."""
    names = set(release.in_wheel())
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "minidl").rglob("*.py")}
    for folder in ("datasets", "lessons", "benchmarks"):
        kept = [path for path in (ROOT / folder).rglob("*") if path.is_file() and not JUNK.search(path.as_posix())]
        sources |= {f"minidl/_{path.relative_to(ROOT).as_posix()}" for path in kept}
    sources |= {"minidl/py.typed", "minidl/_datasets/digits.npz", "minidl/_lessons/assignments/a2.py"}
    assert sources <= names, f"missing: {sorted(sources - names)}"
    assert {name.split("/")[0] for name in names} == {"minidl", f"minidl-{release.metadata()['Version']}.dist-info"}
    strange = [name for name in names if JUNK.search(name) or re.search(r"(^|/)(tests?|docs)/|test_\w+\.py$", name)]
    assert not strange, strange
    return f"{len(names)} files"


def contents_of_the_source(release: Release) -> str:
    """Source distribution: everything that is needed to read, test and cite; no caches."""
    names = set(release.in_sdist())
    needed = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "Makefile", "pyproject.toml"}
    needed |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    needed |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert needed <= names, f"missing: {sorted(needed - names)}"
    assert not [name for name in names if JUNK.search(name)], [name for name in names if JUNK.search(name)]
    return f"{len(names)} files"


def no_path_of_a_machine(release: Release) -> str:
    """No path of the machine it was made on."""
    here = [str(path).encode() for path in (ROOT, Path.home(), Path(sys.prefix)) if len(str(path)) > 5]
    inside = {f"wheel: {name}": content for name, content in release.in_wheel().items()}
    both = inside | {f"sdist: {name}": content for name, content in release.in_sdist().items()}
    found = [name for name, content in both.items() if any(path in content for path in here)]
    texts = {name: content.decode("utf-8", "replace") for name, content in inside.items()}
    found += [name for name, text in texts.items() if MACHINE.search(text)]
    assert not found, found
    return f"{len(both)} files read"


# ----------------------------------------------------------------------------------------------------- use it elsewhere


def installation(release: Release) -> str:
    """Installed in an empty environment."""
    run([sys.executable, "-m", "venv", str(release.environment)], release.desk)
    pip = [str(release.python), "-m", "pip"]
    run([*pip, "install", "--quiet", "--disable-pip-version-check", str(release.wheel)], release.desk)
    run([*pip, "check"], release.desk)
    where = run(
        [str(release.python), "-c", "import minidl, sys; print(minidl.__file__); print(*sys.path)"], release.desk
    )
    file, path = where.splitlines()
    assert Path(file).is_relative_to(release.environment), file
    assert str(ROOT) not in path, path
    return run([*pip, "list", "--format=freeze"], release.desk).replace("\n", " ").strip()


def doctor(release: Release) -> str:
    """`minidl doctor`."""
    checks = json.loads(release.minidl("doctor", "--json"))["checks"]
    return f"{len(checks)} questions, {sum(check['status'] == 'ok' for check in checks)} ok"


def main_job(release: Release) -> str:
    """`minidl compare`."""
    document = json.loads(release.minidl("compare", "--json", "-q"))
    folder = release.desk / document["folder"]
    assert (folder / "compare.png").stat().st_size > 10_000 and (folder / "results.json").is_file()
    assert len(document["records"]) == 24, len(document["records"])
    return f"{len(document['records'])} networks trained, table and figure written"


def lessons(release: Release) -> str:
    """`minidl lesson N --fast`, all, and one as a notebook."""
    numbers = [each["number"] for each in json.loads(release.minidl("lesson", "--json"))["lessons"]]
    assert len(numbers) >= 6, numbers
    for number in numbers:
        release.minidl("lesson", str(number), "--fast")
    book = json.loads(Path(json.loads(release.minidl("lesson", "1", "--notebook", "--json"))["notebook"]).read_bytes())
    return f"{len(numbers)} lessons, a notebook of {len(book['cells'])} cells"


def diagnosis(release: Release) -> str:
    """`minidl diagnose`, of a sick and a healthy network."""
    sick = release.minidl("diagnose", "mlp", *SICK, code=1)
    release.minidl("diagnose", "mlp", *HEALTHY, code=0)
    return re.search(r"FINDING \w+: .*", sick)[0]


def assignment(release: Release) -> str:
    """Assignment: hand-out, check, grade of the empty one and of the solution."""
    release.minidl("course", "handout", "A2", "handed out")
    release.minidl("course", "check", code=1, folder="handed out")
    for student in ("empty", "solved"):
        (release.desk / "submissions" / student).mkdir(parents=True)
    site = Path(run([str(release.python), "-c", "import minidl; print(minidl.__path__[0])"], release.desk).strip())
    shutil.copy(release.desk / "handed out" / "a2.py", release.desk / "submissions" / "empty")
    shutil.copy(site / "_lessons" / "assignments" / "a2.py", release.desk / "submissions" / "solved")
    submissions = ("submissions/empty", "submissions/solved")
    found = json.loads(release.minidl("course", "grade", "A2", *submissions, "--secret", "s", "--json", code=1))
    points = {each["student"]: (each["points"], each["of"]) for each in found["grades"]}
    assert points["empty"][0] == 0 and points["solved"][0] == points["solved"][1] > 0, points
    release.minidl("course", "grade", "A2", "submissions/solved", "--secret", "s", code=0)
    return f"empty {points['empty'][0]:g}, solved {points['solved'][0]:g} of {points['solved'][1]}"


def pages(release: Release) -> str:
    """Every command and Python block of README and docs, with the wheel."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/test_docs_commands.py",
        "-k",
        "prints",
    ]
    said = run(command, ROOT, MINIDL_DOCS_PYTHON=str(release.python), PYTHONPATH=str(ROOT))
    return said.strip().splitlines()[-1]


#: what is checked, and whether the rest has no meaning without it
CHECKS: list[tuple[Callable[[Release], Any], bool]] = [
    (source_distribution, True),
    (wheel, True),
    (version, False),
    (metadata, False),
    (readme, False),
    (contents_of_the_wheel, False),
    (contents_of_the_source, False),
    (no_path_of_a_machine, False),
    (installation, True),
    (doctor, False),
    (main_job, False),
    (lessons, False),
    (diagnosis, False),
    (assignment, False),
    (pages, False),
]

if __name__ == "__main__":
    sys.exit(main())
