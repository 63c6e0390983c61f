# SPDX-License-Identifier: Apache-2.0
"""A double of those classes of `launch` and `launch_ros` that this package's launch files use.

PyPI has no `launch`, so the launch files are executed with these instead: arguments, choices, includes,
parameters, remaps and environment are resolved as the real ones do, and the real nodes can be started.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent


class LaunchContext:
    """What the actions read and write."""

    def __init__(self) -> None:
        self.launch_configurations: dict[str, str] = {}
        self.environment: dict[str, str] = {}
        self.is_shutdown = False
        self.nodes: list[Node] = []
        self.declared: list[DeclareLaunchArgument] = []


class LaunchDescription:
    def __init__(self, entities: Sequence[Any]) -> None:
        self.entities = list(entities)

    def execute(self, context: LaunchContext) -> None:
        for entity in self.entities:
            entity.execute(context)


class DeclareLaunchArgument:
    def __init__(
        self, name: str, *, default_value: str | None = None, description: str = "", choices: Any = None
    ) -> None:
        if choices is not None and default_value is not None and default_value not in choices:
            raise RuntimeError(f'Provided default_value "{default_value}" is not in provided choices "{choices}".')
        self.name, self.default_value, self.description, self.choices = name, default_value, description, choices

    def execute(self, context: LaunchContext) -> None:
        if self.default_value is None and self.name not in context.launch_configurations:
            raise RuntimeError(f'Required launch argument "{self.name}" was not provided.')
        value = context.launch_configurations.setdefault(self.name, self.default_value or "")
        if self.choices is not None and value not in self.choices:
            raise RuntimeError(
                f'Argument "{self.name}" provided value "{value}" is not valid. Valid options are: {self.choices}'
            )
        context.declared.append(self)


class OpaqueFunction:
    def __init__(self, *, function: Callable[..., Any]) -> None:
        self.function = function

    def execute(self, context: LaunchContext) -> None:
        LaunchDescription(self.function(context) or []).execute(context)


class SetEnvironmentVariable:
    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value

    def execute(self, context: LaunchContext) -> None:
        context.environment[self.name] = self.value


class Shutdown:
    def __init__(self, *, reason: str = "") -> None:
        self.reason = reason

    def execute(self, context: LaunchContext) -> None:
        context.is_shutdown = True


class PythonLaunchDescriptionSource:
    def __init__(self, path: str) -> None:
        self.path = path

    def load(self) -> LaunchDescription:
        return load(self.path)


class IncludeLaunchDescription:
    def __init__(self, source: PythonLaunchDescriptionSource, *, launch_arguments: Any = ()) -> None:
        self.source, self.launch_arguments = source, list(launch_arguments)

    def execute(self, context: LaunchContext) -> None:
        description = self.source.load()
        context.launch_configurations.update(self.launch_arguments)
        description.execute(context)


@dataclass
class ParameterValue:
    value: Any
    value_type: Any = None


@dataclass(eq=False)
class Node:
    package: str
    executable: str
    name: str = ""
    namespace: str = ""
    parameters: list[Any] = field(default_factory=list)
    remappings: list[tuple[str, str]] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    additional_env: dict[str, str] = field(default_factory=dict)
    output: str = "log"
    on_exit: Callable[..., Any] | None = None

    def execute(self, context: LaunchContext) -> None:
        context.nodes.append(self)

    def given(self) -> dict[str, Any]:
        """Return the parameters that the launch file sets itself, without those of parameter files."""
        found: dict[str, Any] = {}
        for entry in self.parameters:
            if isinstance(entry, dict):
                found.update({k: v.value if isinstance(v, ParameterValue) else v for k, v in entry.items()})
        return found

    def files(self) -> list[str]:
        """Return the parameter files, in order."""
        return [entry for entry in self.parameters if isinstance(entry, str)]

    def command(self, folder: Path) -> list[str]:
        """Return the command line; parameters that are no file are written to one in `folder`, as launch does."""
        words = [*_executable(self.executable), *self.arguments, "--ros-args", "-r", f"__node:={self.name}"]
        if self.namespace:
            words += ["-r", f"__ns:=/{self.namespace.strip('/')}"]
        for number, entry in enumerate(self.parameters):
            path = entry
            if isinstance(entry, dict):
                values = {k: v.value if isinstance(v, ParameterValue) else v for k, v in entry.items()}
                path = folder / f"{self.name}_{number}.yaml"
                path.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
            words += ["--params-file", str(path)]
        for old, new in self.remappings:
            words += ["-r", f"{old}:={new}"]
        return words


def python_path() -> str:
    """Return a PYTHONPATH with which child processes run the code of this checkout."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def _executable(name: str) -> list[str]:
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    for prefix in filter(None, prefixes):
        for path in (Path(prefix) / "lib" / "dualfocus_ros" / name, Path(prefix) / "bin" / name):
            if path.is_file():
                return [str(path)]
    code = f"import sys; from dualfocus_ros.nodes.executables import {name} as main; sys.exit(main())"
    return [sys.executable, "-c", code]


