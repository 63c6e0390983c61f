# SPDX-License-Identifier: Apache-2.0
"""The pool on disk and the batches made of it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dualfocus_ros.errors import InputError  # noqa: E402
from dualfocus_ros.learning import data  # noqa: E402
from dualfocus_ros.learning.camera_effects import Effects  # noqa: E402
from dualfocus_ros.learning.data import (  # noqa: E402
    BRIGHTEST,
    STACKS_A_SCENE,
    Batch,
    PoolDataset,
    SimulatedDataset,
    collate,
    fill_pool,
    load_stack,
    random_slices,
    save_stack,
)
from dualfocus_ros.learning.simulator import Optics, Stack  # noqa: E402

SIZE = 32


def stack_of(value: int, slices: int = 3, size: int = SIZE) -> Stack:
    """A stack of random light whose depth and gain tell which one it is."""
    light = torch.rand((slices, 3, size, size), generator=torch.Generator().manual_seed(value))
    focus = tuple(float(p) for p in np.linspace(3.0, 0.5, slices))
    return Stack(light, torch.full((size, size), 1.0 + value), Optics(focus, 10.0 + value, 0.0))


def make_pool(folder: Path, numbers: range, slices: int = 3) -> Path:
    for k in numbers:
        save_stack(folder / f"{k:07d}_0_{slices:02d}.npz", stack_of(k, slices))
    return folder


def same(a: Batch, b: Batch) -> bool:
    return all(
        torch.equal(getattr(a, n), getattr(b, n)) for n in ("images", "inverse_depth", "focus_dpt", "blur_gain")
    )


def some(dataset: PoolDataset, count: int) -> list[Batch]:
    return list(itertools.islice(iter(dataset), count))


def test_a_stack_comes_back_from_disk(tmp_path: Path) -> None:
    stack = stack_of(2, 5)
    stack.light[0, 0, 0, 0] = 100.0  # a highlight
    save_stack(tmp_path / "0000002_0_05.npz", stack)
    assert [p.name for p in tmp_path.iterdir()] == ["0000002_0_05.npz"]
    found = load_stack(tmp_path / "0000002_0_05.npz")
    assert found.optics == stack.optics and torch.equal(found.inverse_depth, stack.inverse_depth)
    assert found.light.dtype == torch.float32 and float(found.light[0, 0, 0, 0]) == BRIGHTEST
    torch.testing.assert_close(found.light, stack.light.clamp(max=BRIGHTEST), rtol=2**-10, atol=1e-7)


def whole_file(folder: Path) -> bytes:
    save_stack(folder / "good.npz", stack_of(1))
    return (folder / "good.npz").read_bytes()


@pytest.mark.parametrize("damage", ["empty", "cut short", "garbage", "bits", "array", "keys", "missing"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    good, path = whole_file(tmp_path), tmp_path / "bad_0_03.npz"
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut short":
        path.write_bytes(good[: len(good) // 2])
    elif damage == "garbage":
        path.write_bytes(bytes(range(256)) * 20)
    elif damage == "bits":  # in the middle of the light: the checksum of the archive finds it
        path.write_bytes(good[:3000] + bytes(255 - b for b in good[3000:3100]) + good[3100:])
    elif damage == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(4))
    elif damage == "keys":
        np.savez(path, light=np.zeros((3, 3, 8, 8)))
    with pytest.raises(InputError, match="bad_0_03.npz"):
        load_stack(path)


def test_a_batch_is_a_function_of_seed_and_number(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, range(6))
    first, again = (some(PoolDataset(pool, 6, 16, seed=4), 3) for _ in range(2))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not same(first[0], first[1])
    assert not same(first[0], some(PoolDataset(pool, 6, 16, seed=5), 1)[0])


def test_a_resumed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    pool = make_pool(make_pool(tmp_path, range(4)), range(4, 8), slices=4)
    whole = some(PoolDataset(pool, 8, 16, seed=1), 6)
    resumed = some(PoolDataset(pool, 8, 16, seed=1, start=4), 2)
    assert same(whole[4], resumed[0]) and same(whole[5], resumed[1])


def test_workers_share_the_batches_out(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, range(5))
    alone = some(PoolDataset(pool, 3, 16, seed=2), 4)
    loader = torch.utils.data.DataLoader(PoolDataset(pool, 3, 16, seed=2), batch_size=None, num_workers=2)
    together = list(itertools.islice(iter(loader), 4))
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_batches_hold_about_as_many_slices_as_asked_for(tmp_path: Path) -> None:
    pool = make_pool(make_pool(tmp_path, range(3)), range(3, 6), slices=5)
    shapes = {tuple(b.images.shape) for b in some(PoolDataset(pool, 15, 16, seed=0), 12)}
    assert shapes == {(5, 3, 3, 16, 16), (3, 5, 3, 16, 16)}


def test_a_pool_may_grow(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, range(1))
    batches = iter(PoolDataset(pool, 3, 8, seed=0))
    for _ in range(200):
        assert float(next(batches).blur_gain[0]) == 10.0
    make_pool(pool, range(7, 9))
    later = {float(next(batches).blur_gain[0]) for _ in range(30)}
    assert later == {10.0, 17.0, 18.0}


def test_a_file_half_written_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "0000001_0_03.partial").write_bytes(b"half")
    pool = make_pool(tmp_path, range(1))
    assert float(some(PoolDataset(pool, 3, 8, seed=0), 1)[0].blur_gain[0]) == 10.0


def test_an_empty_pool_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none: fill the pool first"):
        next(iter(PoolDataset(tmp_path, 3, 8, seed=0)))
    with pytest.raises(InputError, match="found none"):
        next(iter(PoolDataset(tmp_path / "missing", 3, 8, seed=0)))


def without_effects(rng: np.random.Generator, focus_dpt: np.ndarray, breathing: float) -> Effects:
    n = len(focus_dpt)
    return Effects(1.0, np.ones(n), 0.0, np.ones(n), np.zeros((n, 3)), float("inf"), 1.0, 1.0, 0)


def test_pictures_and_depth_are_cropped_flipped_and_turned_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brightness tells depth, column and row, and still does so after all turns."""
    monkeypatch.setattr(data, "random_effects", without_effects)
    w = torch.rand((SIZE, SIZE), generator=torch.Generator().manual_seed(0)) * 0.9 + 0.1
    stack = Stack(w.expand(3, 3, -1, -1).contiguous(), w, Optics((2.0, 1.0, 0.5), 9.0))
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        batch = collate([stack], 12, rng)
        depth = batch.inverse_depth[0]
        ratio = batch.images[0] / depth
        assert float(ratio.max() / ratio.min()) < 1.08  # 8 bits of dark pixels, nothing else
        places = (
            (stack.inverse_depth == depth[0, 0]).nonzero()[0],
            (stack.inverse_depth == depth[0, -1]).nonzero()[0],
        )
        below = (stack.inverse_depth == depth[-1, 0]).nonzero()[0]
        seen.add((tuple((places[1] - places[0]).sign().tolist()), tuple((below - places[0]).sign().tolist())))
    assert len(seen) == 8  # the eight symmetries of a square


