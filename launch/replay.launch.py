# SPDX-License-Identifier: Apache-2.0
"""Plays a recording, makes depth of it, and compares that with the true depth where it was recorded."""

import sys

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction, SetEnvironmentVariable
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from dualfocus_ros import dds, launching, share
from dualfocus_ros.errors import ParameterError

# Arguments of the depth node that are handed on.
DEPTH_ARGUMENTS = ("engine", "model", "mode", "breathing")
TOPIC_ARGUMENTS = ("image_topic", "camera_info_topic", "lens_topic", "truth_topic")
# Launch argument and parameter of the replay node.
NUMBERS = {"rate": "rate", "start": "start_s", "end": "end_s"}

ARGUMENTS = [
    DeclareLaunchArgument(
        "bag", default_value="", description="Recording to play: a rosbag2 folder, or an mcap or db3 file"
    ),
    DeclareLaunchArgument("rate", default_value="1.0", description="Speed of the replay; 2 is twice as fast"),
    DeclareLaunchArgument(
        "loop", default_value="false", choices=["true", "false"], description="Start again at the end"
    ),
    DeclareLaunchArgument("start", default_value="0.0", description="Where in the recording to start, in seconds"),
    DeclareLaunchArgument(
        "end", default_value="0.0", description="Where in the recording to end, in seconds; 0: at its end"
    ),
    DeclareLaunchArgument(
        "paused",
        default_value="false",
        choices=["true", "false"],
        description="Start paused; the service replay/pause with data: false goes on",
    ),
    *(
        DeclareLaunchArgument(name, default_value="", description=f"{what} in the recording; empty: found")
        for name, what in zip(
            TOPIC_ARGUMENTS,
            ("Topic of the images", "Topic of the camera info", "Topic of the lens", "Topic of the true depth"),
            strict=True,
        )
    ),
    DeclareLaunchArgument(
        "evaluate",
        default_value="true",
        choices=["true", "false"],
        description="Compare depth with recorded true depth: running on /diagnostics, as a table at the end",
    ),
    DeclareLaunchArgument(
        "json", default_value="", description="File that gets all numbers of the comparison; empty: none"
    ),
    *(
        DeclareLaunchArgument(
            name,
            default_value=launching.FROM_PARAMS,
            description=f"{name} of the depth node, see depth.launch.py; params: as in depth_params",
        )
        for name in DEPTH_ARGUMENTS
    ),
    *launching.shared_arguments("depth_params", "namespace", "rviz", "log_level"),
]
NAMES = [argument.name for argument in ARGUMENTS]


def replay_node(args):
    """Return the node that plays the recording; the launch ends with it."""
    parameters = {name: launching.number(argument, args[argument]) for argument, name in NUMBERS.items()}
    parameters |= {name: ParameterValue(args[name], value_type=str) for name in TOPIC_ARGUMENTS}
    parameters |= {name: args[name] == "true" for name in ("loop", "paused")}
    parameters["bag"] = ParameterValue(launching.recording(args["bag"]), value_type=str)
    parameters["wait_for_truth"] = args["evaluate"] == "true"
    parameters["wait_s"] = 30.0  # the depth node may have to load its engine
    parameters["end_delay_s"] = 3.0  # and to work on the last sweep
    return _node(args, "replay", parameters, on_exit=launching.end_launch_with("replay"))


def evaluation_node(args):
    """Return the node that compares depth with truth."""
    parameters = {"use_sim_time": True, "json": ParameterValue(args["json"], value_type=str)}
    return _node(args, "evaluation", parameters, on_exit=launching.end_launch_with("evaluation"))


def _node(args, name, parameters, **options):
    return Node(
        package="dualfocus_ros",
        executable=f"{name}_node",
        name=name,
        namespace=args["namespace"],
        parameters=[parameters],
        arguments=["--ros-args", "--log-level", args["log_level"]],
        additional_env=launching.NODE_ENVIRONMENT,
        output="screen",
        **options,
    )


def depth(args):
    """Return the depth node as its own launch file starts it, in the time of the recording."""
    source = PythonLaunchDescriptionSource(str(share.shared_file("launch", "depth.launch.py")))
    handed_on = (*DEPTH_ARGUMENTS, "depth_params", "namespace", "rviz", "log_level")
    # Launch would hand on the topics of the recording, too: they are not those that the depth node listens to.
    topics = [(name, "") for name in ("image_topic", "camera_info_topic", "lens_topic")]
    own = [("camera", launching.EXTERNAL), ("use_sim_time", "true"), *topics]
    arguments = [*own, *((name, args[name]) for name in handed_on)]
    return IncludeLaunchDescription(source, launch_arguments=arguments)


def setup(context):
    """Return what the argument values ask for."""
    launching.refuse_unknown_arguments(NAMES, __file__, sys.argv)
    args = launching.values(context, NAMES)
    player = replay_node(args)
    if args["json"] and args["evaluate"] != "true":
        raise ParameterError("expected json:= only with evaluate:=true: nothing else writes it")
    profile = [SetEnvironmentVariable(name, value) for name, value in dds.profile_environment().items()]
    evaluation = [evaluation_node(args)] if args["evaluate"] == "true" else []
    return [*profile, depth(args), *evaluation, player]


def generate_launch_description():
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=setup)])
