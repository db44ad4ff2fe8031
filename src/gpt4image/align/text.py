"""The text side: vectors that are centred or whitened, and a small adapter that learns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name

SPACES = ("raw", "centred", "whitened")


@dataclass
class Moments:
    """Mean and covariance of vectors, summed in float64, chunk by chunk.

    Attributes:
        count: number of vectors.
        total: their sum [D].
        products: sum of their outer products [D, D].
    """

    count: int
    total: Tensor
    products: Tensor

    @classmethod
    def of(cls, chunks: Iterable[Tensor]) -> Moments:
        """Sum over chunks of vectors [n, D]. ConfigError if there are none."""
        found: Moments | None = None
        for chunk in chunks:
            exact = chunk.double()
            part = cls(len(exact), exact.sum(dim=0), exact.T @ exact)
            found = part if found is None else found.plus(part)
        if found is None or not found.count:
            raise ConfigError("There are no texts to average.")
        return found

    def plus(self, other: Moments) -> Moments:
        """Return the moments of both sets of vectors together."""
        return Moments(self.count + other.count, self.total + other.total, self.products + other.products)

    @property
    def mean(self) -> Tensor:
        """Mean [D]."""
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """Covariance [D, D], divided by the count."""
        return self.products / self.count - torch.outer(self.mean, self.mean)


class TextTransform(nn.Module):
    """Removes from text vectors what all texts have in common.

    - `raw`:      t
    - `centred`:  t - mean of the training texts (TextTeacher, arXiv 2605.22098)
    - `whitened`: (t - mean) (C + shrinkage trace(C)/D I)^(-1/2), C their covariance (Su et al., arXiv 2103.15316,
                  with shrinkage, so that few texts suffice)

    Args:
        space: `raw`, `centred` or `whitened`.
        moments: moments of the training texts.
        shrinkage: share of the mean variance that is added in all directions.

    Raises:
        ConfigError: unknown space.
    """

    mean: Tensor  # [D]
    matrix: Tensor | None  # [D, D]

    def __init__(self, space: str, moments: Moments, shrinkage: float = 0.1) -> None:
        super().__init__()
        if space not in SPACES:
            raise ConfigError(unknown_name("text space", space, SPACES))
        self.space = space
        mean = moments.mean if space != "raw" else torch.zeros_like(moments.mean)
        self.register_buffer("mean", mean.float())
        self.register_buffer("matrix", whitening(moments, shrinkage).float() if space == "whitened" else None)

    def forward(self, vectors: Tensor) -> Tensor:
        """Transform vectors [N, D]; the result is not of unit length."""
        centred = vectors - self.mean.to(vectors.dtype)
        transformed: Tensor = centred if self.matrix is None else centred @ self.matrix.to(vectors.dtype)
        return transformed


def whitening(moments: Moments, shrinkage: float) -> Tensor:
    """Return the symmetric matrix, float64 [D, D], that turns the shrunk covariance into the identity."""
    values, directions = torch.linalg.eigh(moments.covariance)  # [D], [D, D] with a direction in each column
    values = values.clamp(min=0)  # rounding leaves some slightly below 0
    lengths = (values + shrinkage * values.mean() + 1e-12).rsqrt()
    matrix: Tensor = directions * lengths @ directions.T
    return matrix


class TextAdapter(nn.Module):
    """A small residual bottleneck, trained with the projector (Gao et al., CLIP-Adapter, arXiv 2110.04544).

    It starts as the identity. Only contrastive losses may train one: without a force that separates texts, all texts
    and images would collapse to one point.

    Args:
        width: length D of a vector.
        hidden: width between its two layers; default a quarter of D.
    """

    def __init__(self, width: int, hidden: int | None = None) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden or max(1, width // 4))
        self.up = nn.Linear(self.down.out_features, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """Adapt vectors [N, D]; the result is not of unit length."""
        exact = vectors.to(self.down.weight.dtype)
        adapted: Tensor = exact + self.up(torch.relu(self.down(exact)))
        return adapted
