# SPDX-License-Identifier: Apache-2.0
"""What the launch files share: checks of their arguments, and what the end of a node means.

Imports neither ROS nor `launch` when loaded, so that all of it can be tested anywhere.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dualfocus_ros import share
from dualfocus_ros.errors import DualFocusError, ParameterError

# Argument value that leaves a setting to the parameter file.
FROM_PARAMS = "params"
# Cameras of hardware, with the parameter that says which of several devices; the launch argument is `device`.
DEVICE_PARAMETERS = {
    "v4l2": "device",
    "picamera2": "camera_num",
    "depthai": "device_id",
    "genicam": "serial_number",
    "optotune": "port",
}
# Cameras that a lens file belongs to; the simulated lens is there to rehearse with.
LENS_CAMERAS = (*DEVICE_PARAMETERS, "simulated_lens")
CAMERAS = ("simulated", "folder", *LENS_CAMERAS)
# A camera, and a lens, of somebody else's: this package only subscribes.
EXTERNAL = "external"
TRUE_FALSE = ["true", "false"]
# Launch arguments that mean the same in every launch file that has them.
SHARED_ARGUMENTS: dict[str, dict[str, Any]] = {
    "camera_name": {
        "default_value": "camera",
        "description": "Name of the camera node and prefix of its topics image_raw, camera_info and lens",
    },
    "stack": {
        "default_value": "",
        "description": "Folder of the recorded focal stack; only with camera:=folder",
    },
    "device": {
        "default_value": "",
        "description": "Which device of a real camera: path (v4l2), number (picamera2), id (depthai), serial "
        "number (genicam) or serial port of the lens (optotune); empty: as in camera_params",
    },
    "lens": {
        "default_value": "",
        "description": "Lens file of a real camera: name in config/lenses, or path; empty: as in camera_params",
    },
    "image_topic": {
        "default_value": "",
        "description": "Topic of the images where another node publishes them, see camera",
    },
    "camera_info_topic": {
        "default_value": "",
        "description": "Topic of the camera info of these images",
    },
    "namespace": {"default_value": "", "description": "Namespace of all nodes, e.g. one per camera"},
    "rviz": {"default_value": "false", "choices": TRUE_FALSE, "description": "Show depth and points in RViz"},
    "use_sim_time": {
        "default_value": "false",
        "choices": TRUE_FALSE,
        "description": "Take the time from /clock",
    },
    "log_level": {
        "default_value": "info",
        "choices": ["debug", "info", "warn", "error", "fatal"],
        "description": "What the nodes log",
    },
}
# Arguments with the parameter file of a node, the file that the package ships, and the node.
PARAMETER_FILES = {"camera_params": ("camera.yaml", "camera"), "depth_params": ("depth.yaml", "depth")}
# `ros2 launch --launch-prefix` and its filter arrive as arguments.
_LAUNCH_OWN = ("launch-prefix", "launch-prefix-filter")
# glibc gives large buffers back to the kernel after every message by default; keeping them more than halves
# the latency of a cloud and the CPU time of whoever takes it.
NODE_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "268435456", "MALLOC_TRIM_THRESHOLD_": "1073741824"}


def shared_arguments(*names: str) -> list[Any]:
    """Return the DeclareLaunchArgument of `SHARED_ARGUMENTS` and `PARAMETER_FILES` with these names.

    Raises:
        InputError: if a parameter file of the package is not installed.
    """
    from launch.actions import DeclareLaunchArgument

    found = dict(SHARED_ARGUMENTS)
    for name in PARAMETER_FILES.keys() & set(names):
        file, node = PARAMETER_FILES[name]
        found[name] = {
            "default_value": str(share.shared_file("config", file)),
            "description": f"YAML file with the parameters of the {node} node",
        }
    return [DeclareLaunchArgument(name, **found[name]) for name in names]


def refuse_unknown_arguments(declared: Iterable[str], launch_file: str, argv: Sequence[str]) -> None:
    """Raise ParameterError if the command line gives an argument that the launch file does not declare.

    `ros2 launch` itself ignores such arguments, so a misspelt one would silently do nothing. Only a command
    line that names this launch file is looked at: where another file includes it, the arguments
    belong to that one.

    Args:
        declared: names of the arguments.
        launch_file: path of the launch file.
        argv: the command line, `ros2 launch PACKAGE FILE name:=value ...`.
    """
    names = list(declared)
    places = [i for i, word in enumerate(argv) if Path(word).name == Path(launch_file).name]
    if not places:
        return
    for word in argv[places[0] + 1 :]:
        name, separator, _ = word.partition(":=")
        if not separator or name in names or name in _LAUNCH_OWN:
            continue
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
        raise ParameterError(f"{Path(launch_file).name} has no argument {name!r}: {hint}")


def stack_folder(camera: str, stack: str) -> str | None:
    """Return the absolute path of the recorded stack to play; None where the camera plays none.

    Raises:
        ParameterError: if a stack is missing, does not exist, or is given to a camera that plays none.
    """
    if camera != "folder":
        if stack:
            raise ParameterError(f"expected stack:= only with camera:=folder, got camera:={camera} stack:={stack}")
        return None
    if not stack:
        raise ParameterError("camera:=folder plays a recorded focal stack: expected stack:=FOLDER, got none")
    path = Path(stack).expanduser().absolute()
    if not (path / "meta.json").is_file():
        raise ParameterError(f"expected stack:= to be a folder with a meta.json and its images, got {path}")
    return str(path)


def camera_parameters(args: Mapping[str, str]) -> dict[str, Any]:
    """Return what the launch arguments say of the camera node's parameters.

    Args:
        args: values of `camera`, `stack`, `device`, `lens`, `image_topic` and `camera_info_topic`.

    Raises:
        ParameterError: if an argument is given to a camera that has no use for it, or a stack is missing.
    """
    camera = args["camera"]
    found: dict[str, Any] = {}
    stack = stack_folder(camera, args["stack"])
    if stack is not None:
        found["folder.path"] = stack
    takers = {
        "device": tuple(DEVICE_PARAMETERS),
        "lens": LENS_CAMERAS,
        "image_topic": ("optotune", EXTERNAL),
        "camera_info_topic": ("optotune", EXTERNAL),
    }
    for name, cameras in takers.items():
        if args[name] and camera not in cameras:
            raise ParameterError(
                f"expected {name}:= only with camera:={' or '.join(cameras)}, got camera:={camera} "
                f"{name}:={args[name]}"
            )
        if args[name] and camera != EXTERNAL:
            parameter = DEVICE_PARAMETERS[camera] if name == "device" else name
            found[f"{camera}.{parameter}"] = args[name]
    if camera == "picamera2" and args["device"]:
        if not args["device"].isdecimal():
            raise ParameterError(f"expected device:= to be the number of a camera, got {args['device']!r}")
        found["picamera2.camera_num"] = int(args["device"])
    return found


def image_remappings(args: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the remappings of the depth node's inputs for launch arguments, where the defaults do not fit.

    The topics are those of the camera node, but for a camera of somebody else's, and images that another node than
    the camera node publishes: those are taken from there at once.

    Args:
        args: values of `camera`, `camera_name`, `image_topic`, `camera_info_topic` and `lens_topic`.

    Raises:
        ParameterError: if lens_topic is given to a camera that this package drives.
    """
    external = args["camera"] == EXTERNAL
    if args["lens_topic"] and not external:
        raise ParameterError(f"expected lens_topic:= only with camera:={EXTERNAL}, got camera:={args['camera']}")
    own = {topic: f"{args['camera_name']}/{topic}" for topic in ("image_raw", "camera_info", "lens")}
    # With a lens of ours, K follows the focus in the camera node's own camera_info.
    given = {"image_raw": args["image_topic"]}
    if external:
        given |= {"camera_info": args["camera_info_topic"], "lens": args["lens_topic"]}
    topics = {topic: given.get(topic) or own[topic] for topic in own}
    return [(f"camera/{topic}", name) for topic, name in topics.items() if name != f"camera/{topic}"]


