# SPDX-License-Identifier: Apache-2.0
"""What the tests of the Optotune driver share."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from optotune_stand_in import OptotuneStandIn

from dualfocus_ros.camera.optotune import OptotuneConfig, OptotuneDevice

IMAGE = np.zeros((48, 64), np.uint8)


def device_of(driver: OptotuneStandIn, **changes: Any) -> OptotuneDevice:
    return OptotuneDevice(OptotuneConfig(port=driver.path, width=64, height=48, **changes))


def feed_image(device: OptotuneDevice, age_s: float = 0.05) -> int:
    stamp_ns = time.time_ns() - round(age_s * 1e9)
    device.feed.put(IMAGE, "mono8", stamp_ns, None)
    return stamp_ns
