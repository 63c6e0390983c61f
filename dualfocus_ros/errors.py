# SPDX-License-Identifier: Apache-2.0
"""The errors of the package: one root, one subclass a stage.

Every message states what was expected, what came and what to do. Library code raises them; only the
`main` functions print them (one line) and exit.
"""


class DualFocusError(Exception):
    """Root of all errors that this package raises on purpose."""


class InputError(DualFocusError):
    """An argument of a public function has the wrong type, shape or range."""


class ParameterError(DualFocusError):
    """A node parameter, a command line option or a configuration file is not usable."""


class LensError(DualFocusError):
    """A lens description or a lens state is not physical."""


class CameraError(DualFocusError):
    """A camera cannot be opened, read or focused."""


class DeviceError(CameraError):
    """A camera or a lens is absent, stalled or failing: it may come back, so the camera node tries again."""


class CalibrationError(DualFocusError):
    """A lens file is not usable, or a calibration cannot be made of what was measured."""


class MessageError(DualFocusError):
    """A ROS message does not hold what its header says."""


class StackError(DualFocusError):
    """A focal stack is incomplete, inconsistent or unreadable."""


class AlignmentError(DualFocusError):
    """The slices of a stack cannot be brought into one frame."""


class MotionError(AlignmentError):
    """The camera moved too much while a stack was taken."""


class EngineError(DualFocusError):
    """A depth engine is unknown, cannot be loaded or cannot run."""


class EvaluationError(DualFocusError):
    """An estimate cannot be compared with its ground truth."""


class DatasetError(DualFocusError):
    """A published data set is absent, damaged or laid out otherwise than its loader knows."""


class EngineNotReady(EngineError):
    """A depth engine is still being made, in the background; it will be ready later."""


class BagError(DualFocusError):
    """A recording cannot be read or written, or lacks a topic."""
