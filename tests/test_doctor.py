"""``minidl doctor`` on machines that have everything, and on machines that lack something."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from test_cli import minidl

from minidl import doctor, text
from minidl import gpu as driver


@pytest.fixture
def gpu(monkeypatch):
    """A function that pretends: the driver's CUDA version, the installed CuPy packages, what importing CuPy gives."""

    def pretend(cuda, wheels=(), module=None):
        monkeypatch.setattr(driver, "driver_cuda_version", lambda: cuda)
        monkeypatch.setattr(doctor, "_version", lambda name: "14.2.0" if name in wheels else None)
        monkeypatch.setitem(sys.modules, "cupy", module)
        return doctor.cupy()

    return pretend


def cupy_that(count) -> SimpleNamespace:
    return SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=count)))


def test_a_machine_that_runs_these_tests_does_not_fail(tmp_path):
    checks = doctor.examine(tmp_path / "out")
    assert doctor.worst(checks) != "fail", doctor.report(checks)
    assert not (tmp_path / "out").exists()


def test_every_line_starts_with_its_status_and_every_warning_helps(tmp_path):
    for check in doctor.examine(tmp_path):
        assert check.status in {"ok", "warn", "fail"}
        assert doctor.report([check]).startswith(check.status)
        assert check.help or check.status == "ok"


def test_the_report_is_at_most_100_columns_wide(tmp_path):
    lines = doctor.report([doctor.Check("disk", "warn", "full " * 50, "buy " * 50)]).splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= text.WIDTH


def test_json_is_one_document_with_schema_and_version():
    answer = minidl("doctor", "--json")
    document = json.loads(answer.stdout)
    assert document["schema"] == "minidl.doctor/1"
    assert document["version"]
    assert {check["name"] for check in document["checks"]} >= {"Python", "NumPy", "BLAS", "CuPy", "matplotlib"}


def test_quiet_shows_only_what_is_not_ok():
    lines = minidl("doctor", "-q").stdout.splitlines()
    assert not [line for line in lines if line.startswith("ok")]


@pytest.mark.parametrize("arguments", [["--help"], ["doctor", "--help"], ["lesson", "--help"]])
def test_help_works_before_numpy_is_installed(arguments):
    answer = minidl(*arguments, packages=False)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("usage: minidl")


def test_the_doctor_works_before_numpy_is_installed_and_says_how_to_install_it():
    answer = minidl("doctor", packages=False)
    assert (answer.returncode, answer.stderr) == (1, "")
    assert sum(line.startswith("fail") for line in answer.stdout.splitlines()) == 2
    assert 'python -m pip install "numpy>=2.0"' in answer.stdout
    assert 'python -m pip install "matplotlib>=3.9"' in answer.stdout


def test_the_doctor_answers_in_json_before_numpy_is_installed():
    document = json.loads(minidl("doctor", "--json", packages=False).stdout)
    assert document["status"] == "fail"
    assert {check["name"]: check["status"] for check in document["checks"]}["NumPy"] == "fail"


def test_a_command_that_computes_names_the_missing_package_and_ends_with_3():
    answer = minidl("compare", packages=False)
    assert answer.returncode == 3
    assert "numpy" in answer.stderr.lower()
    assert "run: minidl doctor" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "gbk"])
def test_the_doctor_survives_an_old_terminal_and_says_so(encoding):
    answer = minidl("doctor", PYTHONIOENCODING=encoding)
    assert answer.returncode == 0
    assert answer.stderr == ""
    assert f"{encoding} lacks some signs of mathematics" in answer.stdout


def test_an_old_numpy_fails(monkeypatch):
    import numpy

    monkeypatch.setattr(numpy, "__version__", "1.26.4")
    assert doctor.numpy().status == "fail"
    assert "numpy>=2.0" in doctor.numpy().help


def test_a_numpy_too_old_to_describe_itself_is_reported_and_does_not_end_the_doctor(monkeypatch):
    import numpy

    monkeypatch.setattr(numpy, "show_config", lambda: None)  # without a mode, as it once was
    assert doctor.blas().status == "warn"


