# SPDX-License-Identifier: Apache-2.0
"""Measures what docs/smart_sweep.md says: depth of smart sweeps against even ones, on the simulated camera.

Every scene is swept as it would be live: full sweeps, whose estimated depth and confidence tell the planner where
to look, then smart sweeps, each planned by the estimate of the one before. The true depth only scores. `smart` is
the mean of the smart sweeps; `with full sweeps` counts the full sweep that comes every so often, by its share.

Usage: python scripts/smart_sweep_report.py [--scenes far near ...] [--seeds 301 302 ...] [--width 640]
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from contextlib import ExitStack
from statistics import median

import numpy as np
from tabulate import tabulate

from dualfocus_ros.alignment.aligner import make_aligner
from dualfocus_ros.camera.scene import SCENE_CHOICES
from dualfocus_ros.camera.simulated import SimulatedCamera, SimulatedConfig
from dualfocus_ros.engine.base import DepthEngine
from dualfocus_ros.engine.pick import make_engine
from dualfocus_ros.estimator import DepthEstimator
from dualfocus_ros.evaluation.metrics import DepthMetrics, score, valid_mask
from dualfocus_ros.focus_sweep import FocusSweep, SweepControl
from dualfocus_ros.smart_sweep import SmartPlanner
from dualfocus_ros.stack import FocalStackBuffer
from dualfocus_ros.sweep import SweepConfig
from dualfocus_ros.types import CameraFrame, DepthEstimate, FocalStack

FULL_ONLY = SweepConfig(smart=True, smart_full_every=1)
METRICS = ("abs_rel", "rmse_m", "delta1")
FEWER = 7  # slices of the shorter smart sweeps
SMART_SWEEPS = 2
NEAR_M = 1.0  # what appears is nearer than this


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One sweep: stack, estimate and its metrics, and the time from the end of the sweep before to its end."""

    stack: FocalStack
    estimate: DepthEstimate
    metrics: DepthMetrics
    duration_s: float


class Rig:
    """A simulated camera that is swept, and an estimator of depth."""

    def __init__(self, camera: SimulatedCamera, estimator: DepthEstimator, config: SweepConfig) -> None:
        """Start with nothing known of the scene."""
        self.planner = SmartPlanner(config)
        self._camera, self._estimator = camera, estimator
        self._control = SweepControl(config)
        self._ended_ns = 0

    def configure(self, config: SweepConfig) -> None:
        """Sweep otherwise from now on."""
        self._control.config = config
        self.planner.configure(config)

    def change_scene(self, camera: SimulatedCamera) -> None:
        """Look at another scene from now on."""
        self._camera = camera

    def sweep(self) -> Sweep:
        """Make one sweep, estimate its depth, and let the planner see it."""
        frames: list[CameraFrame] = []
        buffer = FocalStackBuffer()
        stacks: list[FocalStack] = []
        for frame in FocusSweep(self._camera, self._control, self.planner.positions).frames():
            frames.append(frame)
            buffer.add_lens_state(frame.lens_state)
            buffer.add_intrinsics(frame.stamp_ns, frame.intrinsics)
            stacks += buffer.add_image(frame.stamp_ns, frame.image)
            if stacks:
                break
        truth = frames[-1].ground_truth_m
        assert truth is not None
        estimate = self._estimator.estimate(stacks[0])
        metrics = score(estimate.depth_m, truth, self._camera.focus_range_m, estimate.confidence)
        self.planner.observe(estimate.depth_m, estimate.confidence)
        before_ns, self._ended_ns = self._ended_ns, frames[-1].stamp_ns
        return Sweep(stacks[0], estimate, metrics, (self._ended_ns - before_ns) * 1e-9)


def camera_config(scene: str, seed: int, width: int) -> SimulatedConfig:
    """Return the default camera, or one of the same field of view with other pixels."""
    pitch_m = SimulatedConfig().pixel_pitch_m * 640 / width
    return SimulatedConfig(
        width=width, height=width * 3 // 4, pixel_pitch_m=pitch_m, rate_hz=0.0, seed=seed, scene=scene
    )


def mean(sweeps: list[Sweep], name: str) -> float:
    """Return the mean of a metric."""
    return float(np.mean([getattr(s.metrics, name) for s in sweeps]))


def measure(camera: SimulatedCamera, engine: DepthEngine, every: int) -> dict[str, float]:
    """Return the numbers of one scene and engine; alignment is what the depth node does by default."""
    with make_aligner() as aligner:
        return _measure(Rig(camera, DepthEstimator(engine, aligner=aligner), FULL_ONLY), every)


def _measure(rig: Rig, every: int) -> dict[str, float]:
    smart = dataclasses.replace(FULL_ONLY, smart_full_every=1000)
    full = [rig.sweep() for _ in range(SMART_SWEEPS)]
    rig.configure(smart)
    sweeps = [rig.sweep() for _ in range(SMART_SWEEPS)]
    rig.configure(dataclasses.replace(smart, smart_slices=FEWER))
    fewer = rig.sweep()
    found: dict[str, float] = {"full_s": full[-1].duration_s, "smart_s": sweeps[-1].duration_s}
    for name in METRICS:
        even, own = mean(full, name), mean(sweeps, name)
        found |= {f"even {name}": even, f"smart {name}": own, f"all {name}": (even + (every - 1) * own) / every}
        found[f"fewer {name}"] = getattr(fewer.metrics, name)
    found["fewer_s"] = fewer.duration_s
    dpt = np.round(1.0 / sweeps[-1].stack.focus_distance_m, 2)
    print(f"  {dpt.tolist()} dpt", file=sys.stderr, flush=True)
    return found