def recording(value: str) -> str:
    """Return the absolute path of the recording that `bag:=` names.

    Raises:
        ParameterError: if there is none.
    """
    if not value:
        raise ParameterError("expected bag:=PATH, a rosbag2 folder or an mcap or db3 file, got none")
    path = Path(value).expanduser().absolute()
    if not path.exists():
        raise ParameterError(f"expected bag:= to be a recording, got {path}: no such file or folder")
    return str(path)


def number(argument: str, value: str) -> float:
    """Return the value of a launch argument that is a number.

    Raises:
        ParameterError: if it is none.
    """
    try:
        return float(value)
    except ValueError:
        raise ParameterError(f"expected {argument}:= to be a number, got {value!r}") from None


def parameter_file(argument: str, value: str) -> str:
    """Return the absolute path of a parameter file that a launch argument names.

    Raises:
        ParameterError: if there is no such file.
    """
    path = Path(value).expanduser().absolute()
    if not path.is_file():
        raise ParameterError(f"expected {argument}:= to be a YAML file with parameters, got {path}: no such file")
    return str(path)


def chosen_breathing(argument: str, camera: str, depth_params: str) -> str | None:
    """Return the `breathing` that the depth node is to be given; None: what its parameter file says.

    The cameras of this package report intrinsics that follow the focus exactly, and constant ones mean that the
    images are registered already. So `auto` is `camera_info` for them, where the node by itself would take
    constant intrinsics for a lens whose driver does not know better.

    Args:
        argument: value of the launch argument, `params` or a breathing source.
        camera: value of the launch argument; `external` is a camera of somebody else's.
        depth_params: parameter file of the depth node.

    Raises:
        ParameterError: if the file is not YAML.
    """
    wanted = file_value(depth_params, "breathing", "auto") if argument == FROM_PARAMS else argument
    if wanted == "auto" and camera != EXTERNAL:
        return "camera_info"
    return None if argument == FROM_PARAMS else argument


def file_value(path: str, name: str, default: str) -> str:
    """Return what a ROS parameter file says of a string parameter, in whichever node's section; else `default`.

    Raises:
        ParameterError: if the file cannot be read or is not a ROS parameter file.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterError(f"expected {path} to be a YAML file with parameters: {error}") from error
    if not isinstance(content, dict):
        raise ParameterError(f"expected node names at the top of {path}, got {type(content).__name__}")
    sections = [s["ros__parameters"] for s in content.values() if isinstance(s, dict) and "ros__parameters" in s]
    found = [s[name] for s in sections if isinstance(s, dict) and name in s]
    return str(found[-1]) if found else default


def end_launch_with(node: str) -> Callable[[Any, Any], Any]:
    """Return the `on_exit` of a node without which the launch is of no use.

    The launch ends with the node; with an error of its own where the node had one, so that `ros2 launch` too
    returns a non-zero exit code.
    """

    def on_exit(event: Any, context: Any) -> Any:
        """Take `launch.events.process.ProcessExited` and the launch context."""
        if context.is_shutdown:
            return None
        if event.returncode:
            raise DualFocusError(f"node {node!r} ended with exit code {event.returncode}, see its output above")
        from launch.actions import Shutdown

        return Shutdown(reason=f"node {node!r} has ended")

    return on_exit


def values(context: Any, names: Iterable[str]) -> dict[str, str]:
    """Return the values of launch arguments in a launch context, white space at the ends removed."""
    return {name: os.fspath(context.launch_configurations[name]).strip() for name in names}
