# SPDX-License-Identifier: Apache-2.0
"""Images of another camera, handed from thread to thread."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from dualfocus_ros.camera.feed import FrameFeed
from dualfocus_ros.errors import DeviceError
from dualfocus_ros.types import Image, Intrinsics

WIDTH, HEIGHT = 8, 6


def picture(value: int = 0) -> Image:
    return np.full((HEIGHT, WIDTH), value, np.uint8)


def now_ns(age_s: float = 0.0) -> int:
    return time.time_ns() - round(age_s * 1e9)


def intrinsics(fx_px: float, width: int = WIDTH) -> Intrinsics:
    return Intrinsics(width, HEIGHT, fx_px, fx_px, 4.0, 3.0)


def test_the_newest_image_is_taken_and_only_once() -> None:
    feed = FrameFeed()
    for value in (1, 2, 3):
        feed.put(picture(value), "mono8", now_ns(), None)
    assert feed.take(0.0).image[0, 0] == 3
    with pytest.raises(DeviceError, match="no image came"):
        feed.take(0.01)


def test_a_stamp_becomes_a_time_of_the_monotonic_clock() -> None:
    feed = FrameFeed()
    stamp_ns = now_ns(age_s=1.5)
    feed.put(picture(), "mono8", stamp_ns, None)
    put_at_s = time.monotonic()
    time.sleep(0.05)  # the time is that of the image, not that of taking it
    taken = feed.take(0.0)
    assert taken.stamp_ns == stamp_ns
    assert put_at_s - taken.time_s == pytest.approx(1.5, abs=0.04)


@pytest.mark.parametrize(
    ("age_s", "words"), [(-0.5, "stamped in the future"), (4.0, "stamped more than 3 s ago"), (1.7e9, "recording")]
)
def test_images_that_are_not_of_now_are_refused_and_counted(age_s: float, words: str) -> None:
    feed = FrameFeed()
    assert feed.notes == ()
    for _ in range(2):
        feed.put(picture(), "mono8", now_ns(age_s), None)
    with pytest.raises(DeviceError, match=words):
        feed.take(0.0)
    (note,) = feed.notes
    assert note.startswith("2 images")
    feed.put(picture(7), "mono8", now_ns(), None)
    assert feed.take(0.0).image[0, 0] == 7
    feed.restart()
    assert feed.notes == ()


def test_the_jitter_of_clocks_in_step_does_not_count_as_the_future() -> None:
    feed = FrameFeed()
    feed.put(picture(), "mono8", now_ns(age_s=-0.001), None)
    assert feed.take(0.0).time_s <= time.monotonic() + 0.002


def test_order_is_kept_until_the_feed_starts_anew() -> None:
    feed = FrameFeed()
    earlier, later = now_ns(0.2), now_ns(0.1)
    feed.put(picture(1), "mono8", later, None)
    feed.put(picture(2), "mono8", earlier, None)
    feed.put(picture(3), "mono8", later, None)
    assert feed.take(0.0).image[0, 0] == 1
    assert feed.refused["images stamped before the one that came before"] == 2
    feed.restart()
    feed.put(picture(4), "mono8", earlier, None)
    assert feed.take(0.0).image[0, 0] == 4


def test_intrinsics_are_those_that_came_with_the_image_else_the_latest() -> None:
    feed = FrameFeed()
    feed.put(picture(), "mono8", now_ns(), None)
    assert feed.take(0.0).intrinsics is None
    feed.put(picture(), "mono8", now_ns(), intrinsics(100.0))
    assert feed.take(0.0).intrinsics == intrinsics(100.0)
    feed.put(picture(), "mono8", now_ns(), None)
    assert feed.take(0.0).intrinsics == intrinsics(100.0)


def test_intrinsics_of_another_size_are_left_out() -> None:
    feed = FrameFeed()
    feed.put(picture(), "mono8", now_ns(), intrinsics(100.0, width=16))
    assert feed.take(0.0).intrinsics is None
    assert feed.notes == ("1 camera infos of another size than their images refused",)
    chroma = np.zeros((HEIGHT * 3 // 2, WIDTH), np.uint8)
    feed.put(chroma, "nv12", now_ns(), intrinsics(100.0))
    assert feed.take(0.0).intrinsics == intrinsics(100.0)


def test_a_waiting_taker_gets_the_image_of_another_thread() -> None:
    feed = FrameFeed()
    thread = threading.Timer(0.05, lambda: feed.put(picture(9), "mono8", now_ns(), None))
    thread.start()
    assert feed.take(10.0).image[0, 0] == 9
    thread.join()


def test_an_interruption_lasts_until_the_feed_starts_anew() -> None:
    feed = FrameFeed()
    failed: list[str] = []

    def wait() -> None:
        try:
            feed.take(60.0)
        except DeviceError as error:
            failed.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.02)
    feed.interrupt()
    thread.join(10.0)
    assert failed == ["interrupted while waiting for an image"]
    feed.put(picture(), "mono8", now_ns(), None)
    with pytest.raises(DeviceError, match="interrupted"):
        feed.take(0.0)
    feed.restart()
    feed.put(picture(), "mono8", now_ns(), None)
    assert feed.take(0.0).encoding == "mono8"


def test_putters_and_a_taker_at_once_lose_nothing_but_older_images() -> None:
    feed = FrameFeed()
    start, stop = threading.Barrier(4), threading.Event()

    def put_all() -> None:
        start.wait()
        while not stop.is_set():
            feed.put(picture(), "mono8", now_ns(), None)

    threads = [threading.Thread(target=put_all) for _ in range(3)]
    for thread in threads:
        thread.start()
    start.wait()
    stamps = [feed.take(10.0).stamp_ns for _ in range(30)]
    stop.set()
    for thread in threads:
        thread.join()
    assert stamps == sorted(set(stamps))
