# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest

from dualfocus_ros.engine.plan_cache import ENVIRONMENT, MAGIC, PlanCache, PlanKey, default_folder
from dualfocus_ros.errors import EngineError

KEY = PlanKey(
    model="net",
    onnx_sha256="ab" * 32,
    precision="fp16",
    library="tensorrt",
    library_version="10.3.0",
    gpu="Orin (nvgpu)",
    compute_capability="8.7",
    driver="12.6",
    profiles=("10 slices of 640 x 480",),
)
PLAN = bytes(range(256)) * 300


def other(name: str) -> PlanKey:
    value = getattr(KEY, name)
    return replace(KEY, **{name: (*value, "another") if isinstance(value, tuple) else value + "x"})


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, told: list[str]) -> PlanCache:
    return PlanCache(tmp_path / "deep" / "cache", told.append)


def never() -> bytes:
    raise AssertionError("it was built though it is there")


def test_a_plan_is_built_once(cache: PlanCache, told: list[str]) -> None:
    assert cache.load(KEY) is None
    assert cache.get(KEY, lambda: PLAN) == PLAN
    assert cache.get(KEY, never) == PLAN
    assert PlanCache(cache.folder).get(KEY, never) == PLAN
    assert told == []
    assert [p.name for p in cache.folder.iterdir() if p.suffix != ".lock"] == [KEY.file_name]


@pytest.mark.parametrize("name", [f.name for f in fields(PlanKey)])
def test_whatever_a_plan_depends_on_gives_another_file(cache: PlanCache, name: str) -> None:
    cache.store(KEY, PLAN)
    assert cache.load(other(name)) is None
    assert other(name).file_name != KEY.file_name


@pytest.mark.parametrize("name", [f.name for f in fields(PlanKey)])
def test_a_file_of_another_key_under_this_name_is_refused(cache: PlanCache, told: list[str], name: str) -> None:
    os.replace(cache.store(other(name), PLAN), cache.folder / KEY.file_name)
    assert cache.load(KEY) is None
    assert len(told) == 1 and f"of another {name};" in told[0]


@pytest.mark.parametrize("length", [0, 1, len(MAGIC), len(MAGIC) + 40, -len(PLAN), -len(PLAN) // 2, -1])
def test_a_truncated_file_is_told_and_built_anew(cache: PlanCache, told: list[str], length: int) -> None:
    path = cache.store(KEY, PLAN)
    path.write_bytes(path.read_bytes()[:length])
    assert cache.get(KEY, lambda: b"new") == b"new"
    assert cache.get(KEY, never) == b"new"
    assert told and all(str(path) in text and "built anew" in text for text in told)


def test_every_flipped_bit_is_noticed(cache: PlanCache) -> None:
    path = cache.store(KEY, PLAN)
    content = bytearray(path.read_bytes())
    for at in (0, len(MAGIC) + 1, len(MAGIC) + 30, len(content) - len(PLAN), len(content) - 1):
        damaged = bytearray(content)
        damaged[at] ^= 4
        path.write_bytes(damaged)
        assert cache.load(KEY) is None, at
    path.write_bytes(content + b"more")
    assert cache.load(KEY) is None
    path.write_bytes(MAGIC + b"[1, 2]\n" + PLAN)
    assert cache.load(KEY) is None


def test_a_failed_build_leaves_nothing(cache: PlanCache) -> None:
    with pytest.raises(ZeroDivisionError):
        cache.get(KEY, lambda: bytes(1 // 0))
    assert cache.get(KEY, lambda: PLAN) == PLAN


def test_a_folder_that_cannot_be_written_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="engine_cache"):
        PlanCache(tmp_path / "file" / "cache").get(KEY, lambda: PLAN)


def test_where_plans_lie_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (ENVIRONMENT, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "dualfocus_ros"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "dualfocus_ros"
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "own"))
    assert PlanCache().folder == tmp_path / "own"


SCRIPT = """
import sys, time
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_plan_cache import KEY, PLAN
from dualfocus_ros.engine.plan_cache import PlanCache

def build():
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    time.sleep(0.3)
    return PLAN

while not Path(sys.argv[1], "go").exists():
    time.sleep(0.005)
assert PlanCache(sys.argv[1], print).get(KEY, build) == PLAN
"""


def test_processes_that_want_the_same_plan_build_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path), str(log), str(Path(__file__).parent)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    time.sleep(1.0)
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert log.read_text() == "built\n"
    assert 1 <= sum("another process builds" in text for text in outputs) <= 3
    assert not list(tmp_path.glob(".*"))


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    """One process writes the same plan again and again, while this one reads it."""
    writer = (
        "import sys; sys.path.insert(0, sys.argv[2]); from test_plan_cache import *\n"
        "while True: PlanCache(sys.argv[1]).store(KEY, PLAN * 20)"
    )
    process = subprocess.Popen([sys.executable, "-c", writer, str(tmp_path), str(Path(__file__).parent)])
    try:
        told: list[str] = []
        cache, seen, end = PlanCache(tmp_path, told.append), 0, time.monotonic() + 20.0
        while seen < 200 and time.monotonic() < end:
            plan = cache.load(KEY)
            assert plan is None or plan == PLAN * 20
            seen += plan is not None
    finally:
        process.kill()
        process.wait()
    assert seen == 200 and told == []


def test_waiting_for_another_process_can_be_ended(cache: PlanCache, told: list[str]) -> None:
    with cache._lock(KEY, lambda: True), pytest.raises(EngineError, match="stopped while another process built"):
        PlanCache(cache.folder, told.append).get(KEY, never, lambda: False)
    assert any("another process builds" in text for text in told)
