# SPDX-License-Identifier: Apache-2.0
"""Calibration of lenses that move: what a lens file holds is measured here."""
