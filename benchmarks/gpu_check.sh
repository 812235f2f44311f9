#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: run the whole test suite on CuPy, then train LeNet-5 there, and write one report.
#
#     bash benchmarks/gpu_check.sh [REPORT.md]
#
# Needs an environment with minidl, its "test" extra and the CuPy wheel for the driver (`minidl doctor` names it).
# PYTHON says which interpreter; the default is .venv/bin/python of this clone.
set -uo pipefail
report=$(realpath -m "${1:-gpu-report.md}")
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}

# Ends here, with what is missing and what to install, where CuPy, the driver or a GPU is not there.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m minidl variance --backend cupy --depth 2 --quiet --out "$scratch" > /dev/null || exit

{
  echo "# minidl on a GPU"
  echo
  echo "Written by \`benchmarks/gpu_check.sh\` on $(date -u +%Y-%m-%d), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)."
  echo
  echo '```'
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv 2>/dev/null || echo "nvidia-smi is not here"
  "$python" -m minidl doctor
  echo '```'
  echo
  echo "## The test suite on CuPy"
  echo
  echo '```'
} > "$report"

MINIDL_TEST_BACKEND=cupy "$python" -m pytest -q -p no:cacheprovider 2>&1 | tail -n 60 >> "$report"
tests=$?

{
  echo '```'
  echo
  echo "## Five epochs of LeNet-5"
  echo
} >> "$report"
"$python" benchmarks/lenet.py --backend cupy --epochs 5 >> "$report" 2>&1
training=$?

echo "report: $report (tests: exit $tests, training: exit $training)"
exit $((tests > training ? tests : training))
