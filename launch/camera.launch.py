# SPDX-License-Identifier: Apache-2.0
"""Starts the camera that sweeps its focus: a real one, a simulated one, or a recorded stack played as if live."""

import sys

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from dualfocus_ros import dds, launching

ARGUMENTS = [
    DeclareLaunchArgument(
        "camera",
        default_value="simulated",
        choices=list(launching.CAMERAS),
        description="Which camera: a simulated one, a folder with a recorded focal stack (see stack), one of the "
        "interfaces to real cameras (see device and lens), or a simulated lens to rehearse calibration with. "
        "Goes before `driver` of camera_params",
    ),
    *launching.shared_arguments(
        *("camera_name", "stack", "device", "lens", "image_topic", "camera_info_topic", "camera_params"),
        *("namespace", "use_sim_time", "log_level"),
    ),
]
NAMES = [argument.name for argument in ARGUMENTS]


def setup(context):
    """Return what the argument values ask for."""
    launching.refuse_unknown_arguments(NAMES, __file__, sys.argv)
    args = launching.values(context, NAMES)
    parameters = {"driver": args["camera"], "use_sim_time": args["use_sim_time"] == "true"}
    for name, value in launching.camera_parameters(args).items():
        parameters[name] = ParameterValue(value, value_type=type(value))
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
