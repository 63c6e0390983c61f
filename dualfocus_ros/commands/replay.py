# SPDX-License-Identifier: Apache-2.0
"""`replay`: a recording into the topics of a live camera."""

from __future__ import annotations

import argparse

from dualfocus_ros.commands import add_topic_arguments

NAME = "replay"
HELP = "play a recording into the live topics camera/image_raw, camera_info, lens and ground_truth/depth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("bag", help="a rosbag2 folder, or an mcap or db3 file")
    parser.add_argument("--rate", type=float, default=1.0, help="speed; 2 is twice as fast")
    parser.add_argument("--loop", action="store_true", help="start again at the end")
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="seconds to leave out at the start")
    parser.add_argument("--end", type=float, default=0.0, metavar="S", help="seconds into it at which to stop")
    parser.add_argument("--paused", action="store_true", help="start paused; service /replay/pause goes on")
    parser.add_argument("--no-clock", action="store_true", help="publish no /clock")
    parser.add_argument(
        "--wait", type=float, default=5.0, metavar="S", help="longest wait at the start for subscribers"
    )
    add_topic_arguments(parser)
    parser.add_argument(
        "--remap", action="append", default=[], metavar="FROM:=TO", help="publish on another topic, as ROS remaps"
    )


def run(args: argparse.Namespace) -> int:
    """Play; return the exit code."""
    from pathlib import Path

    from rclpy.parameter import Parameter

    from dualfocus_ros import dds
    from dualfocus_ros.nodes.replay_node import ReplayNode
    from dualfocus_ros.nodes.runner import run_until_stopped

    values = {
        "bag": str(Path(args.bag).expanduser().absolute()),
        "rate": args.rate,
        "loop": args.loop,
        "start_s": args.start,
        "end_s": args.end,
        "paused": args.paused,
        "clock": not args.no_clock,
        "wait_s": args.wait,
        "image_topic": args.image_topic,
        "camera_info_topic": args.camera_info_topic,
        "lens_topic": args.lens_topic,
        "truth_topic": args.truth_topic,
    }
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    remaps = [word for remap in args.remap for word in ("-r", remap)]
    dds.use_profile()
    ros_args = ["dualfocus", *(["--ros-args", *remaps] if remaps else [])]
    return run_until_stopped([lambda: ReplayNode(parameter_overrides=overrides)], ros_args)
