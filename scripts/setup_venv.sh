#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes or updates the virtual environment of the checkout: locked packages, then the package itself.
# Usage: scripts/setup_venv.sh PYTHON VENV LOCK [REQUIREMENTS ...]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 venv=$2 lock=$3
shift 3

fail() {
  echo "setup: $*" >&2
  exit 1
}

command -v "$python" >/dev/null || fail "no '$python' found; install Python 3.10 to 3.13 (Debian, Ubuntu:" \
  "apt install python3 python3-venv) or name one: make setup PYTHON=/path/to/python3"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "'$python' does not run"
case $version in
  3.10 | 3.11 | 3.12 | 3.13) ;;
  *) fail "expected Python 3.10 to 3.13, but '$python' is $version; name another: make setup PYTHON=python3.12" ;;
esac
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "Python $version cannot make virtual environments;" \
  "on Debian and Ubuntu: apt install python$version-venv (or python3-venv)"

# A virtual environment of another Python, or one whose Python is gone, is replaced; nothing else is ever removed.
if [ -e "$venv" ]; then
  [ -e "$venv/pyvenv.cfg" ] || fail "'$venv' exists and is no virtual environment: remove it or set VENV=..."
  found=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true)
  [ "$found" = "$version" ] || rm -rf "$venv"
fi
echo "setup: Python $version, $lock -> $venv"
[ -e "$venv/bin/pip" ] || "$python" -m venv "$venv"
pip() {
  # The environment's own Python runs pip, free of what a sourced ROS 2 installation puts into the path.
  env -u PYTHONPATH "$venv/bin/python" -m pip --disable-pip-version-check "$@"
}
# -qq: errors only; a warning per package tells nobody anything.
pip install -qq --no-deps -r "$lock"
# With what they need: which that is depends on the build of PyTorch that the index offers.
for more in "$@"; do pip install -qq -c "$lock" -r "$more"; done
# Editable: the installed commands then run the code of this checkout, also after a git pull.
pip install -qq --no-deps --no-build-isolation -e .
pip check >/dev/null || pip check