def test_collate_shapes_focus_and_exposure() -> None:
    stacks = [stack_of(k, 4) for k in range(3)]
    batch = collate(stacks, 16, np.random.default_rng(1))
    assert batch.images.shape == (3, 4, 3, 16, 16) and batch.inverse_depth.shape == (3, 16, 16)
    np.testing.assert_allclose(
        batch.focus_dpt.numpy(), np.linspace(3.0, 0.5, 4)[None].repeat(3, axis=0), rtol=1e-6
    )
    assert batch.blur_gain.tolist() == [10.0, 11.0, 12.0]
    assert float(batch.images.min()) >= 0.0 and float(batch.images.max()) <= 1.0
    levels = batch.images * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)


def test_a_stack_too_small_for_the_crop_says_so() -> None:
    with pytest.raises(InputError, match="64"):
        collate([stack_of(0)], 64, np.random.default_rng(0))


def test_fill_pool_renders_once(tmp_path: Path) -> None:
    bank = torch.rand((3, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    first = list(fill_pool(tmp_path, 5, 2, 24, bank))
    assert len(first) == 2 * STACKS_A_SCENE and sorted(tmp_path.glob("*.npz")) == sorted(first)
    for path in first:
        stack = load_stack(path)
        assert len(stack.optics.focus_dpt) == int(path.stem.rsplit("_", 1)[1]) == len(stack.light)
        assert stack.inverse_depth.shape == (24, 24)
    times = [p.stat().st_mtime_ns for p in first]
    assert list(fill_pool(tmp_path, 5, 2, 24, bank)) == first
    assert [p.stat().st_mtime_ns for p in first] == times


def test_simulated_batches_are_a_function_of_seed_and_number() -> None:
    bank = torch.rand((3, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    whole = list(itertools.islice(iter(SimulatedDataset(bank, 8, 24, seed=3)), 2))
    resumed = next(iter(SimulatedDataset(bank, 8, 24, seed=3, start=1)))
    assert same(whole[1], resumed) and not same(whole[0], resumed)
    assert whole[0].images.shape[2:] == (3, 24, 24)


def test_slices_range_from_3_to_15() -> None:
    rng = np.random.default_rng(0)
    drawn = [random_slices(rng) for _ in range(2000)]
    assert set(drawn) == set(range(3, 16))
