# SPDX-License-Identifier: Apache-2.0
"""The tests of learning need torch, which is not part of the ordinary virtual environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

try:
    import torch
except ImportError:
    torch = None

NO_TORCH = "needs torch: get it with `make setup LEARNING=1`"


class _WithoutTorch(pytest.Module):
    """A test module that says why it cannot run; a conftest itself cannot be skipped in every way of calling."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip(NO_TORCH, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip the modules of this folder where torch is missing, before they import it."""
    if torch is not None:
        return None
    return _WithoutTorch.from_parent(parent, path=module_path)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch on one thread, from the same random state in every test."""
    assert torch is not None
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
