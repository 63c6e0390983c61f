# SPDX-License-Identifier: Apache-2.0
"""What the metadata of a focal stack do not say of its geometry: residual errors of the lens, and motion."""
