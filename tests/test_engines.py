"""Engines: equal numbers on equal scores whatever computes them, in whatever tiles, threads and precision."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_oracles import (
    CURVES,
    CUTOFFS,
    INNER,
    INSTALLED,
    PRECISIONS,
    TIES,
    assert_same,
    both_labels,
    every_engine,
    every_precision,
    every_similarity,
    exact_rows,
    labels_of,
    pairs,
    score_matrix,
    tied_pairs,
    under,
)

from xmbench.errors import InvalidParameter, MissingDependency
from xmbench.evaluation import TASKS, engines, evaluate, ranks, retrieve
from xmbench.evaluation.engines import CpuEngine, TorchEngine, choose_engine
from xmbench.evaluation.similarity import Comparison
from xmbench.protocol import DEFAULT

MEBIBYTE = 2**20


def assert_identical(found, expected):
    """Every number of two TaskScores is equal, bit for bit."""
    for field in dataclasses.fields(expected):
        np.testing.assert_equal(getattr(found, field.name), getattr(expected, field.name), field.name)


# ---- engines agree


def test_engines_and_precisions_agree_on_the_same_scores():
    generator = np.random.default_rng(0)
    relevant = generator.random((60, 90)) < 0.2
    for scores in (
        generator.permuted(np.tile(np.arange(90), (60, 1)), axis=1),
        generator.integers(-3, 4, size=(60, 90)),
        generator.integers(-3, 4, size=(60, 90)) * 2.0 ** generator.integers(-30, 30, size=(60, 1)),
    ):
        protocols = [replace(INNER, cutoff=cutoff, denominator=rule) for cutoff, rule in CUTOFFS]
        for protocol in [*protocols, *(replace(INNER, ties=ties) for ties in TIES)]:
            expected = score_matrix(scores, relevant, protocol, engine="numpy", precision="float64")
            for engine in INSTALLED:
                for precision in PRECISIONS:
                    found = score_matrix(scores, relevant, protocol, engine=engine, precision=precision)
                    assert_same(found, expected)


@every_similarity
@both_labels
def test_engines_and_precisions_agree_on_exact_embeddings(similarity, multi):
    images, texts = exact_rows(50, similarity, 1), exact_rows(50, similarity, 2)
    labels = labels_of(50, multi, 3)
    for ties in TIES:
        protocol = under(similarity, ties=ties)
        expected = evaluate(images, texts, labels, protocol, engine="numpy", precision="float64")
        for engine in INSTALLED:
            for precision in PRECISIONS:
                found = evaluate(images, texts, labels, protocol, engine=engine, precision=precision)
                for task in TASKS:
                    assert_same(found.tasks[task], expected.tasks[task])


@every_similarity
def test_engines_agree_on_embeddings(similarity):
    images, texts, labels = pairs(n=120, d=32, classes=6)
    expected = evaluate(images, texts, labels, under(similarity), engine="numpy")
    for engine in INSTALLED:
        found = evaluate(images, texts, labels, under(similarity), engine=engine)
        for task in TASKS:
            assert_same(found.tasks[task], expected.tasks[task])


@every_engine
@every_similarity
def test_float32_is_near_float64(engine, similarity):
    images, texts, labels = pairs(n=120, d=32, classes=6)
    expected = evaluate(images, texts, labels, under(similarity), engine=engine, precision="float64")
    found = evaluate(images, texts, labels, under(similarity), engine=engine, precision="float32")
    for task in TASKS:
        assert_same(found.tasks[task], expected.tasks[task], tolerance=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@every_similarity
@every_precision
@both_labels
def test_a_gpu_agrees_with_the_cpu(similarity, precision, multi):
    images, texts, labels = pairs(n=700, d=64, classes=10, multi=multi)
    images, texts = images.astype(precision), texts.astype(precision)
    expected = evaluate(images, texts, labels, under(similarity), engine="numpy")
    found = evaluate(images, texts, labels, under(similarity), device="cuda")
    assert found.engine == f"torch {precision}"
    for task in TASKS:
        tolerance = 1e-9 if precision == "float64" else 1e-4
        assert_same(found.tasks[task], expected.tasks[task], tolerance)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@every_similarity
@every_precision
@pytest.mark.parametrize("ties", TIES)
def test_a_gpu_agrees_with_the_cpu_on_the_same_scores(similarity, precision, ties):
    images, texts = exact_rows(300, similarity, 4), exact_rows(300, similarity, 5)
    labels, protocol = labels_of(300, False, 6), under(similarity, ties=ties)
    expected = evaluate(images, texts, labels, protocol, engine="numpy", precision=precision)
    found = evaluate(images, texts, labels, protocol, device="cuda", precision=precision)
    for task in TASKS:
        assert_same(found.tasks[task], expected.tasks[task])


# ---- tiles and threads


@every_engine
@every_similarity
@both_labels
def test_tiles_change_nothing(engine, similarity, multi):
    images, texts, labels = pairs(n=41, multi=multi)
    whole = evaluate(images, texts, labels, under(similarity), engine=engine)
    for working_bytes in (1, 2, 5000, 20000):
        tiled = evaluate(images, texts, labels, under(similarity), engine=engine, working_bytes=working_bytes)
        for task in TASKS:
            np.testing.assert_array_equal(
                tiled.tasks[task].average_precision, whole.tasks[task].average_precision
            )
            assert_same(tiled.tasks[task], whole.tasks[task])


@pytest.mark.parametrize("engine", [name for name in INSTALLED if name != "torch"])
@every_similarity
@pytest.mark.parametrize("ties", ["expected", "index"])
def test_threads_change_no_bit(engine, similarity, ties, monkeypatch):
    images, texts, labels = pairs(n=200, d=9)
    monkeypatch.setattr(engines, "SMALL", 1)
    monkeypatch.setattr(engines, "TILE_BYTES", 30_000)
    monkeypatch.setattr(ranks, "BLOCK_BYTES", 10_000)
    protocol = under(similarity, ties=ties)
    one = evaluate(images, texts, labels, protocol, engine=engine, threads=1)
    for threads in (2, 3, None):
        found = evaluate(images, texts, labels, protocol, engine=engine, threads=threads)
        for task in TASKS:
            assert_identical(found.tasks[task], one.tasks[task])


@pytest.mark.parametrize("engine", [name for name in INSTALLED if name != "torch"])
def test_threads_change_no_bit_at_full_size(engine):
    generator = np.random.default_rng(2)
    queries, gallery = generator.normal(size=(900, 8)), generator.normal(size=(5000, 8))
    left, right = generator.integers(5, size=900), generator.integers(5, size=5000)
    assert len(queries) * len(gallery) > engines.SMALL
    found = [retrieve(queries, gallery, left, right, engine=engine, threads=n) for n in (1, 2, 3)]
    assert_identical(found[1], found[0])
    assert_identical(found[2], found[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_hold_for_the_blas_too(threads, monkeypatch):
    from threadpoolctl import threadpool_info, threadpool_limits

    def blas():
        own = [p for p in threadpool_info() if p["user_api"] == "blas" and "numpy" in p["filepath"]]
        return max([pool["num_threads"] for pool in own], default=0)

    seen, products = set(), Comparison.products

    def watched(self, queries, out):
        seen.add(blas())
        products(self, queries, out)

    monkeypatch.setattr(Comparison, "products", watched)
    monkeypatch.setattr(engines, "SMALL", 1)
    images, texts, labels = pairs(n=60)
    with threadpool_limits(3, user_api="blas"):
        if blas() != 3:
            pytest.skip("this BLAS cannot be given three threads")
        evaluate(images, texts, labels, engine="numpy", threads=threads)
        assert blas() == 3
    assert max(seen) <= threads


def test_an_error_in_a_thread_comes_out(monkeypatch):
    images, texts, labels = pairs(n=60)
    monkeypatch.setattr(engines, "SMALL", 1)
    monkeypatch.setattr(engines, "TILE_BYTES", 1000)
    monkeypatch.setattr(ranks, "BLOCK_BYTES", 1000)

    def broken(*arguments):
        raise MemoryError("no more")

    monkeypatch.setattr(engines, "numpy_groups", broken)
    with pytest.raises(MemoryError, match="no more"):
        evaluate(images, texts, labels, engine="numpy", threads=3)


def test_without_curves_average_precision_is_the_same():
    images, texts, labels = pairs()
    for engine in INSTALLED:
        whole = evaluate(images, texts, labels, engine=engine)
        short = evaluate(images, texts, labels, engine=engine, curves=False)
        for task in TASKS:
            found, expected = short.tasks[task], whole.tasks[task]
            np.testing.assert_array_equal(found.average_precision, expected.average_precision)
            assert (found.chance, found.per_class) == (expected.chance, expected.per_class)
            assert all(len(getattr(found, name)) == 0 for name in CURVES)
            assert np.isnan([found.r_precision, found.mean_reciprocal_rank]).all()


# ---- choice


def choose(engine, device="cpu", threads=None, tile_bytes=MEBIBYTE, pairs=1):
    return choose_engine(engine, device, threads, tile_bytes, pairs)


def test_unknown_engines_and_devices_are_refused():
    with pytest.raises(InvalidParameter, match="unknown engine 'jax'; known: auto, numpy, numba, torch"):
        choose("jax")
    with pytest.raises(InvalidParameter, match="numpy engine computes on the cpu, not on 'cuda'"):
        choose("numpy", "cuda")
    for engine in ("auto", "torch"):
        for device in ("banana", "", "cuda:4095", "meta", None):
            with pytest.raises(
                InvalidParameter, match=rf"device '?{device}'? cannot be used: .*--device cpu"
            ):
                choose(engine, device)


@pytest.mark.parametrize(
    ("resource", "words"),
    [
        ({"engine": "jax"}, "unknown engine 'jax'"),
        ({"precision": "float16"}, "unknown precision 'float16'; known: auto, float32, float64"),
        ({"precision": None}, "unknown precision None"),
        ({"threads": 0}, "threads must be .*at least 1, got 0"),
        ({"threads": -2}, "threads must be .*at least 1, got -2"),
        ({"threads": 2.5}, "threads must be .*at least 1, got 2.5"),
        ({"threads": "2"}, "threads must be .*at least 1, got '2'"),
        ({"working_bytes": 0}, "working_bytes must be .*at least 1, got 0"),
        ({"working_bytes": -5}, "working_bytes must be .*at least 1, got -5"),
        ({"working_bytes": None}, "working_bytes must be .*at least 1, got None"),
    ],
)
def test_bad_resources_are_refused_by_name(resource, words):
    images, texts, labels = pairs()
    with pytest.raises(InvalidParameter, match=words):
        evaluate(images, texts, labels, **resource)
    with pytest.raises(InvalidParameter, match=words):
        retrieve(images, texts, labels, labels, **resource)


def test_whole_numbers_of_numpy_are_numbers():
    images, texts, labels = pairs()
    found = evaluate(images, texts, labels, threads=np.int64(2), working_bytes=np.int32(10**6))
    assert found.main == evaluate(images, texts, labels).main


def test_auto_takes_the_compiled_kernels_for_many_pairs_and_where_they_are(monkeypatch):
    many = engines.COMPILED_FROM
    monkeypatch.setattr(engines, "find_spec", lambda name: object())
    assert [choose("auto", pairs=n).name for n in (many - 1, many)] == ["numpy", "numba"]
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert choose("auto", pairs=many).name == "numpy"
    assert isinstance(choose("torch"), TorchEngine)
    assert isinstance(choose("numpy"), CpuEngine)


def test_an_engine_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'xmbench\[fast\]'"):
        choose("numba")
    images, texts, labels = pairs()
    with pytest.raises(MissingDependency, match="numba"):
        evaluate(images, texts, labels, engine="numba")


def test_torch_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingDependency, match="pip install torch"):
        choose("torch")


def test_scores_say_what_computed_them():
    images, texts, labels = pairs()
    single = images.astype(np.float32), texts.astype(np.float32)
    for engine in INSTALLED:
        assert evaluate(images, texts, labels, engine=engine).engine == f"{engine} float64"
        assert evaluate(*single, labels, engine=engine).engine == f"{engine} float32"
        assert evaluate(*single, labels, engine=engine, precision="float64").engine == f"{engine} float64"
        assert (
            evaluate(images, texts, labels, engine=engine, precision="float32").engine == f"{engine} float32"
        )
    assert evaluate(images, texts, labels).engine == "numpy float64"
    assert evaluate(images, texts, labels).protocol is DEFAULT


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("float16", "float16", "float32"),
        ("float32", "float32", "float32"),
        ("float32", "float64", "float64"),
        ("float64", "float16", "float64"),
        ("int8", "float32", "float32"),
        ("int32", "float32", "float64"),
        ("int8", "int8", "float64"),
        ("bool", "bool", "float64"),
        ("longdouble", "float32", "float64"),
    ],
)
def test_auto_precision_is_that_of_the_embeddings(left, right, expected):
    images, texts, labels = tied_pairs()
    found = evaluate(images.astype(left), texts.astype(right), labels)
    assert found.engine == f"numpy {expected}"


# ---- torch


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_torch_is_left_as_it_was_found(precision):
    images, texts, labels = pairs()
    plain = evaluate(images, texts, labels, engine="torch", precision="float32")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = evaluate(images, texts, labels, engine="torch", precision="float32")
            assert torch.is_autocast_enabled("cpu")
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        assert not torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == precision
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    finally:
        torch.set_float32_matmul_precision(before)
    for task in TASKS:
        assert_identical(found.tasks[task], plain.tasks[task])


def test_torch_is_left_as_it_was_found_after_an_error(monkeypatch):
    images, texts, labels = pairs()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")

    def broken(*arguments):
        assert torch.get_float32_matmul_precision() == "highest"
        raise MemoryError("no more")

    monkeypatch.setattr(engines, "tie_groups", broken)
    try:
        with pytest.raises(MemoryError, match="no more"):
            evaluate(images, texts, labels, engine="torch")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_mps_has_no_float64_and_says_so(monkeypatch):
    images, texts, labels = pairs()
    created = TorchEngine("cpu", MEBIBYTE)
    created.device = torch.device("mps")
    monkeypatch.setattr(engines, "TorchEngine", lambda device, tile_bytes: created)
    with pytest.raises(InvalidParameter, match=r"'mps' has no float64.*--precision float32.*--device cpu"):
        evaluate(images, texts, labels, engine="torch", device="mps")


# ---- numba as it may be found


@pytest.mark.skipif("numba" not in INSTALLED, reason="numba is not installed (extra fast)")
def test_a_numba_that_cannot_be_imported_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "xmbench.evaluation.compiled", None)
    with pytest.raises(MissingDependency, match="--engine numpy"):
        choose_engine("numba", "cpu", 1, MEBIBYTE, 1)


@pytest.mark.skipif("numba" not in INSTALLED, reason="numba is not installed (extra fast)")
def test_kernels_are_compiled_where_no_cache_can_be_written():
    code = (
        "import numba, numpy as np\n"
        "real = numba.njit\n"
        "def njit(*functions, **options):\n"
        "    if options.get('cache'):\n"
        "        def refuse(function): raise RuntimeError('cannot cache function: no locator available')\n"
        "        return refuse\n"
        "    return real(*functions, **options)\n"
        "numba.njit = njit\n"
        "from xmbench.evaluation import retrieve\n"
        "rows, labels = np.eye(6), np.arange(6) % 2\n"
        "print(retrieve(rows, rows, labels, labels, engine='numba').mean_average_precision)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows, labels = np.eye(6), np.arange(6) % 2
    assert float(finished.stdout) == retrieve(rows, rows, labels, labels).mean_average_precision


def test_evaluations_that_overlap_leave_the_threads_of_the_blas_as_they_were():
    from threadpoolctl import threadpool_info

    def threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    images, texts, labels = pairs(n=600, d=8)
    evaluate(images, texts, labels, threads=1)
    before = threads()
    workers = [
        threading.Thread(target=evaluate, args=(images, texts, labels), kwargs={"threads": 1 + i % 2})
        for i in range(6)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert threads() == before
