# SPDX-License-Identifier: Apache-2.0
"""The ROS nodes: thin wrappers around the core."""
