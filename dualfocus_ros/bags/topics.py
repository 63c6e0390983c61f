# SPDX-License-Identifier: Apache-2.0
"""Which topic of a recording is which: image, camera info, lens, true depth."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from dualfocus_ros.bags.reader import BagTopic
from dualfocus_ros.errors import BagError

NONE = "none"


@dataclass(frozen=True)
class TopicNames:
    """Names of the topics in a recording, as the user gives them. Empty: found by type and name."""

    image_topic: str = field(default="", metadata={"doc": "Topic of the images in the recording; empty: found."})
    camera_info_topic: str = field(
        default="", metadata={"doc": "Topic of the camera info in the recording; empty: found."}
    )
    lens_topic: str = field(
        default="", metadata={"doc": "Topic of the lens states in the recording; empty: found."}
    )
    truth_topic: str = field(
        default="",
        metadata={
            "doc": "Topic of the true depth in the recording; empty: found, if there is one; none: it is not used."
        },
    )


@dataclass(frozen=True)
class RecordedTopics:
    """Names of the topics that a recording has; `truth` is empty where there is none."""

    image: str
    camera_info: str
    lens: str
    truth: str = ""

    def names(self) -> tuple[str, ...]:
        """Return the names of those that exist."""
        return tuple(name for f in fields(self) if (name := getattr(self, f.name)))


@dataclass(frozen=True)
class Role:
    """What a topic is for.

    Attributes:
        what: in words.
        message_type: it must have.
        live_name: on which the nodes of this package take or give it, below the camera's name.
        not_named: ends of names that say that it is something else.
    """

    what: str
    message_type: str
    live_name: str
    not_named: tuple[str, ...] = ()


_NO_IMAGES = ("depth", "confidence", "all_in_focus", "ground_truth", "disparity")
ROLES = {
    "lens": Role("lens states", "sensor_msgs/msg/JointState", "lens", ("joint_states",)),
    "image": Role("images", "sensor_msgs/msg/Image", "image_raw", _NO_IMAGES),
    "camera_info": Role("camera info", "sensor_msgs/msg/CameraInfo", "camera_info"),
    "truth": Role("true depth", "sensor_msgs/msg/Image", "ground_truth/depth"),
}


def find_topics(topics: Mapping[str, BagTopic], names: TopicNames | None = None) -> RecordedTopics:
    """Return which topic is which.

    A topic that is not named is the one of its type whose name ends as this package names it, beside that of the
    lens where there are several; else the only one of its type. The truth is only found by such a name.

    Raises:
        BagError: if one is missing, has the wrong type, cannot be told from others, or is named twice. The
            message names it.
    """
    names = names or TopicNames()
    found: dict[str, str] = {}
    camera = ""
    for key, role in ROLES.items():
        asked = getattr(names, f"{key}_topic")
        if asked == NONE and key == "truth":
            continue
        found[key] = _check(topics, role, asked) if asked else _find(topics, key, camera)
        if key == "lens":
            camera = found[key].removesuffix(role.live_name)
    if found["image"] == found.get("truth"):
        raise BagError(f"topic {found['image']}: expected images or true depth, it is named for both")
    return RecordedTopics(**found)


def _check(topics: Mapping[str, BagTopic], role: Role, name: str) -> str:
    """Return the topic that was asked for."""
    absolute = name if name.startswith("/") else f"/{name}"
    if absolute not in topics:
        near = difflib.get_close_matches(absolute, topics, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {_listed(topics)}"
        raise BagError(f"the recording has no topic {name} for the {role.what}: {hint}")
    _check_type(topics[absolute], role)
    return absolute


def _check_type(topic: BagTopic, role: Role) -> None:
    if topic.message_type != role.message_type:
        raise BagError(
            f"topic {topic.name}: expected {role.what} of type {role.message_type}, the recording has "
            f"{topic.message_type} there; record the topic of that type, or name another"
        )


def _find(topics: Mapping[str, BagTopic], key: str, camera: str) -> str:
    """Return the topic of a role, empty where there is no truth."""
    role = ROLES[key]
    named = [t for t in topics.values() if t.name.endswith(f"/{role.live_name}")]
    # One that has the name but another type is a mistake to be told, not to be passed over.
    right = [t for t in named if t.message_type == role.message_type]
    if named and not right:
        _check_type(named[0], role)
    beside = [t for t in right if t.name == camera + role.live_name]
    if len(beside or right) == 1:
        return (beside or right)[0].name
    if key == "truth" and not right:
        return ""
    others = [t for t in topics.values() if t.message_type == role.message_type and not _is_other(t, role)]
    candidates = right or others
    if len(candidates) == 1:
        return candidates[0].name
    option = f"--{key.replace('_', '-')}-topic (parameter {key}_topic)"
    if candidates:
        listed = ", ".join(sorted(t.name for t in candidates))
        raise BagError(f"the recording has several topics of {role.what}, {listed}: choose one with {option}")
    raise BagError(
        f"expected a topic with {role.what} of type {role.message_type} (such as /camera/{role.live_name}) in the "
        f"recording, it has {_listed(topics)}: record it, or name it with {option}"
    )


def _is_other(topic: BagTopic, role: Role) -> bool:
    return any(word in topic.name.rpartition("/")[2] or f"/{word}/" in topic.name for word in role.not_named)


def _listed(topics: Mapping[str, BagTopic]) -> str:
    return ", ".join(f"{t.name} ({t.message_type}, {t.count})" for t in topics.values())
