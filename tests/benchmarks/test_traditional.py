"""Closed-form methods against their peers and against the floor: the products that any exact solver has to form.

Run ``tox -e bench``. A fit of ours and one of a contender are measured in turns, in CPU time on one thread; memory
is the growth of the resident set of a process of its own. The lines at the end print ratios and the figures that
the project wants to reach; nothing is asserted of times, only that contenders agree on held-out rows.

Cases: Wikipedia's features, and synthetic views of a shared and a private part of low rank, and noise. The ridge
is 0.01 of the mean scatter, kappa 10 mean eigenvalues.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy.io import loadmat
from threadpoolctl import threadpool_limits

from xmbench import FitContext, Pairs
from xmbench.registry import Registry
from xmbench.scaling import Scaling
from xmbench.tuning import BUDGET, candidates, tune

SMALL, FEW, MANY, MOST = "Wikipedia", "800 x 4096/1000", "8,000 x 4096/1000", "32,000 x 4096/300"
MEDIUM = "2,000 x 512/300"
SIZES = {FEW: (800, 4096, 1000), MEDIUM: (2000, 512, 300), MANY: (8000, 4096, 1000), MOST: (32000, 4096, 300)}
ROUNDS = {SMALL: 5, FEW: 3, MANY: 3, MOST: 1}
HELD_OUT = 500
RIDGE, KAPPA = 0.01, 10.0
PEERS = pytest.mark.skipif(find_spec("cca_zoo") is None, reason="needs the extra peers")

Cca, Cfa, Kcca = (Registry().method(name) for name in ("cca", "cfa", "kcca"))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


def make(n: int, *widths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    n += HELD_OUT
    shared = rng.standard_normal((n, 20), dtype=np.float32)
    views = []
    for d in widths:
        rows = rng.standard_normal((n, d), dtype=np.float32)
        rows += shared @ rng.standard_normal((20, d), dtype=np.float32)
        rows += rng.standard_normal((n, 60), dtype=np.float32) @ rng.standard_normal(
            (60, d), dtype=np.float32
        )
        views.append(rows)
    return views


@pytest.fixture(scope="module")
def cases(request):
    made = {}

    def case(name):
        """Training pairs, and held-out rows of both views."""
        if name not in made:
            made.clear()  # one at a time
            if name == SMALL:
                folder = request.getfixturevalue("data_dir") / "wikipedia" / "wikipedia_dataset"
                stored = loadmat(folder / "raw_features.mat")
                scalings = [Scaling("zscore"), Scaling("zscore")]
                views = [
                    np.vstack(
                        [scaling.fit_transform(stored[f"{v}_tr"]), scaling.transform(stored[f"{v}_te"])]
                    )
                    for v, scaling in zip("IT", scalings, strict=True)
                ]
                n, classes = len(stored["I_tr"]), 9
            else:
                views, n, classes = make(*SIZES[name]), SIZES[name][0], 10
            made[name] = (
                Pairs(
                    images=views[0][:n],
                    texts=views[1][:n],
                    labels=np.arange(n) % classes,
                    ids=tuple(map(str, range(n))),
                    n_classes=classes,
                ),
                [view[n:] for view in views],
            )
        return made[name]

    return case


def held_out(encoded) -> float:
    """Sum of the correlations of held-out rows, dimension by dimension."""
    F, G = (np.asarray(rows, dtype=np.float64) for rows in encoded)
    return sum(np.corrcoef(F[:, j], G[:, j])[0, 1] for j in range(F.shape[1]))


def in_turns(benchmark, name, ours, theirs, rounds):
    """Median CPU seconds of both and of the ratio ours / theirs, measured in alternation."""
    times: list[float] = []

    def setup():
        start = time.process_time()
        theirs()
        times.append(time.process_time() - start)

    benchmark.group = name
    benchmark._timer = time.process_time
    benchmark.pedantic(ours, setup=setup, rounds=rounds, iterations=1)
    own = benchmark.stats.stats.data
    ratios = [our / their for our, their in zip(own, times, strict=True)]
    return statistics.median(own), statistics.median(times), statistics.median(ratios)


def at_most(value, bar):
    return "" if bar is None else f"  (wanted: at most {bar:g}; {'reached' if value <= bar else 'MISSED'})"


def report(benchmark, case, method, peer, ours, theirs, bar):
    own, other, ratio = in_turns(benchmark, case, ours, theirs, ROUNDS[case])
    benchmark.extra_info["line"] = (
        f"{method:<16}{own:8.3f} CPU s; {peer} {other:.3f}, ratio {ratio:.3f}" + at_most(ratio, bar)
    )


# -- contenders -------------------------------------------------------------------------------------


def ridge_cca(pairs, k):
    from cca_zoo.linear import RidgeCCA

    shrinkage = []  # (1 - c) S + c I with S over n - 1, so r = c / (1 - c) (n - 1)
    for rows in (pairs.images, pairs.texts):
        r = RIDGE * float(rows.var(axis=0, dtype=np.float64).mean()) * len(rows)
        shrinkage.append(r / (r + len(rows) - 1))
    views = [pairs.images.astype(np.float64), pairs.texts.astype(np.float64)]
    return RidgeCCA(n_components=k, shrinkage=shrinkage).fit(views)


def nipals_cca(pairs, k):
    from sklearn.cross_decomposition import CCA

    return CCA(n_components=k, scale=False).fit(pairs.images.astype(float), pairs.texts.astype(float))


def pls_svd(pairs, k):
    from sklearn.cross_decomposition import PLSSVD

    return PLSSVD(n_components=k, scale=False).fit(pairs.images.astype(float), pairs.texts.astype(float))


def zoo_kcca(pairs, k):
    from cca_zoo.nonparametric import KCCA

    gammas = [0.5 / sigma**2 for sigma in Kcca(n_components=k).fit(pairs).bandwidths_]
    views = [pairs.images.astype(np.float64), pairs.texts.astype(np.float64)]
    return KCCA(n_components=k, kernel="rbf", gamma=gammas, shrinkage=KAPPA / (1 + KAPPA)).fit(views)


# -- CCA --------------------------------------------------------------------------------------------


@PEERS
@pytest.mark.parametrize(("case", "bar"), [(SMALL, 0.5), (FEW, 0.5), (MANY, 0.3), (MOST, 0.3)])
@pytest.mark.filterwarnings("ignore")
def test_cca_against_cca_zoo(benchmark, cases, case, bar):
    pairs, rest = cases(case)
    k = pairs.n_classes
    ours, theirs = Cca(ridge=RIDGE).fit(pairs), ridge_cca(pairs, k)
    found = held_out((ours.encode_image(rest[0]), ours.encode_text(rest[1])))
    other = held_out(theirs.transform([rows.astype(np.float64) for rows in rest]))
    assert found == pytest.approx(other, rel=1e-3)
    report(
        benchmark,
        case,
        "cca",
        "RidgeCCA",
        lambda: Cca(ridge=RIDGE).fit(pairs),
        lambda: ridge_cca(pairs, k),
        bar,
    )


@PEERS
@pytest.mark.filterwarnings("ignore")
def test_cca_without_a_ridge_against_cca_zoo(benchmark, cases):
    pairs, _ = cases(SMALL)
    report(
        benchmark,
        SMALL,
        "cca, no ridge",
        "RidgeCCA",
        lambda: Cca(ridge=0.0).fit(pairs),
        lambda: ridge_cca(pairs, 9),
        0.5,
    )


@pytest.mark.parametrize("case", [SMALL, FEW])
@pytest.mark.filterwarnings("ignore")
def test_cca_against_scikit_learn(benchmark, cases, case):
    pairs, _ = cases(case)
    k = pairs.n_classes
    report(
        benchmark, case, "cca", "CCA", lambda: Cca(ridge=RIDGE).fit(pairs), lambda: nipals_cca(pairs, k), 0.05
    )


@pytest.mark.parametrize("case", [MANY, MOST])
def test_cca_against_the_floor(benchmark, cases, case):
    """Multiplications that any exact solver over sums of products pays, at the rate of dgemm."""
    pairs, _ = cases(case)
    n, dx, dt = len(pairs), pairs.images.shape[1], pairs.texts.shape[1]
    flops = n * (dx**2 + dt**2 + 2 * dx * dt) + dx**3 / 3 + dx**2 * dt
    square = np.random.default_rng(0).standard_normal((3000, 3000))
    own, product, _ = in_turns(
        benchmark, case, lambda: Cca(ridge=RIDGE).fit(pairs), lambda: square @ square, ROUNDS[case]
    )
    share = flops / (2 * 3000**3 / product) / own
    word = "reached" if share >= 0.6 else "MISSED"
    benchmark.extra_info["line"] = f"{'cca':<16}{share:.0%} of the dgemm floor  (wanted: 60%; {word})"


# -- CFA --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "bar"), [(MANY, 0.6), (MOST, 0.35)])
def test_cfa_against_scikit_learn(benchmark, cases, case, bar):
    pairs, rest = cases(case)
    k = pairs.n_classes
    ours, theirs = Cfa().fit(pairs), pls_svd(pairs, k)
    found = held_out((ours.encode_image(rest[0]), ours.encode_text(rest[1])))
    assert found == pytest.approx(held_out(theirs.transform(*rest)), rel=1e-4)
    report(benchmark, case, "cfa", "PLSSVD", lambda: Cfa().fit(pairs), lambda: pls_svd(pairs, k), bar)


# -- KCCA -------------------------------------------------------------------------------------------


@PEERS
@pytest.mark.filterwarnings("ignore")
def test_kcca_against_cca_zoo(benchmark, cases):
    pairs, _ = cases(SMALL)
    own, other, ratio = in_turns(
        benchmark, SMALL, lambda: Kcca(kappa=KAPPA).fit(pairs), lambda: zoo_kcca(pairs, 9), 1
    )
    line = f"{'kcca, exact':<16}{own:8.3f} CPU s; KCCA {other:.3f}, ratio {ratio:.3f}"
    benchmark.extra_info["line"] = line + at_most(ratio, 0.05)


def test_kcca_against_two_eigendecompositions(benchmark, cases, monkeypatch):
    pairs, _ = cases(SMALL)
    module = sys.modules[Kcca.__module__]

    def by_eigenvectors():
        with monkeypatch.context() as patch:
            patch.setattr(module, "LARGEST_EIGH", len(pairs))
            return Kcca(kappa=KAPPA).fit(pairs)

    one, two = Kcca(kappa=KAPPA).fit(pairs), by_eigenvectors()
    assert (one.route_, two.route_) == ("krylov", "eigh")
    np.testing.assert_allclose(one.correlations_, two.correlations_, rtol=0, atol=1e-10)
    report(
        benchmark, SMALL, "kcca, exact", "eigh", lambda: Kcca(kappa=KAPPA).fit(pairs), by_eigenvectors, 0.3
    )


def test_nystrom_against_the_exact_route(benchmark, cases):
    pairs, rest = cases(MANY)
    sums = {}
    for approximation in ("nystrom", "exact"):
        method = Kcca(kappa=KAPPA, approximation=approximation).fit(pairs)
        sums[approximation] = held_out((method.encode_image(rest[0]), method.encode_text(rest[1])))
    own, exact, ratio = in_turns(
        benchmark,
        MANY,
        lambda: Kcca(kappa=KAPPA, approximation="nystrom").fit(pairs),
        lambda: Kcca(kappa=KAPPA, approximation="exact").fit(pairs),
        1,
    )
    loss = abs(sums["nystrom"] / sums["exact"] - 1)
    benchmark.extra_info["line"] = (
        f"{'kcca, nystrom':<16}{own:8.3f} CPU s; exact {exact:.3f}{at_most(exact, 25)}, ratio {ratio:.3f}"
        f"{at_most(ratio, 0.35)}, held-out sum off by {loss:.3%}{at_most(loss, 0.005)}"
    )


# -- tuning -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [SMALL, FEW, MEDIUM])
@pytest.mark.parametrize("cls", [Cca, Kcca], ids=["cca", "kcca"])
def test_tuning_against_one_fit(benchmark, cases, cls, case):
    """Twelve trials of the grid, without their scores, in fits with the defaults."""
    pairs, _ = cases(case)
    wanted = candidates(cls().get_params(), cls.grid, (), "random", BUDGET, 0)
    context = FitContext(validation_score=lambda method: 0.0)
    tuned, fit, ratio = in_turns(
        benchmark,
        case,
        lambda: tune(cls.resolve, wanted, pairs, pairs, context),
        lambda: cls().fit(pairs),
        3,
    )
    benchmark.extra_info["line"] = (
        f"{cls.__name__.lower() + ', tuned':<16}{tuned:8.3f} CPU s; one fit {fit:.3f}, ratio {ratio:.1f}"
        + at_most(ratio, 3)
    )


# -- memory -----------------------------------------------------------------------------------------

MEMORY = """
import sys, warnings
from pathlib import Path
import numpy as np
from threadpoolctl import threadpool_limits
sys.path.insert(0, str(Path(sys.argv[1]).parent))
import test_traditional as bench

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

