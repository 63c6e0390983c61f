# SPDX-License-Identifier: Apache-2.0
"""Loads graphs into ONNX Runtime, which is imported only here, and only when it is needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dualfocus_ros.errors import EngineError

ERRORS_ONLY = 3  # log severity of ONNX Runtime
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
TOPOLOGY = Path("/sys/devices/system/cpu")


def first_line(error: Exception) -> str:
    """Return what an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def physical_cores() -> int:
    """Return the number of cores that this process may use, two threads of one core counting once."""
    usable = os.sched_getaffinity(0)
    cores = set()
    for cpu in usable:
        try:
            cores.add((TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text())
        except OSError:
            return max(1, len(usable))
    return max(1, len(cores))


def import_runtime() -> Any:
    """Return the module of ONNX Runtime; raise EngineError, with what to install, if it cannot be imported."""
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"the onnx engine needs ONNX Runtime ({error}): pip install onnxruntime (or onnxruntime-gpu with an "
            "NVIDIA GPU); engine:=classical or --engine classical works without"
        ) from error
    return onnxruntime


def load_session(runtime: Any, path: Path, threads: int, wanted: Sequence[str] = (CUDA, CPU)) -> Any:
    """Return the session of a graph.

    Args:
        runtime: the module of ONNX Runtime.
        path: of the graph.
        threads: how many CPU threads work on one run.
        wanted: where to run it, in words of ONNX Runtime; the first that is there.

    Raises:
        EngineError: if ONNX Runtime does not take the file.
    """
    options = runtime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Between two stacks the cores belong to the camera and the messages.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Not with the 10 bits of mantissa that GPUs take for single precision by default.
    settings: dict[str, dict[str, str]] = {CUDA: {"use_tf32": "0"}}
    there = runtime.get_available_providers()
    providers = [(name, settings.get(name, {})) for name in wanted if name in there]
    try:
        return runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no common root of their own
        raise EngineError(
            f"ONNX Runtime {runtime.__version__} cannot load {path}: {first_line(error)}; export the model "
            "again, or update: pip install -U onnxruntime"
        ) from error
