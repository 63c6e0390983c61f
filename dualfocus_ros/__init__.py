# SPDX-License-Identifier: Apache-2.0
"""Metric depth from any single camera whose focus can be moved."""

__version__ = "0.1.0"