def test_chosen_blas_threads_are_shown(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert "OPENBLAS_NUM_THREADS=3" in doctor.blas().found


def test_a_backend_that_does_not_exist_fails_and_names_the_variable():
    answer = minidl("doctor", MPLBACKEND="no-such-backend")
    line = next(line for line in answer.stdout.splitlines() if "matplotlib" in line)
    assert line.startswith("fail")
    assert "MPLBACKEND" in answer.stdout


def test_no_gpu_is_a_warning(gpu):
    check = gpu(None)
    assert (check.status, check.found) == ("warn", "no NVIDIA driver was found")


@pytest.mark.parametrize(("cuda", "wheel"), [((12, 4), "cupy-cuda12x"), ((13, 0), "cupy-cuda13x")])
def test_a_driver_without_cupy_is_told_the_wheel_that_fits(gpu, cuda, wheel):
    check = gpu(cuda)
    assert check.status == "warn"
    assert f'pip install "{wheel}[ctk]"' in check.help


def test_a_driver_too_old_for_cupy_is_to_be_updated(gpu):
    assert "update the NVIDIA driver" in gpu((11, 8)).help


def test_two_cupy_packages_are_a_warning_that_says_which_to_remove(gpu):
    check = gpu((12, 4), wheels=("cupy-cuda12x", "cupy-cuda13x"))
    assert check.status == "warn"
    assert "uninstall cupy-cuda12x cupy-cuda13x" in check.help


def test_a_working_gpu_is_ok(gpu):
    check = gpu((12, 4), wheels=("cupy-cuda12x",), module=cupy_that(count=lambda: 2))
    assert (check.status, check.found) == ("ok", "cupy-cuda12x 14.2.0, NVIDIA driver for CUDA 12.4, 2 GPUs")


def test_a_cupy_that_does_not_reach_the_gpu_is_a_warning_with_its_reason(gpu):
    def broken():
        raise RuntimeError("cudaErrorInsufficientDriver")

    check = gpu((12, 4), wheels=("cupy-cuda13x",), module=cupy_that(count=broken))
    assert check.status == "warn"
    assert "cudaErrorInsufficientDriver" in check.found
    assert "cupy-cuda12x" in check.help


def test_the_driver_is_read_from_nvidia_smi_where_its_library_is_not_found(monkeypatch):
    answer = subprocess.CompletedProcess([], 0, stdout="| NVIDIA-SMI 550.54  CUDA Version: 12.4  |")
    monkeypatch.setattr(driver, "_version_from_library", lambda: None)
    monkeypatch.setattr(driver.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(driver.subprocess, "run", lambda *a, **k: answer)
    assert driver.driver_cuda_version() == (12, 4)


def test_the_driver_is_read_from_its_library(monkeypatch):
    def version(pointer):
        pointer._obj.value = 13010
        return 0

    monkeypatch.setattr(driver.ctypes, "CDLL", lambda name: SimpleNamespace(cuDriverGetVersion=version))
    assert driver.driver_cuda_version() == (13, 1)


def test_results_that_cannot_be_written_fail(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    assert doctor.out_folder(tmp_path / "file" / "out").status == "fail"
    assert doctor.out_folder(tmp_path / "new" / "out").status == "ok"


def test_a_data_folder_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path / "file"))
    assert doctor.data_folder().status == "warn"
    assert "MINIDL_DATA" in doctor.data_folder().help


def test_no_virtual_environment_is_a_warning(monkeypatch):
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert doctor.environment().status == "warn"


def test_the_gravest_status_wins():
    checks = [doctor.Check("a", "ok", ""), doctor.Check("b", "fail", ""), doctor.Check("c", "warn", "")]
    assert doctor.worst(checks) == "fail"
    assert doctor.worst(checks[:1]) == "ok"
    assert doctor.worst([checks[0], checks[2]]) == "warn"
