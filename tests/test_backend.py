"""The way to the GPU, on a machine without one: which of CuPy, driver and GPU is missing, and what to do about it."""

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from minidl import Tensor, backend, gpu
from minidl.backend import MissingCapability, device_for, device_of, library_of, to_device

pytestmark = pytest.mark.host("is about machines without a GPU")


@pytest.fixture
def host_only(monkeypatch):
    """No library but NumPy is registered, whatever this test run is about."""
    monkeypatch.setattr(backend, "_BY_TYPE", {np.ndarray: backend.NUMPY})
    monkeypatch.delenv("MINIDL_BACKEND", raising=False)


def without_cupy(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "cupy" else found(name, *a))


def with_cupy(monkeypatch, available):
    """A stand-in for the installed package: enough to be asked whether a GPU is there."""
    fake = SimpleNamespace(
        __version__="14.2.0",
        cuda=SimpleNamespace(is_available=lambda: available),
        ndarray=type("ndarray", (), {}),
        asarray=lambda x: x,
        asnumpy=lambda x: x,
    )
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: fake if name == "cupy" else found(name, *a))
    monkeypatch.setitem(sys.modules, "cupy", fake)


@pytest.mark.parametrize(
    ("cuda", "words"),
    [
        ((12, 4), ["CuPy is not installed", "serves CUDA 12.4", "cupy-cuda12x"]),
        ((13, 1), ["CuPy is not installed", "serves CUDA 13.1", "cupy-cuda13x"]),
        ((11, 8), ["CuPy is not installed", "update the NVIDIA driver"]),
        (None, ["CuPy is not installed", "no NVIDIA driver was found", "Install the NVIDIA driver"]),
    ],
)
def test_without_cupy_the_message_names_the_wheel_for_the_driver(monkeypatch, host_only, cuda, words):
    without_cupy(monkeypatch)
    monkeypatch.setattr(gpu, "driver_cuda_version", lambda: cuda)
    with pytest.raises(MissingCapability) as error:
        to_device(np.zeros(3), "gpu")
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(("cuda", "words"), [(None, "no NVIDIA driver was found"), ((12, 4), "no GPU they can use")])
def test_with_cupy_the_message_tells_a_missing_driver_from_a_missing_gpu(monkeypatch, host_only, cuda, words):
    with_cupy(monkeypatch, available=False)
    monkeypatch.setattr(gpu, "driver_cuda_version", lambda: cuda)
    with pytest.raises(MissingCapability, match=words):
        Tensor([1.0]).to("gpu")


def test_with_cupy_and_a_gpu_the_library_joins_through_the_common_door(monkeypatch, host_only):
    with_cupy(monkeypatch, available=True)
    assert device_for("cupy") == "gpu"
    assert library_of(sys.modules["cupy"].ndarray()).name == "cupy"


def test_auto_takes_numpy_where_there_is_no_gpu_and_the_environment_where_it_speaks(monkeypatch, host_only):
    without_cupy(monkeypatch)
    assert device_for("auto") == device_for("numpy") == "cpu"
    monkeypatch.setenv("MINIDL_BACKEND", "cupy")
    with pytest.raises(MissingCapability):
        device_for("auto")
    assert device_for("numpy") == "cpu"  # said on the command line, it beats the environment


def test_an_empty_environment_variable_is_none(monkeypatch, host_only):
    without_cupy(monkeypatch)
    monkeypatch.setenv("MINIDL_BACKEND", "")
    assert device_for() == "cpu"


@pytest.mark.parametrize("error", [ImportError("libnvrtc.so.12 is not found"), AttributeError("no attribute 'cuda'")])
def test_a_cupy_that_does_not_load_is_told_with_its_reason_and_auto_goes_on_without(monkeypatch, host_only, error):
    """A wheel for another CUDA, or a folder that happens to be called cupy."""

    def available():
        raise error

    with_cupy(monkeypatch, available=True)
    monkeypatch.setattr(sys.modules["cupy"].cuda, "is_available", available)
    monkeypatch.setattr(gpu, "driver_cuda_version", lambda: (12, 4))
    with pytest.raises(MissingCapability, match=r"installed but does not load \((libnvrtc|no attribute).*cupy-cuda12x"):
        to_device(np.zeros(3), "gpu")
    assert device_for("auto") == "cpu"


def test_a_folder_called_cupy_does_not_stop_the_command_line(tmp_path):
    (tmp_path / "cupy").mkdir()
    root = os.path.dirname(os.path.dirname(os.path.abspath(backend.__file__)))
    asked = [sys.executable, "-c", "from minidl.backend import device_for; print(device_for())"]
    settings = {"PYTHONPATH": root, "MINIDL_BACKEND": "auto"}
    answer = subprocess.run(asked, cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True)
    assert answer.stdout.strip() in ("cpu", "gpu"), answer.stderr


def test_an_unknown_backend_or_device_is_refused_with_the_known_ones(host_only):
    with pytest.raises(ValueError, match="did you mean 'cupy'"):
        device_for("cuppy")
    with pytest.raises(ValueError, match="choose 'cpu' or 'gpu'"):
        to_device(np.zeros(3), "cuda")


def test_an_array_knows_its_library_and_a_stranger_is_named(host_only):
    assert device_of(np.zeros(3)) == device_of(1.5) == device_of(np.float32(2)) == "cpu"
    with pytest.raises(TypeError, match="got list"):
        library_of([1.0])


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "minidl", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed here")
@pytest.mark.parametrize("how", ["option", "environment"])
def test_a_command_on_cupy_ends_with_3_and_says_what_is_missing(tmp_path, how):
    arguments = ["compare", "--depth", "1", "--out", str(tmp_path)]
    asked, environment = ((), {"MINIDL_BACKEND": "cupy"}) if how == "environment" else (("--backend", "cupy"), {})
    result = command(*arguments, *asked, **environment)
    assert result.returncode == 3
    assert "CuPy is not installed" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed here")
def test_the_doctor_says_the_same():
    checks = json.loads(command("doctor", "--json").stdout)["checks"]
    found = next(check for check in checks if check["name"] == "CuPy")
    assert found["status"] == "warn"
