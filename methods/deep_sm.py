"""Deep semantic matching, in its linear form."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench.data import Pairs
from xmbench.errors import InvalidParameter, RunError
from xmbench.linalg import thin_svd
from xmbench.method import FitContext, Method, MethodInfo


class DeepSm(Method):
    """One classifier per modality; an item's class probabilities are its place in the common space.

    Each modality has a multinomial logistic regression on its features, the two sharing nothing::

        min over W (d, c), b (c,):   C * sum_i CE(y_i, softmax(x_i W + b)) + ||W||_F^2 / 2

    solved by L-BFGS in whitened coordinates. An item with several classes has the target y_i / sum(y_i).
    A class without training rows gets probability 0.

    Args:
        C: inverse strength of the L2 penalty, > 0. The default had the best validation score over the
            default splits of pascal, wikipedia and emoji together.
        max_iter: iterations of L-BFGS at the most; not converging by then ends the run.

    Learned: ``image_weights_`` (d_image, c), ``image_bias_`` (c,), ``text_weights_``, ``text_bias_``,
    ``classes_``: the classes with training rows, in the order of the columns.

    Source: Wei, Zhao, Lu, Wei, Liu, Zhu, Yan, "Cross-modal retrieval with CNN visual features: a new
    baseline", IEEE Trans. Cybernetics 2017; in this linear form it is the semantic matching of Rasiwasia et
    al., "A new approach to cross-modal multimedia retrieval", ACM Multimedia 2010. Differs from the former:
    features are fixed, where the paper fine-tunes its image network, and there is no hidden layer.
    """

    info = MethodInfo(
        trained=True,
        title="Deep-SM (linear)",
        paper="Wei et al., Cross-modal retrieval with CNN visual features: a new baseline, "
        "IEEE Trans. Cybernetics 47, 2017",
        year=2017,
        supervised=True,
        departures=(
            "linear form: logistic regression per modality on fixed features, no hidden layer, no fine-tuning",
        ),
    )
    grid: ClassVar = {"C": (1e-4, 3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 3e-2, 0.1, 0.3, 1.0)}

    def __init__(self, C: float = 0.01, max_iter: int = 2000) -> None:
        self.C = C
        self.max_iter = max_iter

    def _fit(self, train: Pairs, validation: Pairs | None, context: FitContext) -> None:
        if not 0 < self.C < np.inf:
            raise InvalidParameter(f"DeepSm.C: expected more than 0, got {self.C}")
        targets = train.one_hot()
        self.classes_ = np.flatnonzero(targets.any(axis=0))
        self.n_classes_ = train.n_classes
        targets = targets[:, self.classes_] / targets.sum(axis=1, keepdims=True)
        self.image_weights_, self.image_bias_ = self._regress("images", train.images, targets, context)
        self.text_weights_, self.text_bias_ = self._regress("texts", train.texts, targets, context)

    def _regress(
        self, name: str, rows: NDArray[np.float32], targets: NDArray[np.float64], context: FitContext
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        from scipy.optimize import minimize

        X = rows.astype(np.float64)
        mean = X.mean(axis=0)
        # Whitened coordinates Z = (X - mean) M, W = M V: in V the problem is nearly round, so that L-BFGS
        # needs tens of steps and not hundreds. The penalty stays that of W.
        U, s, V = context.pieces.get(("svd", name), lambda: thin_svd(X - mean))
        root = np.sqrt(s**2 + 2.0 / self.C)
        Z, M = U * (s / root), V / root
        shrink = np.einsum("ij,ij->j", M, M)[:, None]  # M'M is diagonal, so ||W||^2 = sum(shrink * V^2)
        shape = (Z.shape[1] + 1, targets.shape[1])  # the last row is the bias

        def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            context.check_deadline()
            V, bias = np.split(parameters.reshape(shape), [-1])
            value, slope = cross_entropy(Z @ V + bias, targets)
            gradient = np.vstack([self.C * (Z.T @ slope) + shrink * V, self.C * slope.sum(axis=0)])
            return self.C * value + 0.5 * float((shrink * V**2).sum()), gradient.ravel()

        options = {
            "maxiter": self.max_iter,
            "maxfun": 2 * self.max_iter,
            "ftol": 1e-12,
            "gtol": 1e-6 * self.C,
        }
        start = np.zeros(shape).ravel()
        found: Any = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)  # type: ignore[call-overload]
        if found.status == 1:  # out of iterations or of evaluations
            raise RunError(
                f"Deep-SM did not converge in {self.max_iter} iterations; raise max_iter or lower C"
            )
        V, bias = np.split(found.x.reshape(shape), [-1])
        W = M @ V
        return W, bias[0] - mean @ W

    def _encode_image(self, images: NDArray[np.float32]) -> NDArray[Any]:
        return self._posterior(images @ self.image_weights_ + self.image_bias_)

    def _encode_text(self, texts: NDArray[np.float32]) -> NDArray[Any]:
        return self._posterior(texts @ self.text_weights_ + self.text_bias_)

    def _posterior(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        posterior = np.zeros((len(logits), self.n_classes_))
        posterior[:, self.classes_] = softmax(logits)
        return posterior


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of class probabilities, (n, c) -> (n, c)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def cross_entropy(
    logits: NDArray[np.float64], targets: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Sum over rows of the cross-entropy with ``targets`` (rows sum to 1), and its gradient by ``logits``."""
    peak = logits.max(axis=1, keepdims=True)
    log_total = peak + np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))
    return float((targets * (log_total - logits)).sum()), np.exp(logits - log_total) - targets


METHOD = DeepSm
