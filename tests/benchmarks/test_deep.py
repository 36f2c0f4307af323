"""Deep methods against the loops that tutorials write, against a peer, and against the floor: their products.

Run ``tox -e bench``. An epoch of ours and one of each contender are measured in turns, in CPU time on one thread,
after one of each that is not counted. The lines at the end print ratios and the figures that the project wants to
reach; nothing is asserted of times, only that contenders learn the same from the same start.

An epoch is the steps alone: no validation score and, with DCCA, no linear CCA of the outputs at its end. The
floor is the products that the steps cannot do without, forward and backward, at the rate of a large float32
product of the same run; the loop beside CM-GANs starts and draws otherwise, and is held to it loosely. Features
are synthetic, of a shared and a private part of low rank, and noise, and z-scored.
"""

from __future__ import annotations

import itertools
import resource
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from xmbench import FitContext, Pairs
from xmbench.nn import Adam
from xmbench.registry import Registry
from xmbench.training import Session, _epoch, _settings

FEW, MANY = "800 x 4096/1000", "8,000 x 4096/1000"
SIZES = {FEW: 800, MANY: 8000}
WIDTHS = (4096, 1000)
CLASSES = 10
ROUNDS = 3
SIDE = 3000
"""Rows of the square product that the rate is taken from."""

PEERS = pytest.mark.skipif(
    find_spec("cca_zoo") is None or find_spec("lightning") is None, reason="needs the extra peers"
)

Acmr, CmGans, Dcca = (Registry().method(name) for name in ("acmr", "cm_gans", "dcca"))
AcmrLearner = sys.modules[Acmr.__module__].AcmrLearner
CmGansLearner = sys.modules[CmGans.__module__].CmGansLearner
DccaLearner = sys.modules[Dcca.__module__].DccaLearner
canonical = sys.modules[Dcca.__module__].canonical


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cases():
    made = {}

    def case(name):
        if name not in made:
            made[name] = make(SIZES[name])
        return made[name]

    return case


def make(n: int) -> Pairs:
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((n, 20), dtype=np.float32)
    views = []
    for d in WIDTHS:
        rows = rng.standard_normal((n, d), dtype=np.float32)
        for part in (shared, rng.standard_normal((n, 60), dtype=np.float32)):
            rows += part @ rng.standard_normal((part.shape[1], d), dtype=np.float32)
        views.append((rows - rows.mean(axis=0)) / rows.std(axis=0))
    return Pairs(
        images=views[0],
        texts=views[1],
        labels=shared[:, :CLASSES].argmax(axis=1),
        ids=tuple(map(str, range(n))),
        n_classes=CLASSES,
    )


def seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turns(benchmark, group, ours, others, *, before=None, rounds=ROUNDS, timer=time.process_time):
    """Median seconds of ours and of each other, and of the ratios ours / other, measured in alternation.

    Args:
        ours: what is timed.
        others: each takes its turn and returns its seconds.
        before: what ours does first, not timed.
    """
    times: list[list[float]] = []

    def setup():
        times.append([other() for other in others])
        if before is not None:
            before()

    benchmark.group = group
    benchmark._timer = timer
    benchmark.pedantic(ours, setup=setup, rounds=rounds, iterations=1, warmup_rounds=1)
    own, theirs = benchmark.stats.stats.data, np.array(times[1:])
    ratios = np.median(np.array(own)[:, None] / theirs, axis=0)
    return statistics.median(own), np.median(theirs, axis=0), ratios


def at_most(value, bar):
    return "" if bar is None else f"  (wanted: at most {bar:g}; {'reached' if value <= bar else 'MISSED'})"


def of_the_floor(flops, ratio, bar):
    """Share of an epoch's time that its products take at the best rate; ``ratio`` is epoch / square product."""
    share = flops / (2 * SIDE**3) / ratio
    return f"; {share:.0%} of the sgemm floor  (wanted: {bar:.0%}; {'reached' if share >= bar else 'MISSED'})"


def square_product():
    square = torch.from_numpy(np.random.default_rng(0).standard_normal((SIDE, SIDE), dtype=np.float32))
    return lambda: seconds(lambda: square @ square)


