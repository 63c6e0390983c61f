#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Rewrites requirements/*.txt from requirements/*.in for Linux and every Python from 3.10 on.
# Needs uv (`pip install uv`). Usage: scripts/lock.sh
set -euo pipefail
cd "$(dirname "$0")/../requirements"
for name in kilted jazzy; do
  uv pip compile --quiet --universal --python-version 3.10 --no-annotate --no-header --no-emit-index-url \
    --no-emit-find-links --output-file "$name.txt" "$name.in"
  # The ROS wheels exist for Linux and CPython only: other platforms and their markers are noise.
  sed -i -e "/ ; sys_platform == 'win32'/d" -e "s/ ; sys_platform [!=]= '[a-z0-9]*'$//" \
    -e "s/ or sys_platform == 'win32'$//" \
    -e "s/ ; platform_python_implementation != 'PyPy'$//" \
    -e "1i # Made by scripts/lock.sh from $name.in: do not edit." "$name.txt"
done
