#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and tests the package as a ROS 2 workspace does, in a temporary workspace with a copy of the checkout,
# and runs an installed executable through the install space. Run it with the tools of the virtual environment.
# Usage: scripts/colcon_check.sh REPORT.xml
set -eo pipefail # no -u: the setup files of a workspace read variables that are not set
checkout=$(cd "$(dirname "$0")/.." && pwd)
report=$1
prefix=${AMENT_PREFIX_PATH:?expected AMENT_PREFIX_PATH to name the virtual environment: run this through make test}
export PATH=$prefix/bin:$PATH

workspace=$(mktemp -d "${TMPDIR:-/tmp}/dualfocus_ros_ws_XXXXXX")
trap 'rm -rf "$workspace"' EXIT
export COLCON_HOME=$workspace/.colcon
package=$workspace/src/dualfocus_ros
mkdir -p "$package"
tar -C "$checkout" --exclude=./.git --exclude='./.venv*' --exclude='*.egg-info' --exclude=__pycache__ --exclude='.*_cache' \
  --exclude=./build --exclude=./install --exclude=./log --exclude=./demo_output -cf - . | tar -C "$package" -xf -
cd "$workspace"

fail() {
  echo "colcon_check: $*" >&2
  exit 1
}

# An invalid package.xml would silently make this a plain Python package.
found=$(colcon list --base-paths src)
echo "$found"
case $found in *dualfocus_ros*"(ros.ament_python)"*) ;; *) fail "expected one package (ros.ament_python)" ;; esac

colcon build --base-paths src --event-handlers console_cohesion- console_direct- || {
  cat log/latest_build/dualfocus_ros/stdout_stderr.log >&2
  fail "colcon build failed"
}
source install/setup.bash
share=$(python -c 'from ament_index_python.packages import get_package_share_directory as share; print(share("dualfocus_ros"))')
[ "$share" = "$workspace/install/dualfocus_ros/share/dualfocus_ros" ] || fail "share directory is $share"
# Code and files must both be those of the install space.
for file in launch/depth.launch.py launch/camera.launch.py launch/replay.launch.py config/camera.yaml config/depth.yaml \
  config/replay.yaml config/evaluation.yaml config/fastdds.xml config/dualfocus.rviz package.xml; do
  [ -f "$share/$file" ] || fail "$file is not installed"
done
# From a folder of its own: Python would take the sources of the working directory.
mkdir -p "$workspace/elsewhere" && cd "$workspace/elsewhere"
where=$(python -c 'from dualfocus_ros import share; print(share.share_directory())')
[ "$where" = "$share" ] || fail "the installed code looks for its files in $where"
for name in camera_node depth_node replay_node evaluation_node dualfocus; do
  [ -x "$workspace/install/dualfocus_ros/lib/dualfocus_ros/$name" ] || fail "lib/dualfocus_ros/$name is not installed"
done
"$workspace/install/dualfocus_ros/lib/dualfocus_ros/dualfocus" doctor || fail "the installed dualfocus doctor failed"
cd "$workspace"

# The quick tests; the rest has run from the checkout. Shared data is beside that, not beside this copy.
# colcon takes a leading space off arguments that would look like its own.
colcon test --base-paths src --event-handlers console_cohesion- console_direct- --return-code-on-test-failure \
  --pytest-args ' -q' ' -m' 'not ros and not shared and not gpu' ' --ignore=test/ros' ' --ignore=test/learning' \
  ' --ignore=test/engine' ' --ignore=test/alignment' ' --ignore=test/datasets' ' --ignore=test/evaluation' \
  ' --ignore=test/calibration' ' --ignore=test/camera' ' --ignore=test/commands' || tested=failed
cp build/dualfocus_ros/pytest.xml "$report" || fail "colcon test wrote no report"
if [ "$tested" = failed ]; then
  cat log/latest_test/dualfocus_ros/stdout_stderr.log >&2
  fail "colcon test failed"
fi
summary=$(colcon test-result --all | tail -n 1)
echo "colcon test-result: $summary"
case $summary in
  "Summary: 0 tests"*) fail "colcon test ran no test" ;;
  *" 0 errors, 0 failures"*) ;;
  *) fail "expected a summary without errors and failures" ;;
esac
