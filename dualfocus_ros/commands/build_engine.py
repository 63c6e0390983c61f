# SPDX-License-Identifier: Apache-2.0
"""`build-engine`: compile the network ahead of time, so that the node starts at once."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from dualfocus_ros.commands import told_on_stderr

NAME = "build-engine"
HELP = "compile the network for this GPU and one camera, ahead of time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--model", metavar="MODEL", help="name of an installed model, or path of an .onnx file")
    parser.add_argument(
        "--backend", metavar="LIBRARY", help="tensorrt or tensorrt_rtx; the first installed where not given"
    )
    parser.add_argument(
        "--precision", choices=("fp16", "fp32"), help="fp16 where not given; the path of a model says it itself"
    )
    parser.add_argument("--width", type=int, required=True, help="image width in pixels")
    parser.add_argument("--height", type=int, required=True, help="image height in pixels")
    parser.add_argument("--slices", type=int, required=True, help="slices of a stack")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where compiled engines are kept; that of the nodes (parameter engine_cache) where not given",
    )


def run(args: argparse.Namespace) -> int:
    """Compile, store and say where; return the exit code."""
    import sys
    import time

    from dualfocus_ros.engine.cuda import Cuda
    from dualfocus_ros.engine.manifest import DEFAULT_MODEL, load_manifest
    from dualfocus_ros.engine.plan_cache import PlanCache
    from dualfocus_ros.engine.tensorrt import (
        CHECK_PROFILE,
        compile_plan,
        first_library,
        of_precision,
        plan_key,
        profile_for,
    )
    from dualfocus_ros.errors import EngineError

    profiles = (profile_for(args.slices, args.height, args.width), CHECK_PROFILE)
    manifest = load_manifest(of_precision(args.model or DEFAULT_MODEL, args.precision or "fp16"))
    if args.precision not in (None, manifest.precision):
        raise EngineError(
            f"expected a model in {args.precision}, got {manifest.name}, which is in {manifest.precision}"
        )
    library = first_library(args.backend)
    gpu, why_not = None, ""
    try:
        with closing(Cuda()) as cuda:
            gpu = cuda.gpu
    except EngineError as error:
        why_not = str(error)
    try:
        key = plan_key(manifest, library, profiles, gpu)
    except EngineError as error:
        raise EngineError(f"{error} ({why_not})") from error

    report = told_on_stderr().report
    cache = PlanCache(args.output, report)

    def show(phase: str, done: int, total: int) -> bool:
        print(f"\r{phase}: {done} of {total}", end="" if done < total else "\n", file=sys.stderr, flush=True)
        return True

    start = time.monotonic()
    plan = cache.get(key, lambda: compile_plan(library, manifest, key, profiles, cache.folder, show, report))
    took_s = time.monotonic() - start
    where = cache.folder / key.file_name
    print(f"{where}: {manifest.name} for {profiles[0]}, {len(plan) / 1e6:.0f} MB, {took_s:.0f} s")
    print("its answer is checked on the GPU whenever it is loaded")
    return 0
