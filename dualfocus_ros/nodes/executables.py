# SPDX-License-Identifier: Apache-2.0
"""What `ros2 run` starts. Imports nothing heavy before stop signals are held.

Loading rclpy takes a good part of a second; a Ctrl-C in that time would end in a traceback.
"""

from __future__ import annotations

from dualfocus_ros.nodes.signals import hold_stop_signals


def camera_node() -> int:
    """Run the camera node until SIGINT or SIGTERM; return the exit code."""
    hold_stop_signals()
    from dualfocus_ros.nodes.camera_node import main

    return main()


def depth_node() -> int:
    """Run the depth node until SIGINT or SIGTERM; return the exit code."""
    hold_stop_signals()
    from dualfocus_ros.nodes.depth_node import main

    return main()


def replay_node() -> int:
    """Run the replay node until the recording ends, SIGINT or SIGTERM; return the exit code."""
    hold_stop_signals()
    from dualfocus_ros.nodes.replay_node import main

    return main()


def evaluation_node() -> int:
    """Run the evaluation node until SIGINT or SIGTERM; return the exit code."""
    hold_stop_signals()
    from dualfocus_ros.nodes.evaluation_node import main

    return main()
