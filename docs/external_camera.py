# SPDX-License-Identifier: Apache-2.0
"""A camera driver of your own in one page: what the depth node needs from any focus-sweeping camera.

Plays a focal stack folder here, so that it runs as it is: python docs/external_camera.py STACK
Start the depth node beside it:  ros2 launch dualfocus_ros depth.launch.py camera:=external
"""

import json
import sys
from pathlib import Path

import cv2
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, JointState


class ExternalCamera(Node):
    def __init__(self, folder: Path) -> None:
        super().__init__("camera")
        meta = json.loads((folder / "meta.json").read_text())
        self.lens = [meta["focal_length_m"], meta["f_number"], meta["pixel_pitch_m"]]
        self.focus_m = meta["focus_distance_m"]
        files = sorted(folder.glob("slice_*"))
        self.images = [cv2.imread(str(file)) for file in files]
        self.image_pub = self.create_publisher(Image, "~/image_raw", 5)
        self.info_pub = self.create_publisher(CameraInfo, "~/camera_info", 5)
        self.lens_pub = self.create_publisher(JointState, "~/lens", 5)
        self.index = 0
        self.create_timer(1 / 15, self.expose)

    def expose(self) -> None:
        # One frame per focus position, in order; then from the start again.
        i, self.index = self.index, (self.index + 1) % len(self.images)
        height, width = self.images[i].shape[:2]
        stamp = self.get_clock().now().to_msg()  # the middle of the exposure: the same in all three messages

        lens = JointState()
        lens.header.stamp = stamp
        lens.name = ["focus_distance", "focal_length", "f_number", "pixel_pitch"]
        lens.position = [self.focus_m[i], *self.lens]
        lens.velocity = [0.0] * 4  # m/s of the focus distance during the exposure; not 0: frame is left out
        lens.effort = [0.0] * 4

        # K of a thin lens: the image distance v = f s / (s - f) in pixels. A calibration is better.
        f_m, _, pitch_m = self.lens
        fx = f_m * self.focus_m[i] / (self.focus_m[i] - f_m) / pitch_m
        info = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
        info.header.stamp = stamp
        info.header.frame_id = "camera_optical_frame"
        info.k = [fx, 0.0, (width - 1) / 2, 0.0, fx, (height - 1) / 2, 0.0, 0.0, 1.0]

        image = Image(width=width, height=height, step=3 * width, encoding="bgr8")
        image.header = info.header
        image.data.frombytes(self.images[i].tobytes())

        self.lens_pub.publish(lens)
        self.info_pub.publish(info)
        self.image_pub.publish(image)


if __name__ == "__main__":
    rclpy.init()
    rclpy.spin(ExternalCamera(Path(sys.argv[1])))
