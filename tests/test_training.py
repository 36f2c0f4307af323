"""The one training loop: what it visits, averages, keeps, stops for, refuses and leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from xmbench import FitContext, MethodInfo, Pairs
from xmbench.errors import DeadlineExceeded, InvalidParameter, RunError, Unsupported
from xmbench.nn import Adam, Dense, label_loss
from xmbench.registry import Registry
from xmbench.testing import synthetic_data, synthetic_pairs
from xmbench.training import VALIDATION_MAP, Batch, Learner, Session, Trained

REGISTRY = Registry()
TRAINED = sorted(name for name in REGISTRY.methods if issubclass(REGISTRY.method(name), Trained))


class Watcher(Learner):
    """Learns nothing: notes what it is given, and has the number of the epoch as its state."""

    def __init__(
        self, terms: Callable[[int, Batch], dict[str, Any]], examined: list[dict[str, float]]
    ) -> None:
        self.learning_rate = 0.5
        self.terms, self.examined = terms, examined
        self.state = np.zeros(1, dtype=np.float32)
        self.epochs: list[list[np.ndarray]] = []
        self.begun: list[tuple[int, int]] = []
        self.batches: list[Batch] = []

    def begin_epoch(self, epoch, max_epochs):
        self.begun.append((epoch, max_epochs))
        self.epochs.append([])
        self.learning_rate /= 2

    def step(self, batch):
        self.epochs[-1].append(batch.rows.numpy().copy())
        self.batches.append(batch)
        self.state[:] = len(self.epochs)
        return self.terms(len(self.epochs), batch)

    def examine(self, batch):
        return self.examined[len(self.epochs) - 1] if self.examined else {}

    def learned(self):
        layers = [
            {"weights": np.ones((d, 1), np.float32), "bias": self.state, "activation": "linear"}
            for d in (12, 9)
        ]
        return {"state_": self.state, "image_layers_": layers[:1], "text_layers_": layers[1:]}


class Toy(Trained):
    """One watcher after the other, each a stage with the options given."""

    info = MethodInfo(title="Toy", paper="none: for tests", year=2000, supervised=False)

    def __init__(
        self,
        learning_rate: float = 0.1,
        batch_size: int | None = 4,
        max_epochs: int = 3,
        patience: int = 100,
        random_state: int = 0,
    ) -> None:
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.random_state = random_state
        self.stages: list[dict[str, Any]] = [{}]
        self.terms: Callable[[int, Batch], dict[str, Any]] = lambda epoch, batch: {}
        self.examined: list[dict[str, float]] = []
        self.watchers: list[Watcher] = []

    def _fit(self, train, validation, context):
        self._check_training()
        session = Session(self.random_state, context.device)
        for options in self.stages:
            self.watchers.append(Watcher(self.terms, self.examined))
            self._train(self.watchers[-1], train, validation, context, session, **options)

    @property
    def epochs(self) -> list[list[np.ndarray]]:
        return self.watchers[-1].epochs


def toy(*, stages=({},), terms=lambda epoch, batch: {}, examined=(), **parameters) -> Toy:
    method = Toy(**parameters)
    method.stages, method.terms, method.examined = list(stages), terms, list(examined)
    return method


def scripted(*values: float, calls: list[int] | None = None) -> FitContext:
    """A context whose validation score is the value with the number of the epoch that the method is in."""

    def score(method) -> float:
        epoch = int(method.encode_text(np.zeros((1, 9)))[0, 0])
        if calls is not None:
            calls.append(epoch)
        return values[epoch - 1]

    return FitContext(validation_score=score)


class OneWidth(Toy):
    """A toy that encodes whatever rows into its state."""

    def _encode_text(self, texts):
        return np.tile(self.state_, (len(texts), 1))


def kept_epoch(
    *values: float, validation: bool = True, options: dict[str, Any] | None = None, **rest
) -> OneWidth:
    pairs = synthetic_pairs(10)
    method = OneWidth(**{"max_epochs": len(values), **rest})
    method.stages = [options or {}]
    return method.fit(pairs, pairs if validation else None, context=scripted(*values))


class Network(Learner):
    """Two small classifiers with dropout."""

    def __init__(self, method: Trained, pairs: Pairs, session: Session) -> None:
        self.learning_rate = method.learning_rate
        rest = {"dropout": 0.2, "noise": session.noise}
        widths = pairs.images.shape[1], pairs.texts.shape[1]
        self.networks = [
            Dense((width, 6, pairs.n_classes), ("tanh", "linear"), session.start, session.device, **rest)
            for width in widths
        ]
        self.optimiser = Adam([one for net in self.networks for one in net.parameters], self.learning_rate)

    def step(self, batch):
        images, texts = (
            label_loss(net(rows), batch.targets)
            for net, rows in zip(self.networks, (batch.images, batch.texts), strict=True)
        )
        self.optimiser.step(images + texts)
        return {"image_loss": images.detach(), "text_loss": texts.detach()}

    def learned(self):
        return {"image_layers_": self.networks[0].arrays(), "text_layers_": self.networks[1].arrays()}


class Classifier(Trained):
    """The smallest method that learns."""

    info = MethodInfo(title="Classifier", paper="none: for tests", year=2000, supervised=True)
    spent: ClassVar[tuple[str, ...]] = ()
    branch: ClassVar[int] = 0

    __init__ = Toy.__init__

    def _fit(self, train, validation, context):
        self._check_training()
        session = Session(self.random_state, context.device, self.branch)
        for stream in self.spent:
            getattr(session, stream).normal(size=5) if stream == "negatives" else torch.rand(
                5, generator=getattr(session, stream)
            )
        self._train(Network(self, train, session), train, validation, context, session)


def encoded(method: Trained, pairs: Pairs) -> bytes:
    return method.encode_image(pairs.images).tobytes() + method.encode_text(pairs.texts).tobytes()


# -- order and batches ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 5, 20, 64, None])
def test_each_row_is_visited_once_an_epoch_in_batches_of_the_size_asked(batch_size):
    method = toy(batch_size=batch_size).fit(synthetic_pairs(20))
    assert len(method.epochs) == 3
    for batches in method.epochs:
        assert_array_equal(np.sort(np.concatenate(batches)), np.arange(20))
        assert {len(rows) for rows in batches} == {min(batch_size or 20, 20)}


def test_batches_hold_the_rows_that_they_name():
    pairs = synthetic_pairs(20, multi_label=True)
    for batch in toy().fit(pairs).watchers[0].batches:
        rows = batch.rows.numpy()
        assert len(batch) == len(rows)
        assert_array_equal(batch.images, pairs.images[rows])
        assert_array_equal(batch.texts, pairs.texts[rows])
        assert_array_equal(batch.targets, pairs.one_hot()[rows])
        assert batch.targets.dtype == batch.images.dtype == torch.float32


def test_the_order_differs_between_epochs_and_between_seeds_and_not_between_runs():
    pairs = synthetic_pairs(20)
    orders = [
        [np.concatenate(batches).tolist() for batches in toy(random_state=seed).fit(pairs).epochs]
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders[0] + orders[2]}) == 6


@pytest.mark.parametrize(
    ("n", "batch_size", "smallest", "sizes"),
    [
        (21, 4, 2, [4] * 5),
        (22, 4, 2, [4] * 5 + [2]),
        (22, 4, 3, [4] * 5),
        (22, 4, 1, [4] * 5 + [2]),
        (21, 4, 1, [4] * 5 + [1]),
        (3, 8, 5, [3]),
        (11, 10, 2, [10]),
    ],
)
def test_a_last_batch_is_left_out_if_it_is_too_small_and_not_the_only_one(n, batch_size, smallest, sizes):
    method = toy(batch_size=batch_size, stages=[{"smallest_batch": smallest}]).fit(synthetic_pairs(n))
    assert [[len(rows) for rows in batches] for batches in method.epochs] == [sizes] * 3
    if sum(sizes) < n:
        visited = [np.concatenate(batches).tolist() for batches in method.epochs]
        assert len({frozenset(rows) for rows in visited}) > 1  # other rows are left out next time


def test_a_stage_may_have_a_size_and_a_number_of_epochs_of_its_own():
    method = toy(stages=[{"batch_size": 10, "max_epochs": 2}, {}]).fit(synthetic_pairs(20))
    assert [len(one.epochs) for one in method.watchers] == [2, 3]
    assert [{len(rows) for rows in one.epochs[0]} for one in method.watchers] == [{10}, {4}]
    assert method.watchers[0].begun == [(1, 2), (2, 2)]


# -- history ----------------------------------------------------------------------------------------


def test_the_history_has_means_weighted_by_rows():
    def terms(epoch, batch):
        return {
            "tensor": batch.images[:, 0].mean(),
            "number": float(batch.texts[:, 0].mean()),
            "epochs": epoch,
        }

    pairs = synthetic_pairs(22)
    method = toy(terms=terms, batch_size=5).fit(pairs)
    for epoch, line in enumerate(method.history_, start=1):
        assert line["tensor"] == pytest.approx(float(pairs.images[:, 0].mean()), abs=1e-6)
        assert line["number"] == pytest.approx(float(pairs.texts[:, 0].mean()), abs=1e-6)
        assert line["epochs"] == line["epoch"] == epoch
        assert line["learning_rate"] == 0.5 / 2**epoch  # as the learner has set it for the epoch
        assert line["seconds"] >= 0
        assert all(isinstance(value, int | float) for value in line.values())
        assert "stage" not in line and VALIDATION_MAP not in line


def test_what_the_validation_pairs_show_is_in_the_history():
    pairs = synthetic_pairs(10)
    method = toy(examined=[{"loss": np.float32(1 / n)} for n in (1, 2, 3)]).fit(pairs, pairs)
    assert [line["loss"] for line in method.history_] == pytest.approx([1, 1 / 2, 1 / 3])
    assert all(type(line["loss"]) is float for line in method.history_)
    unseen = toy(examined=[{"loss": 1.0}] * 3).fit(pairs)
    assert not any("loss" in line for line in unseen.history_)


# -- the epoch that is kept -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "best"),
    [((0.1, 0.3, 0.2), 2), ((0.3, 0.3, 0.3), 1), ((0.1, 0.2, 0.3), 3), ((0.2, 0.1, 0.2), 1), ((0.0, 0.0), 1)],
)
def test_the_first_of_the_best_epochs_is_kept_as_it_was(values, best):
    method = kept_epoch(*values)
    assert method.best_epoch_ == best
    assert method.state_[0] == method.text_layers_[0]["bias"][0] == best
    assert [line["kept"] for line in method.history_] == [float(i + 1 == best) for i in range(len(values))]
    assert [line[VALIDATION_MAP] for line in method.history_] == list(values)


def test_what_is_kept_shares_no_memory_with_what_goes_on():
    for values, validation in (((0.3, 0.1), True), ((0.1, 0.3), True), ((0.1, 0.3), False)):
        method = kept_epoch(*values, validation=validation)
        method.watchers[0].state[:] = 99
        assert method.state_[0] == method.best_epoch_


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_training_ends_after_so_many_epochs_without_a_better_score(patience):
    method = kept_epoch(0.1, 0.4, 0.3, 0.4, 0.2, 0.5, 0.6, patience=patience)
    assert method.best_epoch_ == 2 and method.state_[0] == 2
    assert len(method.history_) == 2 + patience
    late = kept_epoch(0.1, 0.4, 0.3, 0.4, 0.2, 0.5, 0.6, patience=4)
    assert late.best_epoch_ == 7 and len(late.history_) == 7


def test_without_validation_pairs_or_score_the_last_epoch_is_kept():
    pairs = synthetic_pairs(10)
    for method in (
        kept_epoch(0.3, 0.2, 0.1, validation=False, patience=1),
        kept_epoch(0.3, 0.2, 0.1, options={"select_by": None}, patience=1),
        kept_epoch(0.3, 0.2, 0.1, options={"select_by": "no_such_column"}, patience=1),
        kept_epoch(0.3, 0.2, 0.1, options={"scored": False}, patience=1),
        toy(patience=1).fit(pairs, pairs),
    ):
        assert method.best_epoch_ == 3 and method.state_[0] == 3
        assert [line["kept"] for line in method.history_] == [0.0, 0.0, 1.0]


def test_the_validation_score_is_asked_once_an_epoch_and_never_without_pairs_or_for_an_unscored_stage():
    pairs = synthetic_pairs(10)
    for validation, options, expected in (
        (pairs, {}, [1, 2, 3]),
        (None, {}, []),
        (pairs, {"scored": False}, []),
    ):
        calls: list[int] = []
        method = OneWidth()
        method.stages = [options]
        method.fit(pairs, validation, context=scripted(0.1, 0.2, 0.3, calls=calls))
        assert calls == expected


@pytest.mark.parametrize(("lower", "best"), [(True, 3), (False, 2)])
def test_another_column_may_choose_in_either_sense(lower, best):
    pairs = synthetic_pairs(10)
    examined = [{"loss": value} for value in (2.0, 3.0, 0.5, 0.5)]
    stages = [{"select_by": "loss", "lower_is_better": lower}]
    method = toy(stages=stages, examined=examined, max_epochs=4).fit(pairs, pairs)
    assert method.best_epoch_ == best and method.state_[0] == best
    hasty = toy(stages=stages, examined=examined, max_epochs=4, patience=1).fit(pairs, pairs)
    assert len(hasty.history_) == (2 if lower else 3)


def test_a_term_of_the_training_pairs_may_choose_as_well():
    stages = [{"select_by": "loss", "lower_is_better": True}]
    method = toy(stages=stages, terms=lambda epoch, batch: {"loss": (epoch - 2.0) ** 2}).fit(
        synthetic_pairs(10)
    )
    assert method.best_epoch_ == 2


def test_stages_share_one_history_and_each_keeps_an_epoch():
    pairs = synthetic_pairs(10)
    method = OneWidth()
    method.stages = [
        {"stage": "first", "max_epochs": 4, "scored": False, "select_by": "loss", "lower_is_better": True},
        {"stage": "second"},
    ]
    method.terms = lambda epoch, batch: {"loss": abs(epoch - 3.0)}
    method.fit(pairs, pairs, context=scripted(0.3, 0.2, 0.1))
    lines = [(line["stage"], line["epoch"], line["kept"]) for line in method.history_]
    assert lines == [("first", n, float(n == 3)) for n in (1, 2, 3, 4)] + [
        ("second", n, float(n == 1)) for n in (1, 2, 3)
    ]
    assert [VALIDATION_MAP in line for line in method.history_] == [False] * 4 + [True] * 3
    assert method.best_epoch_ == 1


def test_a_second_fit_forgets_the_first():
    pairs = synthetic_pairs(10)
    method = toy().fit(pairs)
    assert len(method.fit(pairs).history_) == 3


# -- ends -------------------------------------------------------------------------------------------


def test_the_deadline_ends_a_fit_within_an_epoch(monkeypatch):
    context = FitContext(deadline=100.0)
    clock = iter([0.0, 1.0, 2.0, 100.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    method = toy()
    with pytest.raises(DeadlineExceeded):
        method.fit(synthetic_pairs(20), context=context)
    assert [len(rows) for rows in method.epochs[0]] == [4, 4, 4]
    assert not hasattr(method, "history_") and not hasattr(method, "state_")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), torch.tensor(float("nan"))])
def test_a_loss_that_is_not_finite_ends_the_run_naming_epoch_and_terms(value):
    def terms(epoch, batch):
        return {"good": 1.0, "bad": value if epoch == 2 else 0.0, "worse": value if epoch == 2 else 0.0}

    with pytest.raises(RunError, match=r"Toy diverged in epoch 2: bad, worse are not finite.*below 0\.125"):
        toy(terms=terms).fit(synthetic_pairs(10))


def test_the_message_names_the_stage_and_a_single_term():
    def terms(epoch, batch):
        return {"bad": float("nan")}

    with pytest.raises(RunError, match=r"Toy diverged in epoch 1 of stage early: bad is not finite"):
        toy(terms=terms, stages=[{"stage": "early"}]).fit(synthetic_pairs(10))


def test_one_bad_batch_of_many_is_noticed_and_so_are_the_validation_pairs():
    pairs = synthetic_pairs(22)
    with pytest.raises(RunError, match="epoch 1: loss"):
        toy(terms=lambda epoch, batch: {"loss": float("nan") if 7 in batch.rows else 1.0}).fit(pairs)
    with pytest.raises(RunError, match="epoch 2: held_loss"):
        toy(examined=[{"held_loss": 1.0}, {"held_loss": float("inf")}]).fit(pairs, pairs)


def test_validation_pairs_without_a_match_cannot_choose_an_epoch():
    with pytest.raises(Unsupported, match="no epoch can be chosen"):
        kept_epoch(0.1, float("nan"))


def test_progress_tells_epoch_scores_and_a_fraction_that_rises_to_one():
    told: list[tuple[str, float]] = []
    pairs = synthetic_pairs(10)
    context = replace(scripted(0.25, 0.5, 0.125), progress=lambda *news: told.append(news))
    method = OneWidth()
    method.stages = [{"stage": "fine"}]
    method.fit(pairs, pairs, context=context)
    assert [fraction for _, fraction in told] == pytest.approx([1 / 3, 2 / 3, 1])
    assert told[2][0] == "fine, epoch 3 of 3, validation_map 0.125 (best 0.500 in epoch 2)"
    told.clear()
    toy().fit(pairs, context=context)
    assert [words for words, _ in told] == [f"epoch {n} of 3" for n in (1, 2, 3)]


@pytest.mark.parametrize("lower", [False, True])
def test_progress_tells_negative_scores_with_their_sign(lower):
    told: list[str] = []
    stages = [{"select_by": "gain", "lower_is_better": lower}]
    method = toy(stages=stages, terms=lambda epoch, batch: {"gain": -0.5})
    method.fit(synthetic_pairs(10), context=FitContext(progress=lambda words, _: told.append(words)))
    assert told[0] == "epoch 1 of 3, gain -0.500 (best -0.500 in epoch 1)"


# -- torch's own settings ---------------------------------------------------------------------------


def test_kernels_that_only_warn_when_they_are_not_deterministic_do_so_again():
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        toy().fit(synthetic_pairs(10))
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("fails", [False, True])
def test_threads_and_deterministic_kernels_are_set_while_training_and_come_back(fails):
    seen = []

    def terms(epoch, batch):
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        if fails:
            raise RuntimeError("on purpose")
        return {}

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(3)
    torch.use_deterministic_algorithms(False)
    try:
        if fails:
            with pytest.raises(RuntimeError, match="on purpose"):
                toy(terms=terms).fit(synthetic_pairs(10), context=FitContext(threads=2))
        else:
            toy(terms=terms).fit(synthetic_pairs(10), context=FitContext(threads=2))
        assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (3, False)
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
    assert set(seen) == {(2, True)}


def test_global_random_generators_are_neither_used_nor_seeded():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    pairs = synthetic_pairs(20)
    first = encoded(Classifier().fit(pairs), pairs)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    torch.rand(3)
    np.random.rand(3)  # noqa: NPY002
    assert encoded(Classifier().fit(pairs), pairs) == first


# -- inputs -----------------------------------------------------------------------------------------


def test_read_only_and_mapped_rows_train_as_others_do_and_stay_as_they_are(tmp_path):
    pairs = synthetic_pairs(20)
    expected = encoded(Classifier().fit(pairs, pairs), pairs)
    locked, mapped = [], []
    for name in ("images", "texts"):
        rows = getattr(pairs, name).copy()
        rows.flags.writeable = False
        locked.append(rows)
        np.save(tmp_path / f"{name}.npy", rows)
        mapped.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    for images, texts in (locked, mapped):
        other = replace(pairs, images=images, texts=texts)
        assert not other.images.flags.writeable
        assert encoded(Classifier().fit(other, other), pairs) == expected
    for name in ("images", "texts"):
        assert_array_equal(np.load(tmp_path / f"{name}.npy"), getattr(pairs, name))


def test_training_leaves_its_pairs_as_they_were():
    pairs, same = synthetic_pairs(20, multi_label=True), synthetic_pairs(20, multi_label=True)
    Classifier().fit(pairs, pairs)
    for name in ("images", "texts", "labels"):
        assert_array_equal(getattr(pairs, name), getattr(same, name))


def test_a_batch_of_everything_shares_the_memory_of_the_pairs():
    pairs = synthetic_pairs(10)
    batch = Session(0).batch(pairs)
    assert np.shares_memory(batch.images.numpy(), pairs.images)
    assert_array_equal(batch.rows, np.arange(10))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_fewer_pairs_than_a_batch_are_one_batch(n):
    pairs = synthetic_pairs(n)
    method = Classifier(batch_size=64).fit(pairs)
    assert np.isfinite(method.encode_image(pairs.images)).all()
    assert encoded(method, pairs) == encoded(Classifier(batch_size=None).fit(pairs), pairs)


# -- random streams ---------------------------------------------------------------------------------


def test_equal_seeds_give_equal_bytes_and_others_do_not():
    data = synthetic_data(40, 10, 10)
    found = [
        encoded(Classifier(random_state=seed).fit(data.train, data.validation), data.test)
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]


def drawn(session: Session) -> dict[str, tuple[float, ...]]:
    return {
        "start": tuple(torch.rand(4, generator=session.start).tolist()),
        "noise": tuple(torch.rand(4, generator=session.noise).tolist()),
        "shuffle": tuple(session.shuffle.random(4).tolist()),
        "negatives": tuple(session.negatives.random(4).tolist()),
        "probe": tuple(torch.rand(4, generator=session.probe).tolist()),
    }


@pytest.mark.parametrize("used", ["start", "noise", "shuffle", "negatives", "probe"])
def test_what_one_stream_is_used_for_does_not_shift_the_others(used):
    expected, session = drawn(Session(5)), Session(5)
    stream = getattr(session, used)
    if isinstance(stream, torch.Generator):
        torch.rand(17, generator=stream)
    else:
        stream.random(17)
    found = drawn(session)
    assert {name for name in found if found[name] != expected[name]} == {used}


def test_streams_branches_and_seeds_all_differ():
    streams = [drawn(Session(seed, branch=branch)) for seed in (0, 1, 2) for branch in (0, 1, 2)]
    assert len({values for one in streams for values in one.values()}) == 9 * 5
    assert drawn(Session(1, branch=2)) == streams[5]


@pytest.mark.parametrize("spent", [("negatives",), ("probe",), ("negatives", "probe")])
def test_an_ablation_that_draws_more_trains_as_the_full_model(spent):
    class Spending(Classifier):
        pass

    Spending.spent = spent
    pairs = synthetic_pairs(20)
    assert encoded(Spending().fit(pairs), pairs) == encoded(Classifier().fit(pairs), pairs)


def test_another_branch_trains_otherwise():
    class Second(Classifier):
        branch = 1

    pairs = synthetic_pairs(20)
    assert encoded(Second().fit(pairs), pairs) != encoded(Classifier().fit(pairs), pairs)


# -- every method that is trained here --------------------------------------------------------------


def test_the_walk_finds_the_trained_methods():
    assert {"acmr", "ce_mlp", "corr_ae", "dcca", "deep_sm_mlp", "dscmr", "supcon"} <= set(TRAINED)


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        ("learning_rate", (0.0, -1.0, float("nan"))),
        ("max_epochs", (0, -1)),
        ("batch_size", (0, -4)),
        ("patience", (0,)),
        ("random_state", (-1,)),
    ],
)
@pytest.mark.parametrize("name", [*TRAINED, "toy"])
def test_parameters_that_are_off_are_refused_with_class_and_name(name, parameter, values):
    cls = Classifier if name == "toy" else REGISTRY.method(name)
    pairs = synthetic_pairs(20)
    for value in values:
        method = cls(**{parameter: value})
        with pytest.raises(InvalidParameter, match=rf"^{cls.__name__}\.{parameter}: expected .*got {value}"):
            method.fit(pairs, pairs)


@pytest.mark.parametrize("name", ["acmr", "dscmr", "supcon", "toy"])
def test_methods_that_compare_the_items_of_a_batch_refuse_batches_of_one(name):
    cls = Classifier if name == "toy" else REGISTRY.method(name)
    with pytest.raises(InvalidParameter, match=rf"^{cls.__name__}\.batch_size: expected at least 2, got 1"):
        cls(batch_size=1).fit(synthetic_pairs(20))


@pytest.mark.parametrize("name", TRAINED)
def test_trained_methods_say_so_and_have_the_parameters_of_the_loop(name):
    cls = REGISTRY.method(name)
    assert cls.info.trained and cls.info.requires == ("torch",)
    loop = {"learning_rate", "batch_size", "max_epochs", "patience", "random_state"}
    assert loop <= set(cls.defaults())


def test_the_number_of_parameters_counts_weights_and_biases():
    pairs = synthetic_pairs(20)
    method = Classifier().fit(pairs)
    assert method.n_parameters == (12 * 6 + 6 + 6 * 5 + 5) + (9 * 6 + 6 + 6 * 5 + 5)


ENCODE = """
import sys
import numpy as np
from xmbench.registry import Registry
method = Registry().method("ce_mlp").load("method.npz")
found = [method.encode_image(np.load("images.npy")), method.encode_text(np.load("texts.npy"))]
np.savez("found.npz", *found)
print(*sorted(name for name in sys.modules if "." not in name))
"""


def test_a_stored_method_encodes_without_torch(tmp_path):
    data = synthetic_data()
    method = REGISTRY.method("ce_mlp")(hidden=8, max_epochs=2).fit(data.train, data.validation)
    method.save(tmp_path / "method.npz")
    np.save(tmp_path / "images.npy", data.test.images)
    np.save(tmp_path / "texts.npy", data.test.texts)
    finished = subprocess.run(
        [sys.executable, "-c", ENCODE],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    assert "numpy" in finished.stdout.split() and "torch" not in finished.stdout.split()
    with np.load(tmp_path / "found.npz") as found:
        assert_array_equal(found["arr_0"], method.encode_image(data.test.images))
        assert_array_equal(found["arr_1"], method.encode_text(data.test.texts))


def test_a_stored_method_keeps_its_history(tmp_path):
    data = synthetic_data()
    method = Classifier().fit(data.train, data.validation)
    method.save(tmp_path / "method.npz")
    loaded = Classifier.load(tmp_path / "method.npz")
    assert loaded.history_ == method.history_ and loaded.best_epoch_ == method.best_epoch_
    assert encoded(loaded, data.test) == encoded(method, data.test)


def test_real_pairs_are_classified_better_with_each_epoch(wikipedia_pairs):
    method = Classifier(learning_rate=0.01, batch_size=64, max_epochs=4).fit(wikipedia_pairs)
    losses = [line["text_loss"] for line in method.history_]
    assert losses == sorted(losses, reverse=True) and losses[0] < np.log(10) + 0.5
    right = method.encode_text(wikipedia_pairs.texts).argmax(axis=1) == wikipedia_pairs.labels
    assert right.mean() > 0.3
    assert_allclose([line["kept"] for line in method.history_], [0, 0, 0, 1])


# -- scores by task ---------------------------------------------------------------------------------


def test_scores_by_task_stand_in_the_history_and_their_mean_chooses():
    scores = iter([(0.1, 0.3), (0.6, 0.4), (0.2, 0.2)])
    pairs = synthetic_pairs(10)
    context = FitContext(
        validation_score=lambda method: pytest.fail("the tasks are enough"),
        validation_tasks=lambda method: dict(zip(("image->text", "text->image"), next(scores), strict=True)),
    )
    method = toy().fit(pairs, pairs, context=context)
    assert method.best_epoch_ == 2
    line = method.history_[1]
    assert (line["validation_map_image_to_text"], line["validation_map_text_to_image"]) == (0.6, 0.4)
    assert line["validation_map"] == pytest.approx(0.5)
