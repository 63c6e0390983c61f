# SPDX-License-Identifier: Apache-2.0
"""`python -m dualfocus_ros COMMAND`."""

import sys

from dualfocus_ros.cli import main

if __name__ == "__main__":
    sys.exit(main())
