# SPDX-License-Identifier: Apache-2.0
"""Starts the camera that sweeps its focus: simulated, or a recorded stack played as if it were live."""

import sys

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from dualfocus_ros import dds, launching, share

ARGUMENTS = [
    DeclareLaunchArgument(
        "camera",
        default_value="simulated",
        choices=["simulated", "folder"],
        description="Which camera: a simulated one, or a folder with a recorded focal stack (see stack). "
        "Goes before `driver` of camera_params",
    ),
    DeclareLaunchArgument(
        "camera_name", default_value="camera", description="Name of the camera node and prefix of its topics"
    ),
    DeclareLaunchArgument(
        "stack", default_value="", description="Folder of the recorded focal stack; only with camera:=folder"
    ),
    DeclareLaunchArgument(
        "camera_params",
        default_value=str(share.shared_file("config", "camera.yaml")),
        description="YAML file with the parameters of the camera node",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node"),
    DeclareLaunchArgument(
        "use_sim_time", default_value="false", choices=["true", "false"], description="Take the time from /clock"
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="What the node logs",
    ),
]
NAMES = [argument.name for argument in ARGUMENTS]


def setup(context):
    """Return what the argument values ask for."""
    launching.refuse_unknown_arguments(NAMES, __file__, sys.argv)
    args = launching.values(context, NAMES)
    stack = launching.stack_folder(args["camera"], args["stack"])
    parameters = {"driver": args["camera"], "use_sim_time": args["use_sim_time"] == "true"}
    if stack is not None:
        parameters["folder.path"] = ParameterValue(stack, value_type=str)
    profile = [SetEnvironmentVariable(name, value) for name, value in dds.profile_environment().items()]
    return [
        *profile,
        Node(
            package="dualfocus_ros",
            executable="camera_node",
            name=args["camera_name"],
            namespace=args["namespace"],
            parameters=[launching.parameter_file("camera_params", args["camera_params"]), parameters],
            arguments=["--ros-args", "--log-level", args["log_level"]],
            additional_env=launching.NODE_ENVIRONMENT,
            output="screen",
            on_exit=launching.end_launch_with(args["camera_name"]),
        ),
    ]


def generate_launch_description():
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=setup)])
