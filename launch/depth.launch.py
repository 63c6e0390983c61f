# SPDX-License-Identifier: Apache-2.0
"""Starts the whole chain: a camera that sweeps its focus, the node that makes depth of it, and RViz if asked."""

import sys
from pathlib import Path

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from dualfocus_ros import dds, launching, share

# Arguments that the launch file of the camera has too.
CAMERA_ARGUMENTS = (
    *("camera", "camera_name", "stack", "device", "lens", "image_topic", "camera_info_topic", "camera_params"),
    *("namespace", "use_sim_time", "log_level"),
)
DEPTH_TOPICS = ("depth", "camera_info", "points", "confidence", "all_in_focus")

ARGUMENTS = [
    DeclareLaunchArgument(
        "camera",
        default_value="simulated",
        choices=[*launching.CAMERAS, launching.EXTERNAL],
        description="Which camera to start: a simulated one, a folder with a recorded focal stack (see stack), "
        "one of the interfaces to real cameras (see device and lens), a simulated lens to rehearse calibration, "
        "or external: none, a driver of your own publishes (see camera_name). Before driver of camera_params",
    ),
    *launching.shared_arguments("camera_name", "stack", "device", "lens", "image_topic", "camera_info_topic"),
    DeclareLaunchArgument(
        "lens_topic", default_value="", description="Topic of the lens states; only with camera:=external"
    ),
    DeclareLaunchArgument(
        "engine",
        default_value=launching.FROM_PARAMS,
        choices=[launching.FROM_PARAMS, "auto", "tensorrt", "onnx", "torch", "classical"],
        description="What estimates the depth: the network on what runs it best here (auto), on an NVIDIA GPU "
        "(tensorrt), on ONNX Runtime (onnx) or on PyTorch (torch, for development), or focus measures without a "
        "network (classical); params: as in depth_params",
    ),
    DeclareLaunchArgument(
        "model",
        default_value=launching.FROM_PARAMS,
        description="Network to run: name of an installed model, or path of an .onnx file; "
        "params: as in depth_params",
    ),
    DeclareLaunchArgument(
        "mode",
        default_value=launching.FROM_PARAMS,
        choices=[launching.FROM_PARAMS, "sweep", "sliding"],
        description="One depth a sweep, or after the first sweep one a frame; params: as in depth_params",
    ),
    DeclareLaunchArgument(
        "breathing",
        default_value=launching.FROM_PARAMS,
        choices=[launching.FROM_PARAMS, "auto", "camera_info", "thin_lens", "none"],
        description="Where the change of the field of view with focus is taken from; params: as in depth_params. "
        "Auto is camera_info with the cameras of this package",
    ),
    *launching.shared_arguments("camera_params", "depth_params", "namespace", "rviz", "use_sim_time", "log_level"),
]
NAMES = [argument.name for argument in ARGUMENTS]


def camera(args):
    """Return the camera as its own launch file starts it."""
    source = PythonLaunchDescriptionSource(str(Path(__file__).with_name("camera.launch.py")))
    return IncludeLaunchDescription(source, launch_arguments=[(name, args[name]) for name in CAMERA_ARGUMENTS])


def depth_node(args):
    """Return the depth node."""
    depth_params = launching.parameter_file("depth_params", args["depth_params"])
    parameters = {"use_sim_time": args["use_sim_time"] == "true"}
    parameters.update((n, args[n]) for n in ("engine", "model", "mode") if args[n] != launching.FROM_PARAMS)
    breathing = launching.chosen_breathing(args["breathing"], args["camera"], depth_params)
    if breathing is not None:
        parameters["breathing"] = breathing
    return Node(
        package="dualfocus_ros",
        executable="depth_node",
        name="dualfocus",
        namespace=args["namespace"],
        parameters=[depth_params, parameters],
        remappings=launching.image_remappings(args),
        arguments=["--ros-args", "--log-level", args["log_level"]],
        additional_env=launching.NODE_ENVIRONMENT,
        output="screen",
        on_exit=launching.end_launch_with("dualfocus"),
    )


def rviz(args):
    """Return RViz with the display of the depth node's topics."""
    prefix = f"/{args['namespace'].strip('/')}" if args["namespace"].strip("/") else ""
    return Node(
        package="rviz2",
        executable="rviz2",
        name="rviz2",
        namespace=args["namespace"],
        parameters=[{"use_sim_time": args["use_sim_time"] == "true"}],
        remappings=[(f"/dualfocus/{topic}", f"{prefix}/dualfocus/{topic}") for topic in DEPTH_TOPICS],
        arguments=["-d", str(share.shared_file("config", "dualfocus.rviz"))],
        output="log",
    )


def setup(context):
    """Return what the argument values ask for."""
    launching.refuse_unknown_arguments(NAMES, __file__, sys.argv)
    args = launching.values(context, NAMES)
    launching.camera_parameters(args)
    actions = [SetEnvironmentVariable(name, value) for name, value in dds.profile_environment().items()]
    # RViz first: where it is not installed, launch fails, and would leave behind what it has started before.
    if args["rviz"] == "true":
        actions.append(rviz(args))
    if args["camera"] != launching.EXTERNAL:
        actions.append(camera(args))
    return [*actions, depth_node(args)]


def generate_launch_description():
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=setup)])
