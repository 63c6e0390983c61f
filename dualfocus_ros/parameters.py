# SPDX-License-Identifier: Apache-2.0
"""Dataclass <-> ROS parameters: the defaults, descriptions, units and ranges live once, in the dataclasses.

A field's metadata may hold `doc`, `unit`, `min`, `max`, `choices` and `live` (settable while running; all
other parameters are read-only once the node has started).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, get_type_hints

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    ParameterType,
    SetParametersResult,
)
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from dualfocus_ros.errors import DualFocusError, ParameterError

Config = TypeVar("Config")

_ROS_TYPES: dict[Any, int] = {
    bool: ParameterType.PARAMETER_BOOL,
    int: ParameterType.PARAMETER_INTEGER,
    float: ParameterType.PARAMETER_DOUBLE,
    str: ParameterType.PARAMETER_STRING,
    tuple[float, ...]: ParameterType.PARAMETER_DOUBLE_ARRAY,
}
_INT_MAX = 2**31 - 1


def declare(node: Node, config_class: type[Config], prefix: str = "") -> Config:
    """Declare one parameter per field of a dataclass and return the dataclass with the values set.

    Args:
        node: declares them; values come from the command line, the launch file or YAML, else the defaults.
        config_class: a frozen dataclass whose fields have defaults.
        prefix: put before every name, e.g. `sweep.`.

    Raises:
        ParameterError: if a value has the wrong type or is out of range.
    """
    hints = get_type_hints(config_class)
    values: dict[str, Any] = {}
    for f in dataclasses.fields(config_class):  # type: ignore[arg-type]
        values[f.name] = _declare_field(node, f, hints[f.name], prefix + f.name)
    return config_class(**values)


class LiveParameters:
    """Lets `live` fields of declared configs be set while a node runs: all that one request sets, or nothing."""

    def __init__(self, node: Node) -> None:
        """Take the node."""
        self._configs: list[_LiveConfig] = []
        node.add_on_set_parameters_callback(self._on_set)

    def add(
        self,
        current: Config,
        apply: Callable[[Config], None],
        prefix: str = "",
        check: Callable[[Config], None] = lambda config: None,
    ) -> None:
        """Let one config be set. Each change makes a new config, which checks itself.

        Args:
            current: as declared.
            apply: takes a changed one; must not raise.
            prefix: of its parameters.
            check: refuses a changed one with a DualFocusError.
        """
        fields = {prefix + f.name: f for f in dataclasses.fields(current)}  # type: ignore[arg-type]
        self._configs.append(_LiveConfig(current, apply, check, fields))

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        changed: list[tuple[_LiveConfig, Any]] = []
        try:
            for live in self._configs:
                own = [p for p in parameters if p.name in live.fields]
                if own:
                    changes = {live.fields[p.name].name: _field_value(p, live.fields[p.name]) for p in own}
                    changed.append((live, dataclasses.replace(live.config, **changes)))
                    live.check(changed[-1][1])
        except DualFocusError as error:
            return SetParametersResult(successful=False, reason=str(error))
        for live, config in changed:
            live.config = config
            live.apply(config)
        return SetParametersResult(successful=True)


@dataclasses.dataclass
class _LiveConfig:
    config: Any
    apply: Callable[[Any], None]
    check: Callable[[Any], None]
    fields: dict[str, dataclasses.Field[Any]]


def refuse_unknown(node: Node, ignore_prefixes: Iterable[str] = ()) -> None:
    """Raise ParameterError if a parameter was given that the node does not have.

    ROS itself ignores such parameters, so a misspelt name would silently do nothing.
    """
    ignored = tuple(ignore_prefixes)
    known = sorted(_overrides(node).keys() & node._parameters.keys())
    declared = sorted(node._parameters.keys())
    for name in _overrides(node):
        if name in known or name.startswith(ignored or ("\0",)):
            continue
        near = difflib.get_close_matches(name, declared, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {declared}"
        raise ParameterError(f"node {node.get_name()!r} has no parameter {name!r}: {hint}")


def _field_value(parameter: Parameter, f: dataclasses.Field[Any]) -> Any:
    """Return the value of a parameter as the dataclass has it: lists are tuples of floats.

    Raises:
        ParameterError: if it is no list of numbers where that is expected, or the parameter is to be deleted.
    """
    value = parameter.value
    if parameter.type_ == Parameter.Type.NOT_SET:
        raise ParameterError(f"parameter {parameter.name} cannot be deleted")
    if not isinstance(f.default, tuple):
        return value
    if isinstance(value, (bool, int, float, str)) or not all(isinstance(v, (int, float)) for v in value or ()):
        unit = f" in {f.metadata['unit']}" if "unit" in f.metadata else ""
        raise ParameterError(f"parameter {parameter.name}: expected list of float{unit}, got {value!r}")
    return tuple(float(v) for v in value or ())


def _overrides(node: Node) -> dict[str, Parameter]:
    # rclpy has no public way to see the values given to a node before they are declared.
    overrides: dict[str, Parameter] = node._parameter_overrides
    return overrides


def _declare_field(node: Node, f: dataclasses.Field[Any], kind: Any, name: str) -> Any:
    kind = _plain_type(kind)
    default = list(f.default) if isinstance(f.default, tuple) else f.default
    given = _fit_override(node, kind, name)
    live_list = isinstance(f.default, tuple) and f.metadata.get("live", False)
    # rclpy takes an empty list for one of bytes, and then refuses numbers: the type must be named, or, where the
    # list can change later, none be asked for.
    typed = Parameter.Type(_ROS_TYPES[kind]) if given and not live_list else default
    try:
        value = node.declare_parameter(name, typed, _descriptor(f, kind)).value
    except ParameterException as error:
        unit = f" in {f.metadata['unit']}" if "unit" in f.metadata else ""
        words = "list of float" if isinstance(f.default, tuple) else kind.__name__
        expected = f"expected {words}{unit}, e.g. {name}:={default}"
        raise ParameterError(f"parameter {name}: {expected}; {error}") from error
    if live_list and value:
        _field_value(Parameter(name, value=value), f)
    choices = f.metadata.get("choices")
    if choices and value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ParameterError(f"parameter {name}: expected one of {list(choices)}, got {value!r}{hint}")
    return tuple(float(v) for v in value) if isinstance(f.default, tuple) else value


def _fit_override(node: Node, kind: Any, name: str) -> bool:
    """Make integers given for floats floats, and drop an empty list; say whether a value was given."""
    overrides = _overrides(node)
    given = overrides.get(name)
    if given is None:
        return False
    if given.type_ == Parameter.Type.NOT_SET or (kind not in (str, bool, int, float) and not given.value):
        del overrides[name]  # `name: []` says nothing of its type
        return False
    # Everybody writes `rate:=15` for 15.0.
    if kind is float and given.type_ == Parameter.Type.INTEGER:
        overrides[name] = Parameter(name, Parameter.Type.DOUBLE, float(given.value))
    elif kind == tuple[float, ...] and given.type_ == Parameter.Type.INTEGER_ARRAY:
        overrides[name] = Parameter(name, Parameter.Type.DOUBLE_ARRAY, [float(v) for v in given.value])
    return True


def _plain_type(kind: Any) -> Any:
    """Return str for Literal[...] of strings, else the type itself."""
    return kind if kind in _ROS_TYPES else str


def _descriptor(f: dataclasses.Field[Any], kind: Any) -> ParameterDescriptor:
    meta = f.metadata
    unit = f" [{meta['unit']}]" if "unit" in meta else ""
    descriptor = ParameterDescriptor(
        type=_ROS_TYPES[kind],
        description=str(meta.get("doc", "")) + unit,
        read_only=not meta.get("live", False),
    )
    # `_field_value` checks the type.
    descriptor.dynamic_typing = kind == tuple[float, ...] and not descriptor.read_only
    if "choices" in meta:
        descriptor.additional_constraints = "one of: " + ", ".join(meta["choices"])
    if kind is float and ("min" in meta or "max" in meta):
        low, high = float(meta.get("min", -math.inf)), float(meta.get("max", math.inf))
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    if kind is int and ("min" in meta or "max" in meta):
        low_int, high_int = int(meta.get("min", -_INT_MAX)), int(meta.get("max", _INT_MAX))
        descriptor.integer_range = [IntegerRange(from_value=low_int, to_value=high_int, step=1)]
    return descriptor
