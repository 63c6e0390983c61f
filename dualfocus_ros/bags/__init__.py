# SPDX-License-Identifier: Apache-2.0
"""Recordings in the rosbag2 format, read and written without ROS."""
