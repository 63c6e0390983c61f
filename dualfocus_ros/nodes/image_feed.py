# SPDX-License-Identifier: Apache-2.0
"""Feeds a device whose images another node publishes, for commands that are no nodes themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dualfocus_ros import dds, messages
from dualfocus_ros.camera.feed import FrameFeed
from dualfocus_ros.nodes.base import ManagedNode
from dualfocus_ros.nodes.camera_inputs import CameraInputs
from dualfocus_ros.nodes.runner import NodeSet


class FeedNode(ManagedNode):
    """Subscribes to images and camera info and hands them to a feed."""

    def __init__(self, feed: FrameFeed, topics: tuple[str, str]) -> None:
        """Take the feed, and the topics of images and camera info (empty: none)."""
        super().__init__("calibration")
        self._topics = topics
        self._inputs = CameraInputs(self, lambda: feed)

    def activate(self) -> None:
        """Subscribe."""
        self._inputs.subscribe(self._topics, None)

    def deactivate(self) -> None:
        """Unsubscribe."""
        self._inputs.unsubscribe()

    def diagnose(self) -> messages.Diagnostic:
        """Return that it works."""
        return messages.Diagnostic(f"{self.get_fully_qualified_name()}: images", 0, "calibrating")


@contextmanager
def feeding(device: Any, config: Any) -> Iterator[None]:
    """Feed the device from the topics in its settings for as long as the context lasts.

    Raises:
        ParameterError: if the settings name no topic of images.
    """
    dds.use_profile()
    with NodeSet([lambda: FeedNode(device.feed, (config.image_topic, config.camera_info_topic))], []):
        yield
