"""The inputs of an alignment loss: rows of this process compared with columns of all processes.

Images are mixtures of sources, and sources have texts: M [B, S] holds the share of source s in image i
(`gpt4image.align.mixing`), the identity without mixing. Targets P [S, G] of sources become targets M P of images, just
as labels are mixed. Nothing here grows with the square of the joined batch.

Sizes: B images and S sources of this process; G' images and G sources of all W processes, where each process has a
fixed number of slots (`gather_rows`); Q texts of earlier batches.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt4image.align.distributed import gather_rows, world
from gpt4image.align.targets import TargetRule, Texts, as_distributions, weighted_sum

TINY = 1e-12


class PairRows(NamedTuple):
    """Rows of this process against columns of all.

    Attributes:
        similarities: cosines [R, G], with gradient.
        targets: what each row should find [R, G]: a distribution, or an affinity from 0 to 1 for each pair.
        allowed: which columns a row is compared with, bool [R, G].
        weights: how much each row counts [R]; 0 for rows without text.
    """

    similarities: Tensor
    targets: Tensor
    allowed: Tensor
    weights: Tensor


class Pairs:
    """A batch of images and texts: this process's part, and what it needs from other processes.

    What is gathered from other processes is gathered once, when a loss first asks for it.

    Args:
        images: unit vectors z of this process's images [B, D].
        texts: texts t of this process's sources [S]; unknown ones are zero vectors.
        mixing: share of source s in image i, M [B, S]; None where image i is source i.
        rule: which texts match.
        slots: rows reserved for the images and for the texts of each process; a single process needs none.
        queued: texts of earlier batches [Q].

    Attributes:
        shares: share of each image that has a text [B].
        source_shares: how much of each source is in this process's images, where it has a text [S]; the same sum.
    """

    def __init__(
        self,
        images: Tensor,
        texts: Texts,
        mixing: Tensor | None,
        rule: TargetRule,
        slots: tuple[int, int] = (0, 0),
        queued: Texts | None = None,
    ) -> None:
        self.images, self.texts, self.mixing, self.rule = images, texts, mixing, rule
        self.slots, self.queued = slots, queued
        known = texts.known.to(images.dtype)
        self.shares = known if mixing is None else mixing @ known
        self.source_shares = known if mixing is None else mixing.sum(dim=0) * known
        # plain caches: torch.compile breaks the graph at functools.cached_property
        self._all_texts: Texts | None = None
        self._all_images: Tensor | None = None
        self._all_shares: Tensor | None = None
        self._among_texts: list[tuple[float, Tensor]] | None = None

    @property
    def all_texts(self) -> Texts:
        """Texts of all processes [G]."""
        if self._all_texts is None:
            vectors, known, ids, labels = self.texts
            slots = self.slots[1]
            self._all_texts = Texts(
                gather_rows(vectors, slots),
                gather_rows(known, slots),
                None if ids is None else gather_rows(ids, slots),
                None if labels is None else gather_rows(labels, slots),
            )
        return self._all_texts

    @property
    def all_images(self) -> Tensor:
        """Images of all processes [G', D]."""
        if self._all_images is None:
            self._all_images = gather_rows(self.images, self.slots[0])
        return self._all_images

    @property
    def all_shares(self) -> Tensor:
        """Share of each image of all processes that has a text [G']."""
        if self._all_shares is None:
            self._all_shares = gather_rows(self.shares, self.slots[0])
        return self._all_shares

    @property
    def among_texts(self) -> list[tuple[float, Tensor]]:
        """Affinities of this process's texts with all texts, as weighted terms [S, G]; both directions use them."""
        if self._among_texts is None:
            self._among_texts = self.rule.terms(self.texts, self.all_texts, world().rank * self.slots[1])
        return self._among_texts

    @property
    def own(self) -> Tensor:
        """Cosine of each image with its own text [B]: the mean over the texts of a mixed image, 0 without text."""
        if self.mixing is None:
            return (self.images * self.texts.vectors).sum(dim=1)
        cosines = self.images @ self.texts.vectors.T  # [B, S]
        return (self.mixing * cosines).sum(dim=1) / self.shares.clamp(min=TINY)

    def image_to_text(self, *, pairwise: bool = False) -> PairRows:
        """Compare this process's images [B] with all texts, including those of earlier batches [G + Q].

        Args:
            pairwise: return targets as affinities instead of distributions.
        """
        if self.queued is None:
            others, terms = self.all_texts, self.among_texts
        else:
            others = concatenate_texts(self.all_texts, self.queued)
            terms = self.rule.terms(self.texts, others, world().rank * self.slots[1])
        targets = self._of_images(weighted_sum(terms) if pairwise else as_distributions(terms))  # [B, G + Q]
        allowed = others.known.expand(len(self.images), -1)
        if self.queued is not None:
            again = self.rule.excluded(self.texts, self.queued).to(self.images.dtype)  # [S, Q]
            allowed = allowed & ~F.pad(self._of_images(again) > 0, (len(self.all_texts.known), 0))
        # mixed targets may exceed 1 by rounding, which the sigmoid loss does not accept
        return PairRows(self.images @ others.vectors.T, targets.clamp(max=1), allowed, self.shares)

    def text_to_image(self) -> PairRows:
        """Compare this process's texts [S] with all images [G']."""
        targets = as_distributions([(weight, self._against_images(term)) for weight, term in self.among_texts])
        allowed = (self.all_shares > 0).expand(len(targets), -1)
        return PairRows(self.texts.vectors @ self.all_images.T, targets, allowed, self.source_shares)

    def image_to_image(self) -> PairRows:
        """Compare this process's images [B] with all others [G']; targets are the similarities of their texts."""
        allowed = self.others()
        return PairRows(self.images @ self.all_images.T, self._text_similarities(allowed), allowed, self.shares)

    def others(self) -> Tensor:
        """Return which of all images have a text and differ from each image of this process, bool [B, G']."""
        rows, columns = (torch.arange(len(part), device=part.device) for part in (self.images, self.all_images))
        itself = rows[:, None] + world().rank * self.slots[0] == columns  # [B, G']
        return (self.all_shares > 0) & ~itself

    def _text_similarities(self, allowed: Tensor) -> Tensor:
        """Return the similarities of the images' texts as distributions over the allowed columns [B, G'].

        Of unmixed images it is a softmax, exact at any temperature. Of mixed ones the exponentials themselves are
        mixed, which underflow at temperatures below about 0.02 in float32.
        """
        logits = (self.texts.vectors.detach() @ self.all_texts.vectors.detach().T - 1) / self.rule.temperature  # [S, G]
        if self.mixing is None:
            return only_allowed(logits, allowed).softmax(dim=1) * allowed
        similar = logits.exp() * (self.texts.known[:, None] & self.all_texts.known)
        return as_distributions([(1.0, self._against_images(self._of_images(similar)) * allowed)])

    def _of_images(self, of_sources: Tensor) -> Tensor:
        """Turn rows of sources [S, .] into rows of images [B, .]: means over the sources that have a text."""
        if self.mixing is None:
            return of_sources
        return self.mixing @ of_sources / self.shares.clamp(min=TINY)[:, None]

    def _against_images(self, against_sources: Tensor) -> Tensor:
        """Turn columns of all sources [R, G] into columns of all images [R, G']."""
        if self.mixing is None:
            return against_sources
        size = world().size
        if size == 1:
            return against_sources @ self.mixing.T
        # each process mixes only its own sources, so the joined matrix [G', G] is block-diagonal: only the W blocks
        # are gathered
        wide = F.pad(self.mixing, (0, self.slots[1] - self.mixing.shape[1]))
        blocks = gather_rows(wide, self.slots[0]).view(size, *self.slots)
        return torch.einsum("rws,wis->rwi", against_sources.view(-1, size, self.slots[1]), blocks).flatten(1)


def only_allowed(logits: Tensor, allowed: Tensor) -> Tensor:
    """Mask logits for a softmax over the allowed columns; a row without any becomes a finite constant."""
    return logits.masked_fill(~allowed, torch.finfo(logits.dtype).min / 4)


def only_known(vectors: Tensor, known: Tensor) -> Tensor:
    """Return rows [N, D] that are known [N]; others, which may hold NaN, become zero and get no gradient."""
    return torch.where(known[:, None], vectors, 0)


def unit_length(vectors: Tensor) -> Tensor:
    """Scale rows [N, D] to length 1 in float32 or better; a zero row stays zero."""
    return F.normalize(at_least_float32(vectors), dim=-1)


def at_least_float32(vectors: Tensor) -> Tensor:
    """Return vectors in float32 or better."""
    return vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors


def concatenate_texts(first: Texts, second: Texts) -> Texts:
    """Concatenate texts; the result has ids and labels where both have them."""
    return Texts(
        torch.cat([first.vectors, second.vectors]),
        torch.cat([first.known, second.known]),
        None if first.ids is None or second.ids is None else torch.cat([first.ids, second.ids]),
        None if first.labels is None or second.labels is None else torch.cat([first.labels, second.labels]),
    )
