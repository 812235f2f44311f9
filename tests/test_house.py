"""The house: who may import whom, what ``import minidl`` may touch, that every public name is explained.

The source is read, not run, so a wrong import is found in a file that no test ever loads.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "minidl"

# From the ground up. A room imports from lower floors and from itself, never from its neighbours or from above.
FLOORS = (
    ("gpu", "text", "threads"),
    ("backend", "files"),
    ("tensor",),
    ("ops",),
    ("meanfield",),
    ("init",),
    ("nn", "optim"),
    ("models", "data"),
    ("lab",),
    ("train",),
    ("experiment",),
    ("course",),
    ("__init__",),
    ("doctor",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def module_name(path: Path) -> str:
    """``minidl/ops/conv.py`` → ``minidl.ops.conv``; a package is named for its folder."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_ours(path: Path) -> bool:
    """Not one of the folders that a wheel carries along (``_datasets``, ``_lessons``, ``_benchmarks``)."""
    return not path.relative_to(PACKAGE).parts[0].startswith(("_datasets", "_lessons", "_benchmarks"))


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if is_ours(path)}
TREES = {name: ast.parse(path.read_text(encoding="utf-8"), str(path)) for name, path in FILES.items()}


def room(module: str) -> str:
    """``minidl.ops.conv`` → ``ops``; minidl itself is the room ``__init__``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(module: str, tree: ast.AST, known: set[str]) -> Iterator[tuple[int, str]]:
    """Line and module of every import of minidl in a file, also those inside functions."""
    package = module if FILES.get(module, PACKAGE).name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                start = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*start, *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            found = [name if name in known else base for name in names]
        else:
            continue
        yield from ((node.lineno, name) for name in found if name.split(".")[0] == "minidl")


GRAPH = {name: set(imports(name, tree, set(FILES))) for name, tree in TREES.items()}


def violations(module: str, imported: set[tuple[int, str]]) -> list[str]:
    """The imports of one file that go up or sideways."""
    mine = room(module)
    return [
        f"{module}:{line} imports {name}: {mine} is on floor {FLOOR[mine]}, {room(name)} on floor {FLOOR[room(name)]}"
        for line, name in sorted(imported)
        if room(name) != mine and FLOOR[room(name)] >= FLOOR[mine]
    ]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import cycle, or nothing: take away those that import nothing left, until none can go."""
    left = {name: set(targets) & set(graph) - {name} for name, targets in graph.items()}
    while free := {name for name, targets in left.items() if not targets}:
        left = {name: targets - free for name, targets in left.items() if name not in free}
    return sorted(left)


def undocumented(tree: ast.AST, prefix: str) -> Iterator[str]:
    """Public functions, classes and methods without a docstring."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None and not is_explained_elsewhere(node):
            yield f"{prefix}.{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node, f"{prefix}.{node.name}")


def is_explained_elsewhere(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """A property's setter is explained by its getter, an overload by its implementation."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(decorator.endswith(("overload", ".setter", ".deleter")) for decorator in decorators)


@pytest.mark.parametrize("module", FILES)
def test_a_file_imports_only_from_the_floors_below_it(module):
    assert room(module) in FLOOR, f"give the room {room(module)!r} a floor in FLOORS"
    assert not violations(module, GRAPH[module])


def test_no_import_goes_in_a_circle():
    assert not cycle({name: {target for _, target in imported} for name, imported in GRAPH.items()})


@pytest.mark.parametrize("module", FILES)
def test_every_public_name_is_documented(module):
    tree = TREES[module]
    assert ast.get_docstring(tree) is not None or not tree.body, f"{module} has no docstring"
    assert not list(undocumented(tree, module))


@pytest.mark.parametrize("module", FILES)
def test_only_numpy_and_matplotlib_are_needed_to_load_a_file(module):
    """At the top of a file: the standard library, NumPy, matplotlib (in `lab` and above) and minidl."""
    allowed = set(sys.stdlib_module_names) | {"minidl", "numpy"}
    if FLOOR[room(module)] >= FLOOR["lab"]:
        allowed |= {"matplotlib"}
    found = set()
    for node in TREES[module].body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {(node.module or "").split(".")[0]}
    assert found <= allowed


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True).stdout


def test_importing_minidl_loads_neither_matplotlib_nor_cupy_nor_any_extra():
    code = "import sys, minidl; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = set(python(code).split())
    assert "numpy" in loaded
    assert not loaded & {"matplotlib", "cupy", "tqdm", "safetensors", "PIL", "scipy", "torch"}


def test_importing_minidl_leaves_the_global_random_states_alone():
    code = """
import pickle, random
import numpy
before = pickle.dumps(numpy.random.get_state()), random.getstate()
import minidl
print((pickle.dumps(numpy.random.get_state()), random.getstate()) == before)
"""
    assert python(code).strip() == "True"


# The checks themselves: each finds the fault it is there for.


@pytest.mark.parametrize(
    ("module", "source", "faults"),
    [
        ("minidl.tensor", "from minidl.nn import Linear", 1),
        ("minidl.tensor", "def f():\n    import minidl.lab.draw", 1),
        ("minidl.tensor", "import minidl", 1),
        ("minidl.nn.linear", "from minidl import optim", 1),
        ("minidl.nn.linear", "from ..optim import SGD", 1),
        ("minidl.nn.linear", "from . import module\nfrom .module import Module\nfrom ..ops import relu", 0),
        ("minidl.nn.linear", "import numpy\nfrom minidl import ops\nfrom minidl.tensor import Tensor", 0),
    ],
)
def test_the_floor_check_finds_an_import_that_goes_up_or_sideways(module, source, faults):
    known = {f"minidl.{name}" for name in FLOOR} | {"minidl.nn.module"}
    assert len(violations(module, set(imports(module, ast.parse(source), known)))) == faults


def test_the_circle_check_finds_a_circle_and_only_its_members_and_those_above():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def test_the_docstring_check_finds_a_bare_method():
    tree = ast.parse('class A:\n    """Doc."""\n    def f(self): ...\n    def _g(self): ...\ndef h():\n    """Doc."""')
    assert list(undocumented(tree, "m")) == ["m.A.f"]
