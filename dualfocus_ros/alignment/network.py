# SPDX-License-Identifier: Apache-2.0
"""Stand-in."""

from dualfocus_ros.alignment.classical import ClassicalResidual


class NetworkResidual(ClassicalResidual):
    """To come."""
