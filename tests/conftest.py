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


@pytest.fixture
def keep_run():
    """Writes a finished run of given embeddings, as if a method had made them, and returns its record."""
    import numpy as np

    from xmbench.evaluation import evaluate, evaluator_digest
    from xmbench.protocol import DEFAULT
    from xmbench.record import Cost, DatasetRow, MethodRow, Results, score_arrays, task_rows
    from xmbench.run import Embeddings, RunSpec, write_embeddings

    def keep(
        folder, images, texts, labels, *, ids=None, class_names=None, protocol=DEFAULT, label="made", **row
    ):
        n_classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
        class_names = class_names or tuple(f"class {number}" for number in range(n_classes))
        method = MethodRow(
            name="made",
            label=label,
            title="Made",
            params={},
            source="0",
            supervised=False,
            transductive=False,
            control=False,
            trained=False,
            departures=[],
        )
        data = {
            "name": "nowhere",
            "title": "Nowhere",
            "features": "a+b",
            "scaling": "none+none",
            "provenance": {},
            "split": "some",
            "split_seed": 0,
            "sizes": {"test": len(labels)},
            "n_classes": len(class_names),
            "fingerprint": "0" * 16,
        }
        spec = RunSpec(
            None,
            method,
            DatasetRow(**{**data, **row}),
            class_names,
            protocol,
            0,
            "0",
            evaluator_digest()[:16],
        )
        scores = evaluate(images, texts, labels, protocol)
        cost = Cost(0.0, 0.0, None, 0, "cpu", 1, {})
        record = spec.record(
            status="ok", metrics=task_rows(scores, class_names), cost=cost, engine=scores.engine
        )
        results = Results(folder)
        results.put(record, score_arrays(scores))
        ids = ids or tuple(map("item {:03}".format, np.arange(len(labels))))
        kept = Embeddings(images, texts, labels, ids, class_names, cost)
        write_embeddings(results.embeddings_path(record.fit_id), kept)
        return record

    return keep


@pytest.fixture(scope="session")
def wikipedia_pairs(data_dir):
    """Every third training pair of Wikipedia, 725 of them: SIFT and LDA features, z-scored."""
    from scipy.io import loadmat

    from xmbench.data import Pairs
    from xmbench.scaling import Scaling

    folder = data_dir / "wikipedia" / "wikipedia_dataset"
    stored = loadmat(folder / "raw_features.mat")
    lines = (folder / "trainset_txt_img_cat.list").read_text(encoding="utf-8").splitlines()[::3]
    images, texts = (Scaling("zscore").fit_transform(stored[name][::3]) for name in ("I_tr", "T_tr"))
    labels = [int(line.split("\t")[2]) - 1 for line in lines]
    return Pairs(images, texts, labels, tuple(line.split("\t")[0] for line in lines), 10)