def batches(n: int, size: int) -> list[int]:
    return [min(size, n - start) for start in range(0, n, size)]


def dense_flops(b: int, *widths: int, weights: bool = True, inputs: bool = False) -> int:
    """Multiplications and additions of a step through dense layers.

    Args:
        b: rows.
        widths: as of :class:`xmbench.nn.Dense`.
        weights: whether the weights get a gradient.
        inputs: whether the rows do.
    """
    sizes = [2 * b * d * k for d, k in itertools.pairwise(widths)]
    return (1 + weights) * sum(sizes) + sum(sizes if inputs else sizes[1:])


def module(dense) -> nn.Sequential:
    """Layers of torch.nn that start as ``dense`` did."""
    kinds = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU}
    found = nn.Sequential()
    for (weights, bias), activation in zip(dense.layers, dense.activations, strict=True):
        layer = nn.Linear(*weights.shape)
        with torch.no_grad():
            layer.weight.copy_(weights.T)
            layer.bias.copy_(bias)
        found.append(layer)
        if activation != "linear":
            found.append(kinds[activation]())
    return found


def epoch_of(learner, pairs, batch_size, session):
    """One epoch of ours, as :meth:`xmbench.training.Trained._train` has it, without what follows the steps."""
    everything, context = session.batch(pairs), FitContext()

    def epoch():
        with _settings(1):
            return _epoch(learner, everything, batch_size, 2, session, context)

    return epoch


# -- ACMR -------------------------------------------------------------------------------------------


class Tutorial(nn.Module):
    """ACMR as one writes it with torch.nn, torch.optim and a DataLoader, one class an item."""

    def __init__(self, learner, pairs: Pairs, batch_size: int) -> None:
        super().__init__()
        self.method = learner.method
        self.image_net, self.text_net = module(learner.f_V), module(learner.f_T)
        self.classifier, self.discriminator = module(learner.label_classifier), module(learner.D)
        embedding = itertools.chain(
            *(net.parameters() for net in (self.image_net, self.text_net, self.classifier))
        )
        options = {"lr": self.method.learning_rate, "betas": (0.5, 0.999)}
        self.embedding_optimiser = torch.optim.Adam(embedding, **options)
        self.modality_optimiser = torch.optim.Adam(self.discriminator.parameters(), **options)
        data = TensorDataset(*(torch.from_numpy(rows) for rows in (pairs.images, pairs.texts, pairs.labels)))
        self.loader = DataLoader(data, batch_size, shuffle=True, generator=torch.Generator().manual_seed(1))
        self.steps = 0

    def adversarial_loss(self, v, t):
        image, text = v.new_zeros(len(v), dtype=torch.long), t.new_ones(len(t), dtype=torch.long)
        entropy = nn.functional.cross_entropy
        return entropy(self.discriminator(v), image) + entropy(self.discriminator(t), text)

    def triplet_loss(self, distance, same):
        """Eq. 4, its sum over triplets (i, j, k) split in what depends on j and what depends on k."""
        different = ~same
        p, q = same.sum(dim=1), different.sum(dim=1)
        pull = (distance * same).sum(dim=1) * q
        push = (torch.relu(self.method.margin - distance) * different).sum(dim=1) * p
        return (pull + self.method.triplet_weight * push).sum() / (p * q).sum()

    def epoch(self) -> dict[str, float]:
        totals = dict.fromkeys(("triplet_loss", "label_loss", "adversarial_loss"), 0.0)
        for images, texts, labels in self.loader:
            v, t = self.image_net(images), self.text_net(texts)
            squared = v.pow(2).sum(1, keepdim=True) + t.pow(2).sum(1) - 2 * v @ t.T
            distance, same = squared.clamp(min=1e-12).sqrt(), labels[:, None] == labels
            triplet = self.triplet_loss(distance, same) + self.triplet_loss(distance.T, same)
            label = sum(nn.functional.cross_entropy(self.classifier(rows), labels) for rows in (v, t))
            layers = [
                layer
                for net in (self.image_net, self.text_net)
                for layer in net
                if len([*layer.parameters()])
            ]
            norms = sum(layer.weight.norm() for layer in layers)
            adversarial = self.adversarial_loss(v, t)
            loss = self.method.alpha * triplet + self.method.beta * label + self.method.reg_weight * norms
            loss = loss - self.method.adversary_weight * adversarial
            self.embedding_optimiser.zero_grad()
            loss.backward()
            self.embedding_optimiser.step()
            self.steps += 1
            if self.steps % self.method.embedding_steps == 0:
                self.modality_optimiser.zero_grad()
                self.adversarial_loss(v.detach(), t.detach()).backward()
                self.modality_optimiser.step()
            for name, value in zip(totals, (triplet, label, adversarial), strict=True):
                totals[name] += value.item() * len(labels)
        return {name: total / len(self.loader.dataset) for name, total in totals.items()}


