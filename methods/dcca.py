"""Deep canonical correlation analysis."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.errors import InvalidParameter, Unsupported
from xmbench.method import FitContext, MethodInfo
from xmbench.nn import (
    Activation,
    Adam,
    Dense,
    Tensor,
    check_not_negative,
    check_positive,
    check_share,
    forward,
)
from xmbench.training import VALIDATION_MAP, Batch, Learner, Session, Trained

ROWS_A_COMPONENT = 10
"""A batch has at least so many rows for each output: fewer, and noise correlates with noise."""


class Dcca(Trained):
    """Two networks whose outputs are as correlated as can be, then linear CCA of the outputs.

    For outputs H1 = f(X), H2 = g(T), (n, o), centred by the batch's means (section 3)::

        S11 = H1'H1 / (n - 1) + r I,   S22 likewise,   S12 = H1'H2 / (n - 1)
        corr = trace norm of S11^{-1/2} S12 S22^{-1/2} = sum of its singular values;   the loss is -corr

    The singular values are those of L1^{-1} S12 L2^{-T} with Cholesky factors S11 = L1 L1', S22 = L2 L2', since both
    whitenings differ by a rotation. That has a finite gradient wherever r > 0; the eigendecomposition that is
    commonly differentiated divides by gaps of eigenvalues. All of it is in float64, whatever the networks are in.

    The loss knows the outputs up to an invertible linear map. So linear CCA with the same r is fitted to the outputs
    of all training rows in the end, and encodes: (H - mean) A.

    Args:
        n_components: o, also the width of the common space; None: the smaller feature width, 32 at the most.
        hidden: width of each hidden layer.
        n_hidden_layers: how many there are; 0 makes DCCA linear.
        activation: of hidden layers.
        ridge: r.
        power: each direction is multiplied by its correlation to this power; 0 weighs all alike.
        final_cca: whether outputs are mapped by the final CCA; without it they are only centred.
        select_by: the epoch that is kept: highest ``correlation`` of the validation pairs in the CCA of the training
            pairs (no labels), or highest retrieval score ``map`` on them (which takes their labels).
        dropout: share of the inputs that a step drops.
        weight_decay: L2 penalty in Adam.
        learning_rate: of Adam.
        batch_size: pairs a step, more than ``n_components``; None: the larger of 512 and 10 for each component, or
            all pairs where there are fewer than two such batches. A last batch of fewer than 10 pairs for each
            component is left out of its epoch.
        max_epochs: at the most.
        patience: epochs without a better epoch that end the training.
        random_state: seed.

    Learned: ``image_layers_``, ``text_layers_``, ``image_mean_`` (o,), ``text_mean_``, ``image_directions_`` (o, o),
    ``text_directions_``, ``correlations_`` (o,) of the training outputs, ``history_`` (``correlation``,
    ``validation_correlation``), ``best_epoch_``.

    Source: Andrew, Arora, Bilmes, Livescu, "Deep canonical correlation analysis", ICML 2013, section 3; in retrieval
    by cosine: Yan and Mikolajczyk, "Deep correlation for matching images and text", CVPR 2015. Differs: batches and
    Adam for full-batch L-BFGS, no pretraining, the epoch chosen on validation pairs. Sums of the largest correlations
    alone (``top_k`` of some ports) are not offered.
    """

    info = MethodInfo(
        title="DCCA",
        paper="Andrew et al., Deep canonical correlation analysis, ICML 2013",
        year=2013,
        supervised=False,
        trained=True,
        requires=("torch",),
        departures=("large batches and Adam, no pretraining; the epoch is chosen on validation pairs",),
    )
    grid: ClassVar = {
        "ridge": (0.01, 0.03, 0.1, 0.3),
        "activation": ("sigmoid", "relu"),
        "learning_rate": (1e-3, 3e-3),
        "n_hidden_layers": (1, 2),
    }

    ablations: ClassVar = {"no_final_cca": {"final_cca": False}}

    def __init__(
        self,
        n_components: int | None = None,
        hidden: int = 512,
        n_hidden_layers: int = 2,
        activation: Literal["sigmoid", "tanh", "relu"] = "sigmoid",
        ridge: float = 0.1,
        power: float = 0.0,
        final_cca: bool = True,
        select_by: Literal["correlation", "map"] = "correlation",
        dropout: float = 0.0,
        weight_decay: float = 1e-4,
        learning_rate: float = 1e-3,
        batch_size: int | None = None,
        max_epochs: int = 100,
        patience: int = 5,
        random_state: int = 0,
    ) -> None:
        self.n_components = n_components
        self.hidden = hidden
        self.n_hidden_layers = n_hidden_layers
        self.activation = activation
        self.ridge = ridge
        self.power = power
        self.final_cca = final_cca
        self.select_by = select_by
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.random_state = random_state

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        self._check_training()
        check_positive("Dcca", ridge=self.ridge, hidden=self.hidden)
        check_not_negative("Dcca", n_hidden_layers=self.n_hidden_layers, weight_decay=self.weight_decay)
        check_not_negative("Dcca", power=self.power)
        check_share("Dcca", dropout=self.dropout)
        o = self._components(train)
        batch_size = self.batch_size or max(512, ROWS_A_COMPONENT * o)
        if self.batch_size is None and len(train) < 2 * batch_size:
            batch_size = max(batch_size, len(train))
        if batch_size <= o:
            raise InvalidParameter(
                f"Dcca.batch_size: expected more than n_components ({o}), got {batch_size}: with so few rows any two "
                f"sets of outputs correlate perfectly; take {ROWS_A_COMPONENT * o} or more"
            )
        if len(train) <= o:
            raise Unsupported(
                f"DCCA with {o} components needs more than {o} training pairs, got {len(train)}: with so few rows any "
                f"two sets of outputs correlate perfectly; set n_components to {max(1, len(train) // 10)} or less"
            )
        session = Session(self.random_state, context.device)
        self._train(
            DccaLearner(self, train, o, session),
            train,
            validation,
            context,
            session,
            batch_size=batch_size,
            smallest_batch=min(batch_size, ROWS_A_COMPONENT * o),
            select_by=VALIDATION_MAP if self.select_by == "map" else "validation_correlation",
        )

    def _components(self, train: Pairs) -> int:
        most: int = min(train.images.shape[1], train.texts.shape[1])
        if self.n_components is None:
            return min(most, 32)
        check_positive("Dcca", n_components=self.n_components)
        return self.n_components

    def _encode_image(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray((forward(self.image_layers_, images) - self.image_mean_) @ self.image_directions_)

    def _encode_text(self, texts: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray((forward(self.text_layers_, texts) - self.text_mean_) @ self.text_directions_)

    image_mean_: NDArray[np.float64]
    text_mean_: NDArray[np.float64]
    image_directions_: NDArray[np.float64]
    text_directions_: NDArray[np.float64]
    correlations_: NDArray[np.float64]


class DccaLearner(Learner):
    """Both networks, their step, and the linear CCA of their outputs.

    Args:
        method: parameters.
        train: training pairs, for the final CCA.
        o: outputs of each network.
        session: device and random streams.
    """

    def __init__(self, method: Dcca, train: Pairs, o: int, session: Session) -> None:
        self.method, self.learning_rate, self.train, self.o = method, method.learning_rate, train, o
        hidden = (method.hidden,) * method.n_hidden_layers
        activations: tuple[Activation, ...] = (*(method.activation,) * method.n_hidden_layers, "linear")
        noise = {"dropout": method.dropout, "noise": session.noise}
        start, device = session.start, session.device
        self.f = Dense((train.images.shape[1], *hidden, o), activations, start, device, **noise)
        self.g = Dense((train.texts.shape[1], *hidden, o), activations, start, device, **noise)
        self.optimiser = Adam(
            [*self.f.parameters, *self.g.parameters], self.learning_rate, weight_decay=method.weight_decay
        )
        self._canonical: tuple[int, dict[str, Any]] | None = None

    def step(self, batch: Batch) -> dict[str, Tensor | float]:
        """One step up the correlation of a batch; none where there is no correlation any more, but NaN."""
        import torch

        try:
            corr = correlation(self.f(batch.images), self.g(batch.texts), self.method.ridge)
        except torch.linalg.LinAlgError:  # outputs not finite, or so large that rounding outweighs the ridge
            return {"correlation": float("nan")}
        self.optimiser.step(-corr)
        return {"correlation": corr.detach()}

    def examine(self, batch: Batch) -> dict[str, float]:
        """Sum of the correlations of the validation pairs along the directions of the training pairs.

        A direction along which either modality is constant has correlation 0.
        """
        learned = self.learned()
        images, texts = (
            (forward(learned[f"{name}_layers_"], rows.cpu().numpy()) - learned[f"{name}_mean_"])
            @ learned[f"{name}_directions_"]
            for name, rows in (("image", batch.images), ("text", batch.texts))
        )
        images, texts = images - images.mean(axis=0), texts - texts.mean(axis=0)
        lengths = np.sqrt((images**2).sum(axis=0) * (texts**2).sum(axis=0))
        products = (images * texts).sum(axis=0)
        return {"validation_correlation": float(np.sum(products / np.where(lengths > 0, lengths, np.inf)))}

    def learned(self) -> dict[str, Any]:
        """The networks and the linear CCA of their outputs on all training pairs."""
        layers = {"image_layers_": self.f.arrays(), "text_layers_": self.g.arrays()}
        if self._canonical is None or self._canonical[0] != self.optimiser.steps:
            outputs = (
                forward(layers["image_layers_"], self.train.images),
                forward(layers["text_layers_"], self.train.texts),
            )
            found = canonical(*outputs, self.method.ridge, self.method.power)
            if not self.method.final_cca:
                found |= dict.fromkeys(("image_directions_", "text_directions_"), np.eye(self.o))
            self._canonical = self.optimiser.steps, found
        return {**layers, **self._canonical[1]}


def correlation(H1: Tensor, H2: Tensor, ridge: float) -> Tensor:
    """Sum of the regularised canonical correlations of outputs (n, o), in float64; between 0 and o."""
    import torch

    H1, H2 = H1.double(), H2.double()
    H1, H2 = H1 - H1.mean(dim=0), H2 - H2.mean(dim=0)
    n, o = H1.shape
    r = ridge * torch.eye(o, dtype=H1.dtype, device=H1.device)
    L1, L2 = (torch.linalg.cholesky(H.T @ H / (n - 1) + r) for H in (H1, H2))
    half = torch.linalg.solve_triangular(L1, H1.T @ H2 / (n - 1), upper=False)
    return torch.linalg.svdvals(torch.linalg.solve_triangular(L2, half.T, upper=False)).sum()


def canonical(H1: NDArray[Any], H2: NDArray[Any], ridge: float, power: float = 0.0) -> dict[str, Any]:
    """Linear CCA of outputs (n, o) with S11 and S22 as in the loss; what :class:`Dcca` learns of it.

    NaN where there is none: outputs that are not finite, or so large that rounding outweighs the ridge.
    """
    from scipy.linalg import LinAlgError, cholesky, solve_triangular, svd

    n, o = H1.shape
    with np.errstate(over="ignore", invalid="ignore"):
        means = H1.mean(axis=0, dtype=np.float64), H2.mean(axis=0, dtype=np.float64)
        first, second = H1 - means[0], H2 - means[1]
        squares = first.T @ first / (n - 1), second.T @ second / (n - 1)
    try:
        L1, L2 = (cholesky(S + ridge * np.eye(o), lower=True) for S in squares)
        half = solve_triangular(L1, first.T @ second / (n - 1), lower=True)
        U, correlations, Vt = svd(solve_triangular(L2, half.T, lower=True).T)
    except (LinAlgError, ValueError):
        nothing = np.full((o, o), np.nan)
        return _learned(*means, nothing, nothing, nothing[0])
    A1, A2 = (solve_triangular(L, X, lower=True, trans=1) for L, X in ((L1, U), (L2, Vt.T)))
    return _learned(*means, A1 * correlations**power, A2 * correlations**power, correlations)


def _learned(*found: NDArray[Any]) -> dict[str, Any]:
    names = ("image_mean_", "text_mean_", "image_directions_", "text_directions_", "correlations_")
    return dict(zip(names, found, strict=True))


METHOD = Dcca
