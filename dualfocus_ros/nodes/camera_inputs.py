# SPDX-License-Identifier: Apache-2.0
"""What the camera node takes from other nodes: images where its driver has only a lens, depth for smart sweeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sensor_msgs.msg import CameraInfo, Image

from dualfocus_ros import messages
from dualfocus_ros.camera.feed import FrameFeed
from dualfocus_ros.errors import DualFocusError, ParameterError
from dualfocus_ros.image_encodings import encoding_of
from dualfocus_ros.nodes.base import ManagedNode
from dualfocus_ros.types import FloatImage, Intrinsics

DEPTH_TOPICS = ("dualfocus/depth", "dualfocus/confidence")
# Camera infos and halves of a depth estimate that wait for the other half.
KEPT = 8


class CameraInputs:
    """Subscriptions of the camera node. Its executor's thread uses it."""

    def __init__(self, node: ManagedNode, feed: Callable[[], FrameFeed | None]) -> None:
        """Take the node, and a function that returns what takes images, None where nothing does."""
        self._node = node
        self._feed = feed
        self._subscriptions: dict[str, Any] = {}
        self._intrinsics: dict[int, Intrinsics] = {}
        self._halves: dict[int, dict[str, FloatImage]] = {}

    def subscribe(self, images: Sequence[str], observe: Callable[[FloatImage, FloatImage], None] | None) -> None:
        """Subscribe to this and no more.

        Args:
            images: topics of images and camera info; empty: none.
            observe: takes depth and confidence, both (H, W) float32; None: neither is asked for.

        Raises:
            ParameterError: if a topic has no name, or no valid one.
        """
        wanted: dict[str, tuple[Any, Callable[[Any], None]]] = {}
        if images:
            if not images[0]:
                raise ParameterError("expected image_topic, where another node publishes the images, got none")
            wanted[images[0]] = (Image, self._on_image)
            if images[1]:
                wanted[images[1]] = (CameraInfo, self._on_camera_info)
        if observe is not None:
            for topic in DEPTH_TOPICS:
                wanted[topic] = (Image, partial(self._on_depth, topic, observe))
        for topic in [t for t in self._subscriptions if t not in wanted]:
            self._node.destroy_input(self._subscriptions.pop(topic))
        for topic, (kind, callback) in wanted.items():
            if topic not in self._subscriptions:
                self._subscriptions[topic] = self._node.input(kind, topic, callback)

    def unsubscribe(self) -> None:
        """Give up all subscriptions."""
        self.subscribe((), None)
        self._intrinsics, self._halves = {}, {}

    def _on_image(self, message: Any) -> None:
        feed = self._feed()
        if feed is None:
            return
        try:
            image = messages.image_from_message(message)
            stamp_ns = messages.stamp_to_ns(message.header.stamp)
        except DualFocusError as error:
            self._node.get_logger().error(f"unusable image: {error}", throttle_duration_sec=2.0)
            return
        latest = next(reversed(self._intrinsics.values()), None)
        feed.put(image, encoding_of(image), stamp_ns, self._intrinsics.get(stamp_ns, latest))

    def _on_camera_info(self, message: Any) -> None:
        try:
            intrinsics = messages.intrinsics_from_message(message)
        except DualFocusError as error:
            self._node.get_logger().error(f"unusable camera info: {error}", throttle_duration_sec=2.0)
            return
        _keep(self._intrinsics, messages.stamp_to_ns(message.header.stamp), intrinsics)

    def _on_depth(self, topic: str, observe: Callable[[FloatImage, FloatImage], None], message: Any) -> None:
        """Keep one half of an estimate; hand both on once they are there."""
        try:
            values = messages.depth_from_message(message)
        except DualFocusError as error:
            self._node.get_logger().error(f"unusable {topic}: {error}", throttle_duration_sec=2.0)
            return
        stamp_ns = messages.stamp_to_ns(message.header.stamp)
        halves = self._halves.get(stamp_ns, {}) | {topic: values}
        if len(halves) < len(DEPTH_TOPICS):
            _keep(self._halves, stamp_ns, halves)
            return
        self._halves.pop(stamp_ns, None)
        depth_m, confidence = (halves[t] for t in DEPTH_TOPICS)
        if depth_m.shape == confidence.shape:
            observe(depth_m, confidence)


def _keep(kept: dict[int, Any], stamp_ns: int, value: Any) -> None:
    """Keep the newest few by stamp, in the order in which they came."""
    kept.pop(stamp_ns, None)
    kept[stamp_ns] = value
    while len(kept) > KEPT:
        del kept[next(iter(kept))]
