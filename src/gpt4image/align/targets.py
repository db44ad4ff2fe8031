r"""Which texts of a batch match an image: the targets of the alignment losses.

A target rule gives the affinity A_ij of text i with text j, from 0 to 1, with A_ii = 1. The contrastive losses turn its
rows into distributions; the sigmoid loss takes each pair by itself.

- `identity`:   A_ij = 1 if i = j (Ding et al., arXiv 2306.00693, equation 2)
- `same`:       also 1 if i and j belong to one image or are the same text: copies from repeated augmentation (Hoffer
                et al., arXiv 1901.09335), duplicates, texts that are class names
- `label`:      also 1 if i and j have the same label (Yang et al., "UniCL", arXiv 2204.03610, equation 3); where images
                have several, at least the overlap of their labels, |L_i and L_j| / |L_i or L_j| (Jaccard's index), over
                the classes that are known of both
- `similarity`: (1 - share) same_ij + share exp((<t_i, t_j> - 1) / tau_t). Its rows, normalised one term at a time, are
                (1 - share) same + share softmax_j(<t_i, t_j> / tau_t) (Gao et al., "SoftCLIP", arXiv 2303.17561,
                section 3.2)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name

RULES = ("identity", "same", "label", "similarity")
SAME_TEXT = 1 - 1e-5  # cosine of one text with itself, after rounding to float16; other texts are further apart


class Texts(NamedTuple):
    """Texts of a batch, or of other batches.

    Attributes:
        vectors: unit vectors [N, D].
        known: which rows are texts at all, bool [N].
        ids: a number for each text's image, int64 [N]; None where unknown.
        labels: int64 [N], -1 for none; or several each, integers [N, C]: 1 present, 0 absent, -1 unknown; None where
            unknown.
    """

    vectors: Tensor
    known: Tensor
    ids: Tensor | None = None
    labels: Tensor | None = None


@dataclass(frozen=True)
class TargetRule:
    """How well texts match each other's images.

    Attributes:
        name: `identity`, `same`, `label` or `similarity`; formulas in `gpt4image.align.targets`.
        temperature: tau_t of `similarity`.
        share: share of `similarity` that is soft.

    Raises:
        ConfigError: unknown name, or a temperature or share out of range.
    """

    name: str = "same"
    temperature: float = 0.1
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise ConfigError(unknown_name("kind of targets", self.name, RULES))
        if not self.temperature > 0:
            raise ConfigError(f"The temperature of soft targets must be above 0, not {self.temperature}.")
        if not 0 <= self.share <= 1:
            raise ConfigError(f"The share of soft targets must lie between 0 and 1, not {self.share}.")

    def terms(self, own: Texts, others: Texts, first: int | None) -> list[tuple[float, Tensor]]:
        """Return affinities of own texts [N] with others [M] as weighted terms [N, M]; 0 where one is no text.

        The terms stay apart because the contrastive losses normalise each by itself.

        Args:
            own: texts of the rows.
            others: texts of the columns.
            first: column of the first own text; None where the own texts are not among the others.

        Raises:
            ConfigError: the rule needs labels, and there are none.
        """
        both = own.known[:, None] & others.known  # [N, M]
        dtype = own.vectors.dtype
        itself = _is_self(own, others, first)
        if self.name == "identity":
            return [(1.0, (itself & both).to(dtype))]
        cosine = own.vectors.detach() @ others.vectors.detach().T  # [N, M]
        same = itself | _is_same(own, others, cosine)
        if self.name == "label" and own.labels is not None and own.labels.ndim == 2:
            return [(1.0, torch.maximum(same.to(dtype), _label_overlap(own, others).to(dtype)) * both)]
        if self.name == "label":
            same = same | _has_same_label(own, others)
        hard = (same & both).to(dtype)
        if self.name != "similarity":
            return [(1.0, hard)]
        soft = ((cosine - 1) / self.temperature).exp() * both
        return [(1 - self.share, hard), (self.share, soft.clamp(max=1))]

    def excluded(self, own: Texts, others: Texts) -> Tensor:
        """Return which pairs [N, M] are neither positive nor negative: the same text again, under `identity`."""
        if self.name != "identity":
            return torch.zeros(len(own.known), len(others.known), dtype=torch.bool, device=own.known.device)
        same = _is_same(own, others, own.vectors.detach() @ others.vectors.detach().T)
        return same & own.known[:, None] & others.known


def as_distributions(terms: list[tuple[float, Tensor]]) -> Tensor:
    """Scale the rows of each term to sum 1 and add up the terms with their weights; rows of zeros stay zero."""
    tiny = torch.finfo(terms[0][1].dtype).tiny
    return weighted_sum([(weight, term / term.sum(dim=1, keepdim=True).clamp(min=tiny)) for weight, term in terms])


def weighted_sum(terms: list[tuple[float, Tensor]]) -> Tensor:
    """Add up terms with their weights."""
    total = terms[0][1] * terms[0][0]
    for weight, term in terms[1:]:
        total = total + weight * term
    return total


def _is_self(own: Texts, others: Texts, first: int | None) -> Tensor:
    """Return which of the others each own text is, bool [N, M]."""
    rows, columns = (torch.arange(len(texts.known), device=own.known.device) for texts in (own, others))
    return rows[:, None] + (len(columns) if first is None else first) == columns


def _is_same(own: Texts, others: Texts, cosine: Tensor) -> Tensor:
    """Return which texts are equal or belong to one image, bool [N, M]."""
    same = cosine >= SAME_TEXT
    return same if own.ids is None or others.ids is None else same | (own.ids[:, None] == others.ids)


def _label_overlap(own: Texts, others: Texts) -> Tensor:
    """Return the overlap of label sets, float [N, M] from 0 to 1: labels of both over labels of either."""
    if own.labels is None or others.labels is None:
        raise ConfigError("Targets 'label' need the labels of all texts: several each, as integers [N, C].")
    (first, known_first), (second, known_second) = (
        ((labels > 0).float(), (labels >= 0).float()) for labels in (own.labels, others.labels)
    )
    shared = first @ second.T
    either = first @ known_second.T + known_first @ second.T - shared
    return shared / either.clamp(min=1)


def _has_same_label(own: Texts, others: Texts) -> Tensor:
    """Return which texts have the same label, bool [N, M]; -1 equals nothing."""
    if own.labels is None or others.labels is None:
        raise ConfigError("Targets 'label' need the labels: AlignmentLoss(...)(..., labels=labels), -1 where unknown.")
    return (own.labels[:, None] == others.labels) & (own.labels[:, None] >= 0)
