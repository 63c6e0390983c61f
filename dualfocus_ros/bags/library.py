# SPDX-License-Identifier: Apache-2.0
"""The libraries behind recordings, imported where they are needed, and the types of messages that they know."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

from dualfocus_ros.errors import BagError


def library(name: str) -> Any:
    """Return a module of the package `rosbags` or `mcap`.

    Raises:
        BagError: if the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise BagError(
            f"recordings need the Python package {package}: install it with pip install {package} ({error})"
        ) from error


@lru_cache(maxsize=1)
def typestore() -> Any:
    """Return the message types of ROS 2; those of sensor_msgs are the same from Humble on.

    Raises:
        BagError: if rosbags is not installed.
    """
    typesys = library("rosbags.typesys")
    return typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)


def deserialize(message_type: str, data: bytes) -> Any:
    """Return a message whose fields are named as in ROS, arrays as views on `data`.

    Args:
        message_type: as `sensor_msgs/msg/Image`.
        data: CDR.

    Raises:
        BagError: if the data do not hold such a message.
    """
    store = typestore()
    try:
        return store.deserialize_cdr(data, message_type)
    except Exception as error:  # whatever the decoder stumbles over, struct, index and Unicode errors among them
        raise BagError(f"expected {len(data)} bytes to hold a {message_type}, they do not: {error}") from error