def acmr_flops(method, n: int, batch_size: int) -> float:
    k = method.n_components
    total = 0.0
    for b in batches(n, batch_size):
        total += dense_flops(b, WIDTHS[0], method.hidden_image, k)
        total += dense_flops(b, WIDTHS[1], method.hidden_text, k)
        total += 2 * dense_flops(b, k, CLASSES, inputs=True)
        total += 2 * dense_flops(b, k, 50, 2, weights=False, inputs=True)
        total += 2 * dense_flops(b, k, 50, 2) / method.embedding_steps
        total += 3 * 2 * b * b * k + 2 * b * b * CLASSES  # distances and their gradients; who shares a class
    return total


@pytest.mark.parametrize("case", [FEW, MANY])
@pytest.mark.parametrize(("batch_size", "bar", "share"), [(64, 0.55, 0.32), (256, None, 0.6)])
def test_acmr_against_the_tutorial_loop(benchmark, cases, case, batch_size, bar, share):
    pairs, session = cases(case), Session(0)
    method = Acmr(batch_size=batch_size)
    learner = AcmrLearner(method, (*WIDTHS, CLASSES), session)
    tutorial = Tutorial(learner, pairs, batch_size)
    epoch, found, expected = epoch_of(learner, pairs, batch_size, session), [], []
    own, others, ratios = in_turns(
        benchmark,
        case,
        lambda: found.append(epoch()),
        [lambda: seconds(lambda: expected.append(tutorial.epoch())), square_product()],
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=0.05)
    name = f"acmr, batch {batch_size}"
    benchmark.extra_info["line"] = (
        f"{name:<16}{own:8.3f} CPU s an epoch; tutorial loop {others[0]:.3f}, ratio {ratios[0]:.3f}"
        f"{at_most(ratios[0], bar)}{of_the_floor(acmr_flops(method, len(pairs), batch_size), ratios[1], share)}"
    )


# -- CM-GANs ----------------------------------------------------------------------------------------


