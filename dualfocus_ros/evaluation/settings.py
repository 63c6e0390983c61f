# SPDX-License-Identifier: Apache-2.0
"""Settings of an evaluation: the parameters of the depth node, from its YAML files and from NAME:=VALUE."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from dualfocus_ros.errors import ParameterError
from dualfocus_ros.estimator import EstimatorConfig
from dualfocus_ros.stack import BufferConfig

NODE = "dualfocus"
# Parameters of the depth node that say how it runs or publishes; they change no depth.
WITHOUT_EFFECT = (
    "autostart",
    "depth_encoding",
    "diagnostics_period_s",
    "engine_cache",
    "input_timeout_s",
    "use_sim_time",
)
ENGINE_NAMES = ("engine", "model")
PARAMETERS = "ros__parameters"

Config = TypeVar("Config", BufferConfig, EstimatorConfig)


@dataclass(frozen=True)
class Settings:
    """What of the depth node's parameters decides on the depth.

    Attributes:
        buffer: when frames become a stack.
        estimator: how a stack becomes depth.
        engine: engine asked for; None: not said.
        model: model asked for; None: not said.
        given: names and values that were given, for reports.
    """

    buffer: BufferConfig = field(default_factory=BufferConfig)
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    engine: str | None = None
    model: str | None = None
    given: Mapping[str, object] = field(default_factory=dict)


def read_settings(file: Path | None = None, assignments: Sequence[str] = ()) -> Settings:
    """Read the depth node's parameters.

    Args:
        file: YAML as the node takes it (config/depth.yaml): those of node `dualfocus` and of `/**` count.
        assignments: `NAME:=VALUE`, as after `--ros-args -p`; they go before the file.

    Raises:
        ParameterError: if the file cannot be read, or a name or value is not one of the node's.
    """
    of_file = _read_file(file) if file is not None else {}
    given = {**of_file, **dict(_assignment(text) for text in assignments)}
    buffer_names, estimator_names = _names(BufferConfig), _names(EstimatorConfig)
    known = (*buffer_names, *estimator_names, *ENGINE_NAMES, *WITHOUT_EFFECT)
    for name in given:
        if name not in known and not name.startswith("qos_overrides."):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            where = f"{file}: " if name in of_file else ""
            raise ParameterError(f"{where}the depth node has no parameter {name!r}: {hint}")
    engine, model = (_checked(n, str, {}, given[n]) if n in given else None for n in ENGINE_NAMES)
    return Settings(
        _config(BufferConfig, {n: given[n] for n in buffer_names if n in given}),
        _config(EstimatorConfig, {n: given[n] for n in estimator_names if n in given}),
        engine,
        model,
        {n: v for n, v in given.items() if n not in WITHOUT_EFFECT},
    )


def _read_file(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"cannot read the parameter file {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"expected YAML in the parameter file {file}: {error}") from error
    nodes = document if isinstance(document, dict) else {}
    fitting = {str(n): v for n, v in nodes.items() if str(n).rpartition("/")[2] in (NODE, "**")}
    found: dict[str, Any] = {}
    # The node's own come last, and so go before those of all nodes.
    for node in sorted(fitting, key=lambda name: not name.endswith("**")):
        section = fitting[node].get(PARAMETERS) if isinstance(fitting[node], dict) else None
        if not isinstance(section, dict):
            raise ParameterError(f"{file}: expected {PARAMETERS} with names and values below {node}")
        found |= _flat(section)
    if not fitting:
        names = ", ".join(map(str, nodes))
        raise ParameterError(f"{file}: expected parameters of node {NODE} or /**, got {names}")
    return found


def _flat(section: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested names joined by dots, as ROS does."""
    found: dict[str, Any] = {}
    for name, value in section.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _assignment(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition(":=")
    if not separator or not name:
        raise ParameterError(f"expected a parameter as NAME:=VALUE, got {text!r}")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ParameterError(f"parameter {name}: expected a value in YAML, got {value!r}") from error


def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(kind))


def _config(kind: type[Config], values: Mapping[str, Any]) -> Config:
    hints = get_type_hints(kind)
    metadata = {f.name: f.metadata for f in dataclasses.fields(kind)}
    return kind(**{name: _checked(name, hints[name], metadata[name], value) for name, value in values.items()})


def _checked(name: str, kind: Any, metadata: Mapping[str, Any], value: Any) -> Any:
    """Return a value of a parameter in its type; raise ParameterError if it is another or out of range."""
    plain = kind if kind in (bool, int, float) else str  # else Literal[...] of strings
    if plain is float and isinstance(value, int | str) and not isinstance(value, bool):
        with suppress(ValueError):  # a text may be 1e3 or inf, which YAML 1.1 takes for no number, but ROS does
            value = float(value)
    if type(value) is not plain:
        raise ParameterError(f"parameter {name}: expected {plain.__name__}, got {value!r}")
    if "choices" in metadata and value not in metadata["choices"]:
        raise ParameterError(f"parameter {name}: expected one of {list(metadata['choices'])}, got {value!r}")
    low, high = metadata.get("min", -math.inf), metadata.get("max", math.inf)
    if plain in (int, float) and not low <= value <= high:
        raise ParameterError(f"parameter {name}: expected {low} to {high}, got {value}")
    return value
