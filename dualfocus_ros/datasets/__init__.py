# SPDX-License-Identifier: Apache-2.0
"""Published data sets of depth from focus as focal stacks: one family a module, all of them in `registry`."""
