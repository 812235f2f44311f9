#!/usr/bin/env bash
# Make .venv-rivals in this clone: PyTorch, and on request other frameworks. minidl itself never needs any of them.
#
#     bash benchmarks/make_rivals.sh [dezero] [mygrad] [autograd] [jax]
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv-rivals/bin/python ] || "${PYTHON:-python3}" -m venv .venv-rivals

packages=(torch==2.13.0 numpy)
for name in "$@"; do
  case $name in
    dezero) packages+=(dezero matplotlib pillow) ;; # it imports them, but does not ask for them
    mygrad) packages+=(mygrad) ;;
    autograd) packages+=("autograd[scipy]") ;;
    jax) packages+=(jax) ;;
    *) echo "unknown framework $name; known: dezero mygrad autograd jax" >&2; exit 2 ;;
  esac
done
.venv-rivals/bin/python -m pip install --quiet --disable-pip-version-check "${packages[@]}"
.venv-rivals/bin/python -m pip list --disable-pip-version-check
