# SPDX-License-Identifier: Apache-2.0
"""Node `dualfocus`: images, camera info and lens states in; depth, confidence and points out."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sensor_msgs.msg import CameraInfo, Image, JointState, PointCloud2

from dualfocus_ros import messages, parameters
from dualfocus_ros.alignment.aligner import make_aligner
from dualfocus_ros.engine.base import CompilerOptions
from dualfocus_ros.engine.manifest import DEFAULT_MODEL
from dualfocus_ros.engine.pick import ENGINE_CHOICES, describe, make_engine, takes_model
from dualfocus_ros.errors import DualFocusError, EngineError, EngineNotReady, MotionError
from dualfocus_ros.estimator import DepthEstimator, EstimatorConfig
from dualfocus_ros.nodes.base import ManagedNode
from dualfocus_ros.nodes.rates import Rate
from dualfocus_ros.nodes.runner import run_until_stopped
from dualfocus_ros.nodes.worker import LatestWorker
from dualfocus_ros.stack import BufferConfig, FocalStackBuffer
from dualfocus_ros.told_sweep import TOO_CLOSE
from dualfocus_ros.types import DepthEstimate, FocalSlice, FocalStack

DEPTH_ENCODINGS = ("32FC1", "16UC1")
LATENCY_KEY = "latency from last frame [ms]"


@dataclass(frozen=True)
class DepthNodeConfig:
    """Parameters of the depth node itself."""

    engine: str = field(
        default="auto",
        metadata={
            "doc": "Engine that estimates the depth: tensorrt runs the network on an NVIDIA GPU, onnx runs it on "
            "ONNX Runtime, torch on PyTorch (for development), classical needs no network, auto takes what runs "
            "the network best here.",
            "choices": ENGINE_CHOICES,
        },
    )
    model: str = field(
        default=DEFAULT_MODEL,
        metadata={
            "doc": "Network to run: name of an installed model, or path of an .onnx file; classical has none."
        },
    )
    engine_cache: str = field(
        default="",
        metadata={
            "doc": "Folder of the engines that tensorrt compiles; empty: $DUALFOCUS_ENGINE_CACHE, else "
            "~/.cache/dualfocus_ros."
        },
    )
    depth_encoding: str = field(
        default="32FC1",
        metadata={
            "doc": "Encoding of ~/depth: 32FC1 metres (NaN: none) or 16UC1 millimetres (0: none).",
            "choices": DEPTH_ENCODINGS,
        },
    )
    input_timeout_s: float = field(
        default=3.0,
        metadata={"doc": "Warn when an input topic was silent for this long.", "unit": "s", "min": 0.1},
    )


# Prefix and dataclass of all parameters besides those of every node.
PARAMETERS: tuple[tuple[str, Any], ...] = (("", DepthNodeConfig), ("", BufferConfig), ("", EstimatorConfig))


class DepthNode(ManagedNode):
    """Buffers the focal stack in its callbacks and estimates depth on a worker thread."""

    def __init__(self, **kwargs: Any) -> None:
        """Declare all parameters."""
        super().__init__("dualfocus", **kwargs)
        declared = (parameters.declare(self, kind, prefix) for prefix, kind in PARAMETERS)
        self._config, self._buffer_config, self._estimator_config = declared
        parameters.LiveParameters(self).add(self._estimator_config, self._set_estimator_config)
        parameters.refuse_unknown(self, ignore_prefixes=("qos_overrides.",))
        self._resources = ExitStack()
        self._estimator: DepthEstimator | None = None
        self._worker: LatestWorker[FocalStack] | None = None
        self._inputs: dict[str, Any] = {}
        self.outputs: tuple[Any, ...] = ()
        self._buffer = FocalStackBuffer(self._buffer_config)
        self._cloud = messages.PointCloudWriter()
        self._rates = {name: Rate() for name in ("camera/image_raw", "camera/camera_info", "camera/lens", "depth")}
        self._prepared_ns = 0  # stamp of the newest slice that the worker was told to begin with
        self._drops: Counter[str] = Counter()
        self._drops_lock = threading.Lock()
        self._breathing = ""
        self._not_ready = self._moved = ""
        self._latency_s = 0.0

    def configure(self) -> None:
        """Load the engine and create the publishers."""
        name = self._config.engine
        model = self._config.model if takes_model(name) else None
        options = CompilerOptions(self._config.engine_cache, wait=False, report=self.get_logger().info)
        engine = self._resources.enter_context(make_engine(name, model, options))
        config = self._estimator_config
        aligner = self._resources.enter_context(
            make_aligner(config.residual, config.alignment_file, denoise=config.denoise)
        )
        self._estimator = DepthEstimator(engine, config, aligner)
        self._resources.callback(self._forget_outputs)
        self.outputs = (
            self.output(Image, "~/depth"),
            self.output(CameraInfo, "~/camera_info"),
            self.output(PointCloud2, "~/points"),
            self.output(Image, "~/confidence"),
            self.output(Image, "~/all_in_focus"),
        )
        self.get_logger().info(describe(engine, name))

    def activate(self) -> None:
        """Subscribe and start the worker."""
        self._check_idle()
        self._buffer = FocalStackBuffer(self._buffer_config)
        self._worker = LatestWorker(self._estimate, self.fail, "depth worker")
        for kind, topic, callback in (
            (Image, "camera/image_raw", self._on_image),
            (CameraInfo, "camera/camera_info", self._on_camera_info),
            (JointState, "camera/lens", self._on_lens),
        ):
            self._inputs[topic] = self.input(kind, topic, callback)
        parameters.refuse_unknown(self)
        for rate in self._rates.values():
            rate.restart()

    def deactivate(self) -> None:
        """Unsubscribe and stop the worker."""
        for subscription in self._inputs.values():
            self.destroy_input(subscription)
        self._inputs = {}
        if self._worker is not None and self._worker.stop(timeout_s=1.0):
            self._worker = None

    def clean_up(self) -> None:
        """Free the engine and the publishers."""
        self._check_idle()
        self._resources.close()
        self._estimator = None

    def _check_idle(self) -> None:
        """Raise EngineError while a worker that was told to stop still estimates; only one may use the engine."""
        if self._worker is not None and not self._worker.stop(timeout_s=0.0):
            raise EngineError("the estimate under way when the node was deactivated is not finished: try again")
        self._worker = None

    def _on_image(self, message: Image) -> None:
        self._rates["camera/image_raw"].tick()
        self._feed(
            "camera/image_raw",
            lambda: self._buffer.add_image(
                messages.stamp_to_ns(message.header.stamp),
                messages.image_from_message(message),
                message.header.frame_id,
            ),
        )

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._rates["camera/camera_info"].tick()
        self._feed(
            "camera/camera_info",
            lambda: self._buffer.add_intrinsics(
                messages.stamp_to_ns(message.header.stamp), messages.intrinsics_from_message(message)
            ),
        )

    def _on_lens(self, message: JointState) -> None:
        self._rates["camera/lens"].tick()
        self._feed("camera/lens", lambda: self._buffer.add_lens_state(messages.lens_state_from_message(message)))

    def _feed(self, topic: str, add: Callable[[], list[FocalStack]]) -> None:
        """Run one `add` of the buffer and hand the newest stack that it completed to the worker."""
        try:
            stacks = add()
        except DualFocusError as error:
            self._reject(f"unusable {topic}", error)
            return
        if self._worker is None:
            return
        if not any(p.get_subscription_count() for p in self.outputs):
            if stacks:
                self._count("stack: nobody subscribes", len(stacks))
            return
        if not stacks:
            settled = self._buffer.settled
            if settled and settled[-1].stamp_ns != self._prepared_ns:
                self._prepared_ns = settled[-1].stamp_ns
                self._worker.put_aside(partial(self._prepare, settled))
            return
        replaced = self._worker.put(stacks[-1])
        self._count("stack: engine busy", len(stacks) - 1 + replaced)

    def _prepare(self, slices: tuple[FocalSlice, ...]) -> None:
        """Begin with the slices of the sweep under way; runs on the worker thread."""
        assert self._estimator is not None
        try:
            self._estimator.prepare(slices)
        except EngineError:
            raise
        except DualFocusError:
            return  # it will be told of the stack

    def _estimate(self, stack: FocalStack) -> None:
        """Estimate and publish one stack; runs on the worker thread."""
        assert self._estimator is not None
        try:
            estimate = self._estimator.estimate(stack)
        except EngineNotReady as error:
            self._not_ready = str(error)
            self._count("stack: engine not ready", 1)
            self.get_logger().info(self._not_ready, throttle_duration_sec=5.0)
            return
        except MotionError as error:
            self._moved = str(error)
            self._reject("stack: camera moved", error)
            return
        except EngineError:
            raise
        except DualFocusError as error:
            self._reject("stack: no estimate", error)
            return
        self._not_ready = self._moved = ""
        if not self.active:
            return
        self._report_breathing()
        for name, publish in self.publishing(estimate):
            try:
                publish()
            except DualFocusError as error:
                self._reject(f"output: {name}", error)
        self._rates["depth"].tick()
        newest_ns = max(s.stamp_ns for s in stack.slices)
        self._latency_s = (self.get_clock().now().nanoseconds - newest_ns) * 1e-9

    def publishing(self, e: DepthEstimate) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield name and action for each output that somebody subscribes to.

        All carry the stamp and frame of the reference. The action fills the message and publishes it.
        """
        at = (e.stamp_ns, e.frame_id)
        fill: dict[str, Callable[[], Any]] = {
            "depth": lambda: messages.depth_message(e.depth_m, *at, self._config.depth_encoding),
            "camera_info": lambda: messages.camera_info_message(e.intrinsics, *at),
            "points": lambda: self._cloud.write(e.depth_m, e.all_in_focus, e.intrinsics, *at),
            "confidence": lambda: messages.confidence_message(e.confidence, *at),
            "all_in_focus": lambda: messages.rgb_message(e.all_in_focus, *at),
        }
        for (name, make), publisher in zip(fill.items(), self.outputs, strict=True):
            if publisher.get_subscription_count():
                yield name, partial(_fill_and_publish, publisher, make)

    def _report_breathing(self) -> None:
        """Say where the field of view comes from, when that changes."""
        assert self._estimator is not None
        source = self._estimator.alignment.source
        if source == self._breathing:
            return
        self._breathing = source
        why = ""
        if self._estimator_config.breathing == "auto" and source == "thin_lens":
            why = " (K of camera_info does not follow the focus; set breathing to none if it is constant)"
        self.get_logger().info(f"field of view from {source}{why}")

    def _reject(self, reason: str, error: DualFocusError) -> None:
        """Count and log what cannot be used; the node goes on."""
        self._count(reason, 1)
        self.get_logger().error(f"{reason}: {error}", throttle_duration_sec=2.0)

    def _count(self, reason: str, count: int) -> None:
        """Count what is left out; both threads do."""
        with self._drops_lock:
            self._drops[reason] += count

    def _all_drops(self) -> Counter[str]:
        with self._drops_lock:
            return self._buffer.drops + self._drops

    def _set_estimator_config(self, config: EstimatorConfig) -> None:
        self._estimator_config = config
        if self._estimator is not None:
            self._estimator.config = config

    def _forget_outputs(self) -> None:
        self.outputs = ()
        self.destroy_outputs()

    def diagnose(self) -> messages.Diagnostic:
        """Return rates, latency, drops by reason, engine, and what is wrong in words."""
        level, text = self._judge()
        if level and self.active:
            self.get_logger().warning(text, throttle_duration_sec=self._config.input_timeout_s)
        values: dict[str, object] = {f"rate of {n} [Hz]": f"{r.hz():.2f}" for n, r in self._rates.items()}
        if self._estimator is not None:
            timing, alignment = self._estimator.timing, self._estimator.alignment
            values |= {
                "engine": self._estimator.engine.name,
                "device": self._estimator.engine.device,
                "field of view from": alignment.source,
                "alignment of the lens": alignment.in_words(),
                "time to align [ms]": f"{timing.align_s * 1e3:.1f}",
                "time of engine [ms]": f"{timing.engine_s * 1e3:.1f}",
                "alignment residual [px]": f"{abs(alignment.residual_px).max(initial=0.0):.3f}",
                "motion in the sweep [px]": f"{alignment.motion_px:.2f}",
                "noise that was taken out [grey levels]": f"{alignment.noise:.2f}",
                "exposure differences taken out [%]": f"{100.0 * alignment.exposure_difference:.1f}",
            }
        values |= {
            LATENCY_KEY: f"{self._latency_s * 1e3:.1f}",
            "focus positions": len(self._buffer.positions_dpt),
            "time jumps": self._buffer.time_jumps,
            "frames in memory": self._buffer.frames_held,
            "stacks completed": self._buffer.stacks_completed,
        }
        values |= {f"dropped: {reason}": n for reason, n in sorted(self._all_drops().items())}
        return messages.Diagnostic(f"{self.get_fully_qualified_name()}: depth", level, text, values)

    def _judge(self) -> tuple[int, str]:
        trouble = self.failure or self.refusal
        if trouble is not None:
            return 2, str(trouble)
        if not self.active:
            return 0, "not active"
        if self.get_clock().ros_time_is_active and self.get_clock().now().nanoseconds == 0:
            return 1, "use_sim_time is set and no time has come on /clock: is the simulator or the bag running?"
        timeout_s = self._config.input_timeout_s
        silent = [n for n in self._inputs if self._rates[n].silent_for_s() > timeout_s]
        if silent:
            return 1, f"no message for {timeout_s:g} s: {'; '.join(map(self.why_silent, silent))}"
        kept = self._estimator.alignment.trouble if self._estimator is not None else ""
        if kept:
            return 1, kept
        if self._not_ready or self._moved:
            return 1, self._not_ready or self._moved
        silence_s = self._rates["depth"].silent_for_s()
        if self._buffer.positions_dpt:
            # A sweep may take as long as its stack may be old.
            if silence_s <= max(2.0 * timeout_s, self._buffer_config.max_stack_age_s):
                return 0, "running"
        elif silence_s <= 2.0 * timeout_s:
            return 0, "waiting for the first complete focus sweep"
        return self._judge_no_depth()

    def _judge_no_depth(self) -> tuple[int, str]:
        """Say why inputs arrive and yet no depth leaves."""
        if not any(p.get_subscription_count() for p in self.outputs):
            return 0, "idle: nobody subscribes to an output"
        drops = self._all_drops()
        if drops["camera_info_of_another_size"] and not self._buffer.frames_accepted:
            return 1, (
                "camera_info says another image size than the images have: recalibrate at this resolution, or "
                "resize the camera info with the images"
            )
        if drops["too_many_slices"] and not self._buffer.positions_dpt:
            return 1, f"a sweep has more than {self._buffer_config.max_slices} focus positions: raise max_slices"
        if drops[TOO_CLOSE] and not self._buffer.stacks_completed:
            near_dpt = self._buffer_config.focus_tolerance_dpt
            return 1, (
                f"the focus positions of a sweep are closer than focus_tolerance_dpt, {near_dpt:g} dpt: lower it, "
                "or sweep fewer positions"
            )
        if self._buffer.stacks_completed:
            return 1, f"no depth for {self._rates['depth'].silent_for_s():.0f} s, dropped so far: {dict(drops)}"
        if self._buffer.frames_accepted and not self._buffer.positions_dpt:
            return (
                1,
                "no complete focus sweep yet: does the focus move over 3 positions or more, and again?",
            )
        return 1, f"no complete stack yet, dropped so far: {dict(drops)}"


def _fill_and_publish(publisher: Any, make: Callable[[], Any]) -> None:
    publisher.publish(make())


def main() -> int:
    """Run the node until it is stopped; return the exit code."""
    return run_until_stopped([DepthNode])
