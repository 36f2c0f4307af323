"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# One BLAS thread: on a busy machine more of them spin for many times the work. Set before numpy is imported.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The directory of the real datasets; tests that want it are skipped without it, but fail under CI."""
    value = os.environ.get("XMBENCH_DATA_DIR", "")
    if value and Path(value).is_dir():
        return Path(value)
    reason = f"XMBENCH_DATA_DIR is {value!r}, no directory of real datasets"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; continuous integration must not skip these tests")
    pytest.skip(reason)
