"""What an alignment loss looks at: rows of this process against columns of all processes.

Images are mixtures of sources, and sources have texts: M [B, S] holds the share of source s in image i
(`gpt4image.align.mixing`); without mixing it is the identity. Targets that rows P [S, G] state for sources are M P for
images, exactly as labels are mixed. Nothing here grows with the square of the joined batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt4image.align.distributed import gather_rows, world
from gpt4image.align.targets import TargetRule, Texts, as_distributions, sum_up

TINY = 1e-12


class Rows(NamedTuple):
    """Rows of this process against columns of all.

    Attributes:
        similarities: cosines [R, G], with gradient.
        targets: what each row should find [R, G]: a distribution, or an affinity between 0 and 1 for each pair.
        allowed: which columns a row is compared with, bool [R, G].
        weights: how much each row counts [R]; 0 for rows without text.
    """

    similarities: Tensor
    targets: Tensor
    allowed: Tensor
    weights: Tensor


class Pairs:
    """A batch of images and texts: this process's part, and what there is of the others'.

    Args:
        images: unit vectors z of this process's images [B, D].
        texts: texts t of this process's sources [S]; those that are not known are zero vectors.
        mixing: share of source s in image i, M [B, S]; None where image i is source i.
        rule: which texts fit.
        slots: rows kept for the images and for the texts of each process; not needed by a single one.
        queued: texts of earlier batches.

    Attributes:
        shares: which share of each image has a text [B].
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
        """Which share of each image of all processes has a text [G']."""
        if self._all_shares is None:
            self._all_shares = gather_rows(self.shares, self.slots[0])
        return self._all_shares

    @property
    def among_texts(self) -> list[tuple[float, Tensor]]:
        """How well this process's texts fit all texts [S, G], as weights and terms; both directions look at it."""
        if self._among_texts is None:
            self._among_texts = self.rule.terms(self.texts, self.all_texts, world().rank * self.slots[1])
        return self._among_texts

    @property
    def own(self) -> Tensor:
        """Cosine of each image with its own text [B]; of a mixed one the mean over its texts; 0 without text."""
        if self.mixing is None:
            return (self.images * self.texts.vectors).sum(dim=1)
        cosines = self.images @ self.texts.vectors.T
        return (self.mixing * cosines).sum(dim=1) / self.shares.clamp(min=TINY)

    def image_to_text(self, *, pairwise: bool = False) -> Rows:
        """This process's images [B] against all texts, those of earlier batches included [G + Q].

        Args:
            pairwise: targets as affinities in place of distributions.
        """
        if self.queued is None:
            others, terms = self.all_texts, self.among_texts
        else:
            others = join_texts(self.all_texts, self.queued)
            terms = self.rule.terms(self.texts, others, world().rank * self.slots[1])
        targets = self._of_images(sum_up(terms) if pairwise else as_distributions(terms))
        allowed = others.known.expand(len(self.images), -1)
        if self.queued is not None:
            again = self.rule.excluded(self.texts, self.queued).to(self.images.dtype)
            allowed = allowed & ~F.pad(self._of_images(again) > 0, (len(self.all_texts.known), 0))
        return Rows(self.images @ others.vectors.T, targets.clamp(max=1), allowed, self.shares)

    def text_to_image(self) -> Rows:
        """This process's texts [S] against all images [G']."""
        targets = as_distributions([(weight, self._against_images(term)) for weight, term in self.among_texts])
        allowed = (self.all_shares > 0).expand(len(targets), -1)
        return Rows(self.texts.vectors @ self.all_images.T, targets, allowed, self.source_shares)

    def image_to_image(self) -> Rows:
        """This process's images [B] against all others [G'], with the likeness of their texts as targets."""
        rows, columns = (torch.arange(len(part), device=part.device) for part in (self.images, self.all_images))
        itself = rows[:, None] + world().rank * self.slots[0] == columns
        allowed = (self.all_shares > 0) & ~itself
        targets = self._likeness(allowed)
        return Rows(self.images @ self.all_images.T, targets, allowed, self.shares)

    def _likeness(self, allowed: Tensor) -> Tensor:
        """How alike the texts of images are [B, G'], as distributions over the allowed columns.

        Of images that are not mixed it is a softmax, which no temperature is too low for; exponentials that are mixed
        go down to the smallest number there is.
        """
        logits = (self.texts.vectors.detach() @ self.all_texts.vectors.detach().T - 1) / self.rule.temperature
        if self.mixing is None:
            return only_allowed(logits, allowed).softmax(dim=1) * allowed
        alike = logits.exp() * (self.texts.known[:, None] & self.all_texts.known)
        return as_distributions([(1.0, self._against_images(self._of_images(alike)) * allowed)])

    def _of_images(self, of_sources: Tensor) -> Tensor:
        """Rows of sources [S, .] to rows of images [B, .], as means over the sources that have a text."""
        if self.mixing is None:
            return of_sources
        return self.mixing @ of_sources / self.shares.clamp(min=TINY)[:, None]

    def _against_images(self, against_sources: Tensor) -> Tensor:
        """Columns of all sources [R, G] to columns of all images [R, G']."""
        if self.mixing is None:
            return against_sources
        size = world().size
        if size == 1:
            return against_sources @ self.mixing.T
        wide = F.pad(self.mixing, (0, self.slots[1] - self.mixing.shape[1]))
        everyone = gather_rows(wide, self.slots[0]).view(size, *self.slots)
        return torch.einsum("rws,wis->rwi", against_sources.view(-1, size, self.slots[1]), everyone).flatten(1)


def only_allowed(logits: Tensor, allowed: Tensor) -> Tensor:
    """Logits for a softmax over the allowed columns; a row without any is a finite constant."""
    return logits.masked_fill(~allowed, torch.finfo(logits.dtype).min / 4)


def join_texts(first: Texts, second: Texts) -> Texts:
    """Both one after the other; ids and labels where both have them."""
    return Texts(
        torch.cat([first.vectors, second.vectors]),
        torch.cat([first.known, second.known]),
        None if first.ids is None or second.ids is None else torch.cat([first.ids, second.ids]),
        None if first.labels is None or second.labels is None else torch.cat([first.labels, second.labels]),
    )