def change(new: float, old: float) -> str:
    """Return a relative change in words."""
    return f"{100.0 * (new / old - 1.0):+.0f} %"


def table(rows: dict[tuple[str, str], list[dict[str, float]]]) -> str:
    """Return medians over the seeds."""
    lines = []
    for (engine, scene), found in rows.items():
        m = {key: median(f[key] for f in found) for key in found[0]}
        gains = [f["smart abs_rel"] / f["even abs_rel"] - 1.0 for f in found]
        line = [engine, scene, f"{m['even abs_rel']:.4f}", f"{m['smart abs_rel']:.4f}"]
        line += [
            change(m["smart abs_rel"], m["even abs_rel"]),
            f"{100 * min(gains):+.0f} .. {100 * max(gains):+.0f}",
        ]
        line += [change(m["all abs_rel"], m["even abs_rel"]), change(m["smart rmse_m"], m["even rmse_m"])]
        line += [f"{m['even delta1']:.4f}", f"{m['smart delta1']:.4f}"]
        line += [change(m["fewer abs_rel"], m["even abs_rel"]), change(m["fewer_s"], m["full_s"])]
        line += [f"{m['full_s']:.2f}", f"{m['smart_s']:.2f}"]
        lines.append(line)
    headers = ["engine", "scene", "AbsRel even", "smart", "change", "over seeds %", "with full sweeps", "RMSE"]
    headers += ["delta1 even", "smart", f"{FEWER} slices: AbsRel", "time", "even s", "smart s"]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def appearing(seeds: list[int], width: int, engine: DepthEngine) -> str:
    """Return how well something is measured that appears far away from where the smart sweep looks."""
    lines: dict[str, list[tuple[float, float]]] = {}
    smart = dataclasses.replace(FULL_ONLY, smart_full_every=1000)
    for seed in seeds:
        far, new = (SimulatedCamera(camera_config(scene, seed, width)) for scene in ("far", "two_clusters"))
        with far, new, make_aligner("none") as aligner:
            rig = Rig(far, DepthEstimator(engine, aligner=aligner), smart)
            rig.sweep()
            rig.sweep()
            rig.change_scene(new)
            sweeps = {"smart, planned before": rig.sweep(), "smart, planned after": rig.sweep()}
            rig.configure(FULL_ONLY)
            sweeps["full"] = rig.sweep()
            rig.configure(smart)
            sweeps["smart, after the full one"] = rig.sweep()
            new.set_focus(NEAR_M)
            truth = new.read().ground_truth_m
            assert truth is not None
            for name, sweep in sweeps.items():
                lines.setdefault(name, []).append(_near_error(sweep, truth))
    rows = [(name, *(f"{median(v):.3f}" for v in zip(*found, strict=True))) for name, found in lines.items()]
    return tabulate(rows, ["sweep", "AbsRel of what appeared", "AbsRel of the rest"], tablefmt="github",
                    disable_numparse=True)  # fmt: skip


def _near_error(sweep: Sweep, truth: np.ndarray) -> tuple[float, float]:
    valid = valid_mask(truth, (0.0, np.inf)) & np.isfinite(sweep.estimate.depth_m)
    error = np.abs(sweep.estimate.depth_m - truth) / truth
    near = truth < NEAR_M
    return float(error[valid & near].mean()), float(error[valid & ~near].mean())


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="*", default=list(SCENE_CHOICES), choices=SCENE_CHOICES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[301, 302, 303, 304])
    parser.add_argument("--width", type=int, default=640, help="pixels; the height is 3/4 of it")
    parser.add_argument("--every", type=int, default=SweepConfig().smart_full_every, help="of smart_full_every")
    parser.add_argument("--engine", nargs="+", default=["onnx", "classical"], metavar="NAME")
    parser.add_argument("--appearing", action="store_true", help="measure something that appears, too")
    args = parser.parse_args()
    rows: dict[tuple[str, str], list[dict[str, float]]] = {(e, s): [] for e in args.engine for s in args.scenes}
    with ExitStack() as entered:
        engines = {name: entered.enter_context(make_engine(name)) for name in args.engine}
        for scene in args.scenes:
            for seed in args.seeds:
                with SimulatedCamera(camera_config(scene, seed, args.width)) as camera:
                    for name, engine in engines.items():
                        found = measure(camera, engine, args.every)
                        rows[name, scene].append(found)
                        brief = {key: round(value, 4) for key, value in found.items() if "abs_rel" in key}
                        print(scene, seed, name, brief, file=sys.stderr, flush=True)
        if args.scenes:
            print(table(rows))
        if args.appearing:
            print(appearing(args.seeds, args.width, engines[args.engine[0]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