class Adversaries(nn.Module):
    """CM-GANs as one writes it with torch.nn, torch.optim and a DataLoader, one class an item."""

    def __init__(self, learner, pairs: Pairs) -> None:
        super().__init__()
        self.method, k = learner.method, learner.classifier.layers[0][0].shape[0]
        hidden = learner.method.hidden

        def block(d, width):
            return nn.Sequential(nn.Linear(d, width), nn.BatchNorm1d(width), nn.LeakyReLU(0.2))

        def pathway(d):
            return nn.Sequential(
                nn.Linear(k + d, hidden // 2),
                nn.BatchNorm1d(hidden // 2),
                nn.LeakyReLU(0.2),
                nn.Linear(hidden // 2, 1),
            )

        self.encoders = nn.ModuleList(nn.Sequential(*block(d, hidden), *block(hidden, k)) for d in WIDTHS)
        self.encoders[1][3] = self.encoders[0][3]
        self.decoders = nn.ModuleList(nn.Sequential(*block(k, hidden), nn.Linear(hidden, d)) for d in WIDTHS)
        self.intra = nn.ModuleList(nn.Linear(d, 1) for d in WIDTHS)
        self.inter = nn.ModuleList(pathway(d) for d in WIDTHS)
        self.classifier = nn.Linear(k, CLASSES)
        options = {"lr": self.method.learning_rate, "betas": (0.5, 0.999)}
        generators = [*self.encoders.parameters(), *self.decoders.parameters(), *self.classifier.parameters()]
        self.generator_optimiser = torch.optim.Adam(generators, **options)
        self.discriminator_optimiser = torch.optim.Adam(
            [*self.intra.parameters(), *self.inter.parameters()], **options
        )
        data = TensorDataset(*(torch.from_numpy(rows) for rows in (pairs.images, pairs.texts, pairs.labels)))
        self.data, generator = data, torch.Generator().manual_seed(1)
        self.loader = DataLoader(data, self.method.batch_size, shuffle=True, generator=generator)
        self.others = [torch.from_numpy(np.flatnonzero(pairs.labels != label)) for label in range(CLASSES)]

    def told(self, logits, real: bool):
        return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))

    def judged(self, i, codes, features):
        return self.inter[i](torch.cat([codes, features], dim=1))

    def mismatched(self, labels):
        rows = [self.others[label][torch.randint(len(self.others[label]), ())] for label in labels.tolist()]
        return [part[torch.stack(rows)] for part in self.data.tensors[:2]]

    def epoch(self) -> dict[str, float]:
        totals = dict.fromkeys(("label_loss", "generator_inter_loss", "image_inter_loss"), 0.0)
        redrawn = itertools.chain.from_iterable(iter(lambda: iter(self.loader), None))
        for *features, labels in self.loader:
            with torch.no_grad():
                codes = [net(rows) for net, rows in zip(self.encoders, features, strict=True)]
                made = [net(rows) for net, rows in zip(self.decoders, codes, strict=True)]
                others = self.mismatched(labels)
                wrong = [net(rows) for net, rows in zip(self.encoders, others, strict=True)]
            losses = []
            for i in (0, 1):
                losses.append(self.told(self.intra[i](features[i]), True))
                losses.append(self.told(self.intra[i](made[i]), False))
                inter = self.told(self.judged(i, codes[i], features[i]), True)
                inter = inter + self.told(self.judged(i, codes[1 - i], features[i]), False) / 2
                losses.append(inter + self.told(self.judged(i, wrong[i], others[i]), False) / 2)
            self.discriminator_optimiser.zero_grad()
            sum(losses).backward()
            self.discriminator_optimiser.step()
            totals["image_inter_loss"] += losses[2].item() * len(labels)
            for _ in range(self.method.generator_steps):
                *features, labels = next(redrawn)
                codes = [net(rows) for net, rows in zip(self.encoders, features, strict=True)]
                made = [net(rows) for net, rows in zip(self.decoders, codes, strict=True)]
                inter = sum(self.told(self.judged(i, codes[1 - i], features[i]), True) for i in (0, 1))
                intra = sum(self.told(self.intra[i](made[i]), True) for i in (0, 1))
                label = sum(nn.functional.cross_entropy(self.classifier(rows), labels) for rows in codes)
                self.generator_optimiser.zero_grad()
                (inter + intra + label).backward()
                self.generator_optimiser.step()
                share = len(labels) / self.method.generator_steps
                totals["label_loss"] += label.item() * share
                totals["generator_inter_loss"] += inter.item() * share
        return {name: total / len(self.data) for name, total in totals.items()}


def cm_gans_flops(method, n: int, batch_size: int) -> float:
    """Discriminators read what K generator steps make of K batches, and one more of their own."""
    h = k = method.hidden
    m, total = h // 2, 0.0
    for b in batches(n, batch_size):
        for d in WIDTHS:
            encoder, decoder = 2 * b * (d * h + h * k), 2 * b * (k * h + h * d)
            judges = 2 * 2 * 2 * b * d + 2 * 2 * 2 * b * d * m + 3 * 2 * 2 * b * k * m
            total += 2 * encoder + decoder + judges
            step = dense_flops(b, d, h, k) + dense_flops(b, k, h, d, inputs=True)
            step += dense_flops(b, k, CLASSES, inputs=True)
            step += 2 * b * d * m + 2 * 2 * b * k * m + 2 * 2 * b * d
            total += method.generator_steps * step
    return total


@pytest.mark.parametrize(("case", "rounds"), [(FEW, ROUNDS), (MANY, 1)])
def test_cm_gans_against_the_tutorial_loop(benchmark, cases, case, rounds):
    pairs, session = cases(case), Session(0)
    method = CmGans.resolve({"preset": "paper"})
    learner, tutorial = (
        CmGansLearner(method, pairs, session),
        Adversaries(CmGansLearner(method, pairs, session), pairs),
    )
    epoch, found, expected = epoch_of(learner, pairs, method.batch_size, session), [], []
    own, others, ratios = in_turns(
        benchmark,
        case,
        lambda: found.append(epoch()),
        [lambda: seconds(lambda: expected.append(tutorial.epoch())), square_product()],
        rounds=rounds,
    )
    assert found[0]["label_loss"] == pytest.approx(expected[0]["label_loss"], rel=0.2)
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("generator_inter_loss", "image_inter_loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=0.15)
    share = cm_gans_flops(method, len(pairs), method.batch_size)
    benchmark.extra_info["line"] = (
        f"{'cm_gans, K = 5':<16}{own:8.3f} CPU s an epoch; tutorial loop {others[0]:.3f}, ratio {ratios[0]:.3f}"
        f"{at_most(ratios[0], 0.75)}{of_the_floor(share, ratios[1], 0.35)}"
    )


# -- DCCA -------------------------------------------------------------------------------------------


def dcca_flops(method, n: int, batch_size: int) -> int:
    o, hidden = method.n_components, (method.hidden,) * method.n_hidden_layers
    return sum(
        sum(dense_flops(b, d, *hidden, o) for d in WIDTHS)
        + 7 * 2 * b * o * o  # three covariances, and two products with their gradients for each view
        for b in batches(n, batch_size)
    )


@PEERS
@pytest.mark.parametrize(("case", "batch_size"), [(FEW, 800), (MANY, 512)])
@pytest.mark.filterwarnings("ignore")
def test_dcca_against_cca_zoo(benchmark, cases, case, batch_size):
    """The second epoch of two: in the first, optimisers make their moments, which Lightning does in each fit.

    cca_zoo climbs the sum of the squared correlations, so that only starts and objectives can be compared.
    """
    import lightning.pytorch as pl
    from cca_zoo.deep import DCCA, MultiviewDataset

    pairs = cases(case)
    method = Dcca(n_components=32, batch_size=batch_size, weight_decay=0.0)
    views = [torch.from_numpy(rows) for rows in (pairs.images, pairs.texts)]

    class Clock(pl.Callback):
        def on_train_epoch_start(self, trainer, model):
            self.start = time.process_time()

        def on_train_epoch_end(self, trainer, model):
            self.seconds = time.process_time() - self.start

    def ours():
        session = Session(0)
        learner = DccaLearner(method, pairs, 32, session)
        return learner, epoch_of(learner, pairs, batch_size, session)

    def zoo():
        start = ours()[0]
        model = DCCA(
            n_components=32,
            encoders=[module(start.f), module(start.g)],
            learning_rate=method.learning_rate,
            reg_covar=method.ridge,
        )
        data = MultiviewDataset([pairs.images, pairs.texts])
        clock = Clock()
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=2,
            logger=False,
            callbacks=[clock],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        return model, trainer, DataLoader(data, batch_size, shuffle=True), clock

    def values(f, g, objective):
        """The sum of the correlations of all pairs, that of their squares, and cca_zoo's objective."""
        with torch.no_grad():
            outputs = [net(rows) for net, rows in zip((f, g), views, strict=True)]
            found = canonical(*(rows.numpy() for rows in outputs), method.ridge)["correlations_"]
            return np.array([found.sum(), (found**2).sum(), -float(objective(outputs))])

    learner, (model, *_) = ours()[0], zoo()
    started = values(learner.f, learner.g, model.objective)
    np.testing.assert_allclose(values(*model.encoders, model.objective), started, rtol=1e-3)
    assert started[2] == pytest.approx(started[1], rel=1e-3)
    last = {}

    def theirs():
        model, trainer, loader, clock = zoo()
        trainer.fit(model, loader)
        last["zoo"] = model, trainer.global_step
        return clock.seconds

    def first_epoch():
        last["ours"], last["epoch"] = ours()
        last["epoch"]()

    own, others, ratios = in_turns(
        benchmark, case, lambda: last["epoch"](), [theirs, square_product()], before=first_epoch
    )
    learner, (model, steps) = last["ours"], last["zoo"]
    assert learner.optimiser.steps == steps == 2 * len(batches(len(pairs), batch_size))
    for nets in ((learner.f, learner.g), model.encoders):
        assert (values(*nets, model.objective) > started).all()
    name = f"dcca, batch {batch_size}"
    benchmark.extra_info["line"] = (
        f"{name:<16}{own:8.3f} CPU s an epoch; cca_zoo with Lightning {others[0]:.3f}, ratio {ratios[0]:.3f}"
        f"{at_most(ratios[0], 0.95)}{of_the_floor(dcca_flops(method, len(pairs), batch_size), ratios[1], 0.65)}"
    )


# -- Adam -------------------------------------------------------------------------------------------


class Gradients:
    """In the place of a loss: its way back hands out gradients that are there already."""

    def __init__(self, parameters) -> None:
        generator = torch.Generator().manual_seed(0)
        self.parameters = [tensor.detach().clone().requires_grad_() for tensor in parameters]
        self.gradients = [torch.randn(tensor.shape, generator=generator) for tensor in self.parameters]

    def backward(self) -> None:
        for tensor, gradient in zip(self.parameters, self.gradients, strict=True):
            tensor.grad = gradient


def test_adam_against_torch(benchmark):
    """Ten steps of ACMR's embeddings, whose gradients are there already."""
    parameters = AcmrLearner(Acmr(), (*WIDTHS, CLASSES), Session(0)).embeds
    mine = Gradients(parameters)
    optimiser = Adam(mine.parameters, 1e-3)

    def ours():
        for _ in range(10):
            optimiser.step(mine)

    def contender(losses, peer):
        def steps():
            for _ in range(10):
                losses.backward()
                peer.step()

        return lambda: seconds(steps)

    names = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    losses = [Gradients(parameters) for _ in names]
    peers = [
        torch.optim.Adam(one.parameters, lr=1e-3, **options)
        for one, options in zip(losses, names.values(), strict=True)
    ]
    turns = [contender(one, peer) for one, peer in zip(losses, peers, strict=True)]
    own, others, ratios = in_turns(benchmark, "Adam", ours, turns)
    for one in losses:
        for found, expected in zip(mine.parameters, one.parameters, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    words = "".join(
        f"; {name} {100 * other:.1f}, ratio {ratio:.3f}"
        for name, other, ratio in zip(names, others, ratios, strict=True)
    )
    n = sum(tensor.numel() for tensor in parameters) / 1e6
    benchmark.extra_info["line"] = f"{'Adam':<16}{100 * own:8.1f} CPU ms a step of {n:.1f} M numbers{words}"


# -- start ------------------------------------------------------------------------------------------

OURS = """
import torch
from xmbench.nn import Adam
w = torch.ones(3, requires_grad=True)
Adam([w], 0.1).step((w**2).sum())
print(w.tolist())
"""

THEIRS = """
import torch
w = torch.ones(3, requires_grad=True)
optimiser = torch.optim.Adam([w], lr=0.1)
(w**2).sum().backward()
optimiser.step()
print(w.tolist())
"""


def children() -> float:
    """CPU seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_start(benchmark):
    printed = {}

    def run(code):
        printed[code] = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout

    def theirs():
        start = children()
        run(THEIRS)
        return children() - start

    own, others, ratios = in_turns(benchmark, "start", lambda: run(OURS), [theirs], rounds=5, timer=children)
    assert printed[OURS] == printed[THEIRS] != b""
    benchmark.extra_info["line"] = (
        f"{'one step':<16}{own:8.3f} CPU s from a fresh interpreter on; "
        f"torch.optim.Adam {others[0]:.3f}, ratio {ratios[0]:.3f}"
    )
