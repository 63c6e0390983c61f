# SPDX-License-Identifier: Apache-2.0
"""Depth engines behind `base.DepthEngine`; `pick` chooses one by name."""
