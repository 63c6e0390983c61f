# SPDX-License-Identifier: Apache-2.0
"""Training of the DualFocus network: network, losses, simulator, data, training loop, export. Needs torch."""
