# SPDX-License-Identifier: Apache-2.0
"""Cameras whose focus can be moved: one driver a file, behind `base.FocusCamera`."""