def _modules() -> dict[str, types.ModuleType]:
    contents: dict[str, list[Any]] = {
        "launch": [LaunchDescription],
        "launch.actions": [
            DeclareLaunchArgument,
            IncludeLaunchDescription,
            OpaqueFunction,
            SetEnvironmentVariable,
            Shutdown,
        ],
        "launch.launch_description_sources": [PythonLaunchDescriptionSource],
        "launch_ros": [],
        "launch_ros.actions": [Node],
        "launch_ros.parameter_descriptions": [ParameterValue],
    }
    modules = {}
    for name, members in contents.items():
        modules[name] = types.ModuleType(name)
        for member in members:
            setattr(modules[name], member.__name__, member)
    return modules


@contextmanager
def installed() -> Iterator[None]:
    """Let `import launch` and `import launch_ros` find the double, whatever is installed."""
    doubles = _modules()
    names = [n for n in sys.modules if n.partition(".")[0] in ("launch", "launch_ros")]
    saved = {n: sys.modules.pop(n) for n in names}
    sys.modules.update(doubles)
    try:
        yield
    finally:
        for name in doubles:
            sys.modules.pop(name, None)
        sys.modules.update(saved)


def load(path: str) -> LaunchDescription:
    """Return the description of a launch file; the double must be installed."""
    spec = importlib.util.spec_from_file_location("launch_file_under_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description: LaunchDescription = module.generate_launch_description()
    return description


def arguments(path: Path) -> set[str]:
    """Return the names of the arguments that a launch file itself declares."""
    with installed():
        entities = load(str(path)).entities
    return {e.name for e in entities if isinstance(e, DeclareLaunchArgument)}


def evaluate(path: Path, **arguments: str) -> LaunchContext:
    """Execute a launch file with arguments, as `ros2 launch PACKAGE FILE name:=value ...` does.

    The command line is in sys.argv meanwhile. No process is started.
    """
    context = LaunchContext()
    context.launch_configurations.update(arguments)
    words = [f"{name}:={value}" for name, value in arguments.items()]
    saved, sys.argv = sys.argv, ["ros2", "launch", "dualfocus_ros", path.name, *words]
    try:
        with installed():
            load(str(path)).execute(context)
    finally:
        sys.argv = saved
    return context


@contextmanager
def started(context: LaunchContext, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start the nodes of an executed launch file; at the end stop them as Ctrl-C does and wait.

    Their output goes to `folder`/<node>.log.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for node in context.nodes:
            environ = {**os.environ, **context.environment, **node.additional_env}
            environ["PYTHONPATH"] = python_path()
            with open(folder / f"{node.name}.log", "wb") as log:
                processes.append(
                    subprocess.Popen(
                        node.command(folder),
                        env=environ,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        # A background job of a shell without a terminal has SIGINT ignored.
                        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                    )
                )
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
