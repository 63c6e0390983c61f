# SPDX-License-Identifier: Apache-2.0
"""The shipped networks, compiled by a real TensorRT; that it needs no GPU for this is why it is TensorRT-RTX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dualfocus_ros.engine.manifest import load_manifest
from dualfocus_ros.engine.plan import Profile, build_plan, import_library
from dualfocus_ros.engine.plan_cache import PlanCache
from dualfocus_ros.engine.tensorrt import CHECK_PROFILE, plan_key
from dualfocus_ros.errors import EngineError

pytest.importorskip("tensorrt_rtx")
MODELS = Path(__file__).resolve().parents[2] / "models"
NAMES = ("dualfocus_small", "dualfocus_small_fp16")
PROFILES = [
    Profile(240, 320, 5, 5, 5),
    Profile(480, 640, 5, 5, 5),
    Profile(240, 320, 3, 8, 15),
    Profile(480, 640, 3, 8, 15),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_the_shipped_networks_compile(name: str, profile: Profile, tmp_path: Path) -> None:
    library, manifest = import_library("tensorrt_rtx"), load_manifest(MODELS / f"{name}.json")
    steps: list[tuple[str, int, int]] = []
    profiles = (profile, CHECK_PROFILE)
    plan, _ = build_plan(library, manifest, profiles, lambda *step: steps.append(step) is None)
    assert len(plan) > 1_000_000
    assert steps[0][1] == 0 and steps[-1][1] == steps[-1][2]
    key = plan_key(manifest, library, profiles, None)
    cache = PlanCache(tmp_path)
    cache.store(key, plan)
    assert cache.load(key) == plan


def test_a_build_can_be_stopped() -> None:
    library, manifest = import_library("tensorrt_rtx"), load_manifest(MODELS / "dualfocus_small.json")
    with pytest.raises(EngineError, match="was stopped"):
        build_plan(library, manifest, [CHECK_PROFILE], lambda phase, done, total: False)


def test_what_it_does_not_take_is_an_error_with_its_words(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    tiny_models = pytest.importorskip("tiny_models")

    def unknown(model: object) -> None:
        model.node[-1].op_type = "Bernoulli"  # type: ignore[attr-defined]

    path = tiny_models.tiny_model(tmp_path, change=unknown, manifest=False)
    from dualfocus_ros.engine.manifest import write_manifest

    assert onnx
    manifest = load_manifest(write_manifest(path, **tiny_models.FACTS))
    with pytest.raises(EngineError, match="tensorrt_rtx .* does not take .*tiny.onnx"):
        build_plan(import_library("tensorrt_rtx"), manifest, [CHECK_PROFILE])


def test_the_command_compiles_and_says_where(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dualfocus_ros", "build-engine", "--backend", "tensorrt_rtx", "--width", "64"]
    command += ["--height", "48", "--slices", "3", "--output", str(tmp_path)]
    for _ in range(2):
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "dualfocus_small_fp16 for 3 to 5 slices of 64 x 48" in result.stdout
        (plan,) = tmp_path.glob("*.plan")
        assert str(plan) in result.stdout
    assert result.stderr == ""  # nothing was compiled the second time
