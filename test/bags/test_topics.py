# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from dualfocus_ros.bags.reader import BagTopic
from dualfocus_ros.bags.topics import RecordedTopics, TopicNames, find_topics
from dualfocus_ros.errors import BagError

IMAGE, INFO, LENS = (f"sensor_msgs/msg/{kind}" for kind in ("Image", "CameraInfo", "JointState"))


def topics(**types: str) -> dict[str, BagTopic]:
    """Return topics of 7 messages each; __ in a name stands for /."""
    names = {f"/{name.replace('__', '/')}": kind for name, kind in types.items()}
    return {name: BagTopic(name, kind, 7) for name, kind in names.items()}


OWN = topics(
    camera__image_raw=IMAGE,
    camera__camera_info=INFO,
    camera__lens=LENS,
    camera__ground_truth__depth=IMAGE,
    dualfocus__depth=IMAGE,
    dualfocus__camera_info=INFO,
    dualfocus__confidence=IMAGE,
)
OTHERS = topics(cam__color=IMAGE, cam__info=INFO, cam__zoom=LENS, rosout="rcl_interfaces/msg/Log")
FOUND = RecordedTopics("/camera/image_raw", "/camera/camera_info", "/camera/lens", "/camera/ground_truth/depth")


def test_topics_of_this_package_are_found_by_name() -> None:
    assert find_topics(OWN) == FOUND
    assert FOUND.names() == (
        "/camera/image_raw",
        "/camera/camera_info",
        "/camera/lens",
        "/camera/ground_truth/depth",
    )


def test_other_names_are_found_where_there_is_one_of_a_type() -> None:
    found = find_topics(OTHERS)
    assert found == RecordedTopics("/cam/color", "/cam/info", "/cam/zoom", "")
    assert found.names() == ("/cam/color", "/cam/info", "/cam/zoom")


def test_depth_and_robot_joints_are_not_taken_for_images_and_lenses() -> None:
    more = topics(cam__depth=IMAGE, cam__disparity__raw=IMAGE, joint_states=LENS)
    assert find_topics({**more, **OTHERS}) == RecordedTopics("/cam/color", "/cam/info", "/cam/zoom", "")


def test_of_several_cameras_the_one_with_the_lens() -> None:
    left = topics(left__image_raw=IMAGE, left__camera_info=INFO, left__ground_truth__depth=IMAGE)
    assert find_topics({**left, **OWN}) == FOUND


def test_the_truth_is_used_unless_it_is_not_wanted() -> None:
    assert find_topics(OWN, TopicNames(truth_topic="none")).truth == ""
    assert find_topics(OWN, TopicNames(truth_topic="dualfocus/depth")).truth == "/dualfocus/depth"


def test_names_go_before_what_would_be_found() -> None:
    both = {**OWN, **OTHERS}
    names = TopicNames("/cam/color", "cam/info", "/cam/zoom")
    assert find_topics(both, names) == RecordedTopics("/cam/color", "/cam/info", "/cam/zoom", FOUND.truth)


@pytest.mark.parametrize(
    ("recorded", "names", "expected"),
    [
        (
            {k: v for k, v in OWN.items() if k != "/camera/lens"},
            TopicNames(),
            [
                "expected a topic with lens states of type sensor_msgs/msg/JointState (such as /camera/lens)",
                "it has /camera/image_raw (sensor_msgs/msg/Image, 7)",
                "--lens-topic (parameter lens_topic)",
            ],
        ),
        (OTHERS | topics(cam__other=IMAGE), TopicNames(), ["several topics of images, /cam/color, /cam/other"]),
        (
            OWN | topics(camera__lens="std_msgs/msg/Float64"),
            TopicNames(),
            [
                "topic /camera/lens: expected lens states of type sensor_msgs/msg/JointState",
                "std_msgs/msg/Float64",
            ],
        ),
        (
            OWN,
            TopicNames(image_topic="/camera/image_row"),
            ["no topic /camera/image_row for the images", "did you"],
        ),
        (OWN, TopicNames(lens_topic="zzz"), ["no topic zzz for the lens states: it has /camera/image_raw"]),
        (
            OWN,
            TopicNames(image_topic="/camera/lens"),
            ["topic /camera/lens: expected images of type sensor_msgs/msg/Image"],
        ),
        (OWN, TopicNames(truth_topic="/camera/image_raw"), ["/camera/image_raw", "named for both"]),
        (
            OWN | topics(other__lens=LENS),
            TopicNames(),
            ["several topics of lens states, /camera/lens, /other/lens: choose one with --lens-topic"],
        ),
        ({}, TopicNames(), ["expected a topic with lens states"]),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    recorded: dict[str, BagTopic], names: TopicNames, expected: list[str]
) -> None:
    with pytest.raises(BagError) as caught:
        find_topics(recorded, names)
    for words in expected:
        assert words in str(caught.value)
