"""Alignment losses in plain loops over numbers, written from the formulas alone (docs/method.md).

The numbers may be complex: the imaginary part of a loss at x + i h, divided by h, is its derivative, exact to rounding
(Squire and Trapp, "Using complex variables to estimate derivatives of real functions", 1998). Targets look at real
parts: no gradient flows through them.
"""

from __future__ import annotations

import cmath
from dataclasses import dataclass, field

from gpt4image.align.losses import find_loss


@dataclass
class Case:
    """One batch, as lists of numbers. `images` and `texts` are any length; `mixing` is rows of shares or None."""

    images: list[list[float]]
    texts: list[list[float]]
    has_text: list[bool]
    mixing: list[list[float]] | None = None
    ids: list[int] | None = None
    labels: list[int] | list[list[int]] | None = None
    queue: list[tuple[list[float], int, int]] = field(default_factory=list)
    targets: str = "same"
    tau: float = 0.17
    tau_t: float = 0.3
    share: float = 0.4
    bias: float = -2.0


def unit(row):
    length = cmath.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(values):
    top = max(value.real for value in values)
    parts = [cmath.exp(value - top) for value in values]
    return [part / sum(parts) for part in parts]


def log_sigmoid(x):
    return -cmath.log(1 + cmath.exp(-x)) if x.real > 0 else x - cmath.log(1 + cmath.exp(x))