def pairs(n, *widths):
    views = bench.make(n, *widths)
    ids = tuple(map(str, range(n)))
    return bench.Pairs(images=views[0][:n], texts=views[1][:n], labels=np.arange(n) % 10, ids=ids, n_classes=10)

fit = {
    "cca": lambda data: bench.Cca(ridge=bench.RIDGE).fit(data),
    "cfa": lambda data: bench.Cfa().fit(data),
    "kcca": lambda data: bench.Kcca(approximation="exact").fit(data),
    "RidgeCCA": lambda data: bench.ridge_cca(data, 10),
    "PLSSVD": lambda data: bench.pls_svd(data, 10),
}[sys.argv[2]]
warnings.simplefilter("ignore")
with threadpool_limits(1):
    fit(pairs(100, 20, 15))
    data = pairs(*bench.SIZES[sys.argv[3]])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS:")
    fit(data)
print(memory("VmHWM:") - before)
"""


def grown(method: str, case: str) -> float:
    """Megabytes that a fit adds to a process of its own."""
    command = [sys.executable, "-c", MEMORY, __file__, method, case]
    return float(subprocess.run(command, check=True, capture_output=True, env=os.environ).stdout)


@pytest.mark.parametrize(
    ("method", "peer", "case", "bar"),
    [
        ("cca", "RidgeCCA", MANY, 0.35),
        ("cca", "RidgeCCA", MOST, 0.10),
        ("cfa", "PLSSVD", MANY, 0.5),
        ("cfa", "PLSSVD", MOST, 0.15),
    ],
)
def test_memory(benchmark, method, peer, case, bar):
    if peer == "RidgeCCA":
        pytest.importorskip("cca_zoo", reason="needs the extra peers")
    benchmark.group = f"memory, {case}"
    own = benchmark.pedantic(lambda: grown(method, case), rounds=1)
    other = grown(peer, case)
    line = f"{method:<16}{own:8.0f} MB; {peer} {other:.0f}, ratio {own / other:.3f}"
    benchmark.extra_info["line"] = line + at_most(own / other, bar)


def test_memory_of_kcca(benchmark):
    benchmark.group = f"memory, {MANY}"
    own = benchmark.pedantic(lambda: grown("kcca", MANY), rounds=1)
    benchmark.extra_info["line"] = f"{'kcca, exact':<16}{own:8.0f} MB" + at_most(own, 1500)
