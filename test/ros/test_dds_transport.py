# SPDX-License-Identifier: Apache-2.0
"""Whole images pass between two processes, best effort, with the profile that the package ships."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from dualfocus_ros import dds

pytest.importorskip("rclpy")
pytestmark = pytest.mark.ros

FRAMES = 60
PEER = """
import array, json, sys, time
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

role, frames = sys.argv[1], int(sys.argv[2])
# Room for all: a listener that a busy machine holds up for a moment is not what this is about.
qos = QoSProfile(depth=frames, reliability=ReliabilityPolicy.BEST_EFFORT)
rclpy.init()
node = rclpy.create_node(role)
end = time.monotonic() + 60
if role == "talker":
    publisher = node.create_publisher(Image, "image", qos)
    while publisher.get_subscription_count() < 1 and time.monotonic() < end:
        time.sleep(0.02)
    sys.stdin.readline()  # the listener has found the talker, too
    for number in range(frames):
        image = Image(height=480, width=640, encoding="rgb8", step=1920)
        image.header.stamp.sec = number
        image.data = array.array("B", bytes([number]) * (480 * 1920))
        publisher.publish(image)
        time.sleep(1 / 30)
    time.sleep(1.0)
else:
    got = []
    def keep(image):
        intact = len(image.data) == 480 * 1920 and set(image.data[::9999]) == {image.header.stamp.sec}
        got.append([image.header.stamp.sec, intact])
    node.create_subscription(Image, "image", keep, qos)
    while node.count_publishers("/image") < 1 and time.monotonic() < end:
        time.sleep(0.02)
    print("found", flush=True)
    while time.monotonic() < end and (not got or got[-1][0] < frames - 1):
        rclpy.spin_once(node, timeout_sec=0.1)
    print(json.dumps(got), flush=True)
node.destroy_node()
rclpy.try_shutdown()
"""


def _environment() -> dict[str, str]:
    environ = {k: v for k, v in os.environ.items() if k not in dds.PROFILE_VARIABLES}
    assert dds.use_profile(environ)
    assert dds.check_profile(environ).ok
    return environ


@pytest.mark.timeout(90)
def test_every_best_effort_image_arrives() -> None:
    command = [sys.executable, "-c", PEER]
    environ = _environment()
    with (
        subprocess.Popen(
            [*command, "talker", str(FRAMES)], env=environ, stdin=subprocess.PIPE, text=True
        ) as talker,
        subprocess.Popen(
            [*command, "listener", str(FRAMES)], env=environ, stdout=subprocess.PIPE, text=True
        ) as listener,
    ):
        try:
            assert listener.stdout is not None
            assert listener.stdout.readline().strip() == "found"
            talker.communicate("go\n", timeout=60)
            output, _ = listener.communicate(timeout=40)
        finally:
            talker.kill()
            listener.kill()
    got = json.loads(output)
    assert [number for number, _ in got] == list(range(FRAMES))
    assert all(intact for _, intact in got)