class Batch:
    """The sources that have a text, followed by the queue, and the shares of the former in each image."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.sources = [j for j, known in enumerate(case.has_text) if known]
        self.z = [unit(row) for row in case.images]
        self.t = [unit(case.texts[j]) for j in self.sources]
        self.ids = [case.ids[j] if case.ids else -100 - j for j in self.sources]
        self.labels = [case.labels[j] if case.labels else -1 for j in self.sources]
        count = len(case.texts)
        mixing = case.mixing or [[float(i == j) for j in range(count)] for i in range(count)]
        self.shares = [[row[j] for j in self.sources] for row in mixing]
        self.weight = [sum(row) for row in self.shares]
        self.total = sum(self.weight)
        self.q = [unit(vector) for vector, _, _ in case.queue]
        self.q_ids = [number for _, number, _ in case.queue]
        self.q_labels = [label for _, _, label in case.queue]

    def same(self, a, a_id, b, b_id):
        return dot(a, b).real > 1 - 1e-5 or (self.case.ids is not None and a_id == b_id)

    def terms(self, i, columns):
        """Weighted affinities of text i with columns (vector, id, label, own position or None)."""
        name, case = self.case.targets, self.case
        mine = self.t[i], self.ids[i], self.labels[i]
        hard = []
        for vector, number, label, place in columns:
            fits = place == i
            if name != "identity":
                fits = fits or self.same(mine[0], mine[1], vector, number)
            if name == "label" and isinstance(label, list):
                hard.append(max(float(fits), overlap(mine[2], label)))
                continue
            if name == "label":
                fits = fits or (mine[2] >= 0 and mine[2] == label)
            hard.append(float(fits))
        if name != "similarity":
            return [(1.0, hard)]
        soft = [cmath.exp((min(dot(mine[0], vector).real, 1.0) - 1) / case.tau_t).real for vector, *_ in columns]
        return [(1 - case.share, hard), (case.share, soft)]

    def columns(self):
        own = [(self.t[j], self.ids[j], self.labels[j], j) for j in range(len(self.t))]
        return own + [(self.q[j], self.q_ids[j], self.q_labels[j], None) for j in range(len(self.q))]


def overlap(first, second):
    """Labels that both have over those that either has, among the classes that are known of both."""
    known = [(a, b) for a, b in zip(first, second, strict=True) if a >= 0 and b >= 0]
    either = sum(a == 1 or b == 1 for a, b in known)
    return sum(a == 1 and b == 1 for a, b in known) / either if either else 0.0


def scaled(row):
    return [x / sum(row) for x in row] if sum(row) else row


def added(terms, scale):
    parts = [(weight, scaled(row) if scale else row) for weight, row in terms]
    return [sum(weight * row[j] for weight, row in parts) for j in range(len(parts[0][1]))]


def image_rows(batch, scale):
    """For each image with text: cosines, mean targets over its texts, columns it may be compared with."""
    columns = batch.columns()
    for i, z in enumerate(batch.z):
        if not batch.weight[i]:
            continue
        targets = [0.0] * len(columns)
        left_out = set()
        for s, share in enumerate(batch.shares[i]):
            for j, value in enumerate(added(batch.terms(s, columns), scale)):
                targets[j] += share / batch.weight[i] * value
            if share and batch.case.targets == "identity":
                left_out |= {
                    j
                    for j in range(len(batch.t), len(columns))
                    if batch.same(batch.t[s], batch.ids[s], columns[j][0], columns[j][1])
                }
        kept = [j for j in range(len(columns)) if j not in left_out]
        yield i, [dot(z, columns[j][0]) for j in kept], [targets[j] for j in kept]


def infonce(case: Case) -> float:
    batch = Batch(case)
    total = 0.0
    for i, cosines, targets in image_rows(batch, scale=True):
        chances = softmax([s / case.tau for s in cosines])
        total -= batch.weight[i] * sum(p * cmath.log(q) for p, q in zip(targets, chances, strict=True) if p)
    return total / batch.total


def text_to_image(case: Case) -> float:
    batch = Batch(case)
    own = batch.columns()[: len(batch.t)]
    images = [k for k in range(len(batch.z)) if batch.weight[k]]
    total = 0.0
    for i, t in enumerate(batch.t):
        terms = []
        for weight, row in batch.terms(i, own):
            terms.append((weight, [sum(row[j] * batch.shares[k][j] for j in range(len(own))) for k in images]))
        targets = added(terms, scale=True)
        chances = softmax([dot(t, batch.z[k]) / case.tau for k in images])
        present = sum(shares[i] for shares in batch.shares)
        total -= present * sum(p * cmath.log(q) for p, q in zip(targets, chances, strict=True) if p)
    return total / batch.total


def clip(case: Case) -> float:
    return (infonce(case) + text_to_image(case)) / 2


def cosine(case: Case) -> float:
    batch = Batch(case)
    total = 0.0
    for i, z in enumerate(batch.z):
        total += sum(share * (2 - 2 * dot(z, batch.t[j])) for j, share in enumerate(batch.shares[i]))
    return total / batch.total


def sigmoid(case: Case) -> float:
    batch = Batch(case)
    total = 0.0
    for i, cosines, targets in image_rows(batch, scale=False):
        positives = sum(targets)
        odds = positives / max(len(targets) - positives, 1e-6)
        for s, p in zip(cosines, targets, strict=True):
            x = s / case.tau + case.bias + cmath.log(odds)
            total -= batch.weight[i] / positives * (p * log_sigmoid(x) + (1 - p) * log_sigmoid(-x))
    return total / batch.total


def relational(case: Case) -> float:
    batch = Batch(case)
    texts = range(len(batch.t))
    images = [k for k in range(len(batch.z)) if batch.weight[k]]
    alike = [[cmath.exp((dot(batch.t[a], batch.t[b]).real - 1) / case.tau_t).real for b in texts] for a in texts]
    total = 0.0
    for i in images:
        others = [k for k in images if k != i]
        if not others:
            continue
        wanted = scaled(
            [sum(batch.shares[i][a] * alike[a][b] * batch.shares[k][b] for a in texts for b in texts) for k in others]
        )
        chances = softmax([dot(batch.z[i], batch.z[k]) / case.tau for k in others])
        total += batch.weight[i] * sum(p * cmath.log(p / q) for p, q in zip(wanted, chances, strict=True) if p)
    return total / batch.total


def loss_targets(names):
    """Pairs of a loss and a kind of targets that means something to it."""
    return [
        (name, targets)
        for name in names
        for targets in ("identity", "same", *(("label", "similarity") if find_loss(name)[1].uses_targets else ()))
    ]


LOOPS = {"clip": clip, "infonce": infonce, "cosine": cosine, "sigmoid": sigmoid, "relational": relational}
