"""Uses of a trained model's text space: search by words, zero-shot classification, and a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

import numpy as np

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, ImageError
from gpt4image.core.files import digest
from gpt4image.core.format import counted
from gpt4image.core.options import WORK
from gpt4image.core.workdir import WorkDir
from gpt4image.images.decode import MAX_PIXELS
from gpt4image.images.load import load_pictures
from gpt4image.images.thumbnails import thumbnail
from gpt4image.report.search_pages import MapPoint, Match, write_map_page, write_search_page

if TYPE_CHECKING:
    from gpt4image.images import ImageTable
    from gpt4image.probing.intervals import Interval
    from gpt4image.soft_labels import ClassTexts
    from gpt4image.train.text_space import TextSpace

MapMethod = Literal["tsne", "pca"]
MAP_PIXELS = 96  # width and height of an image on the map
COMPONENTS = 50  # principal components that t-SNE starts from (van der Maaten and Hinton, JMLR 9, 2008, section 4.2)
PERPLEXITY = 30.0


@dataclass(frozen=True)
class PictureIndex:
    """Images with their vectors in the text space of a run.

    Attributes:
        images: the images.
        rows: table positions of the images that could be read, int64 [N].
        vectors: their unit vectors, float32 [N, D].
        space: the text space.
        texts: the description of each [N]; None without one.
    """

    images: ImageTable
    rows: np.ndarray
    vectors: np.ndarray
    space: TextSpace
    texts: list[str | None]

    @property
    def model(self) -> str:
        """Name of the run."""
        return self.space.run.layout.folder.name

    def match(self, at: int, score: float, pixels: int | None = None) -> Match:
        """Return the match for an image, with a thumbnail of `pixels` width and height unless that is None."""
        row = int(self.rows[at])
        picture = None
        if pixels is not None:
            try:
                picture = thumbnail(self.images.image(row), pixels)
            except ImageError:  # it was deleted or changed since
                picture = None
        return Match(
            path=self.images.path(row),
            score=score,
            label=self.images.label_of(row),
            text=self.texts[at],
            thumbnail=picture,
        )


class IndexSettings(TypedDict, total=False):
    """Settings of `index_pictures`."""

    run: str | Path | None
    work: str | Path
    image_column: str | None
    max_pixels: int
    workers: int


def index_pictures(
    source: str,
    *,
    run: str | Path | None = None,
    work: str | Path = WORK,
    image_column: str | None = None,
    max_pixels: int = MAX_PIXELS,
    workers: int = 0,
) -> PictureIndex:
    """Embed images into the text space of a run, for any number of searches, zero-shot predictions and maps.

    Vectors are kept in the work directory, so only new images take time.

    Args:
        source: images of any source, or a folder of images without classes.
        run: folder of the run; by default the first one in the work directory that was aligned with texts.
        work: the work directory.
        image_column: the column that holds the images, if it cannot be recognised.
        max_pixels: largest width x height to decode.
        workers: processes that load images.

    Raises:
        ConfigError: no run was aligned with texts.
        DataError: the source cannot be used.
        StoreError: the run is not finished, or its heads were not kept.
    """
    work = Path(work)
    from gpt4image.train.identity import require_finished
    from gpt4image.train.spec import find_aligned_run

    workdir = WorkDir(work)
    run = Path(run) if run else find_aligned_run(work)
    require_finished(run)
    with console.doing("Loading the model"):
        from gpt4image.teachers.embedding import embed_images
        from gpt4image.teachers.models import ProjectedTeacher
        from gpt4image.train.run import open_run
        from gpt4image.train.text_space import open_text_space

        space = open_text_space(open_run(run))
        teacher = ProjectedTeacher(space)
    frames = space.run.frames
    images = load_pictures(source, work=work, image_column=image_column, frames=frames, max_pixels=max_pixels)
    if images.rejected:
        console.say(
            f"left out: {counted(len(images.rejected), 'file')}, such as {images.rejected[0].path} "
            f"({images.rejected[0].reason})"
        )
    folder = workdir.image_embeddings(f"{teacher.name}-{digest(str(Path(source).absolute()))[:8]}")
    store = embed_images(images, teacher, folder, workers=workers)
    places = store.find(images.ids)
    rows = np.flatnonzero(places >= 0)
    vectors = store.take(places[rows]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return PictureIndex(images, rows, vectors, space, known_texts(images, rows, workdir))


def _open_index(source: str | PictureIndex, settings: IndexSettings) -> PictureIndex:
    if isinstance(source, str):
        return index_pictures(source, **settings)
    if settings:
        raise TypeError(f"{', '.join(settings)}: settings of index_pictures, and the images are indexed already")
    return source


def known_texts(images: ImageTable, rows: np.ndarray, workdir: WorkDir) -> list[str | None]:
    """Return the first description of each image in the work directory; None for images without one."""
    import pyarrow.parquet as pq

    if not workdir.descriptions.exists():
        return [None] * len(rows)
    table = pq.read_table(workdir.descriptions, columns=["id", "text"])
    ids, texts = table["id"].to_pylist(), table["text"].to_pylist()
    first = dict(zip(reversed(ids), reversed(texts), strict=True))
    return [first.get(value.decode()) for value in images.ids[rows].tolist()]


def search_images(
    source: str | PictureIndex,
    query: str,
    *,
    top: int = 12,
    page: str | Path | None = None,
    **settings: Unpack[IndexSettings],
) -> list[Match]:
    """Search images by words, with a model that was trained on descriptions and its projector.

    Args:
        source: images of any source, or a folder of images without classes, or their index.
        query: what to look for, such as "a red tool with a wooden handle".
        top: number of images to return.
        page: HTML page to write them to; by default none.
        settings: settings of `index_pictures`, which indexes the images of a source.

    Returns:
        The best matches in descending order; `score` is the cosine similarity of image and query, from -1 to 1.

    Raises:
        ConfigError: the query is empty, or no run was aligned with texts.
    """
    if not query.strip():
        raise ConfigError("The query is empty. Say what to look for, such as: a red tool with a wooden handle.")
    index = _open_index(source, settings)
    scores = index.vectors @ index.space.encode([query])[0]
    best = np.argsort(-scores, kind="stable")[:top]
    pixels = 192 if page is not None else None
    matches = [index.match(at, float(scores[at]), pixels) for at in best.tolist()]
    if page is not None:
        write_search_page(Path(page), query, index.images.source, len(index.rows), index.model, matches)
    return matches


@dataclass(frozen=True)
class ZeroShotAnswer:
    """The prediction for one image.

    Attributes:
        path: the image.
        label: its given class, if it has one.
        answers: the most similar classes with their cosine similarity, the best first.
    """

    path: str
    label: str | None
    answers: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class ZeroShotAnswers:
    """The predictions for all images.

    Attributes:
        answers: one for each image.
        accuracy: share of right predictions with its interval, over images whose given class is among the candidate
            classes; None without such images.
        checked: number of these images.
    """

    answers: list[ZeroShotAnswer]
    accuracy: Interval | None
    checked: int


def answer_zero_shot(
    source: str | PictureIndex,
    classes: Sequence[str] | Path | ClassTexts,
    *,
    top: int = 3,
    **settings: Unpack[IndexSettings],
) -> ZeroShotAnswers:
    """Classify images into classes that the model was never trained on, by texts that describe these classes.

    Each class is the mean of the unit vectors of its texts (Radford et al., arXiv 2103.00020, section 3.1.4).

    Args:
        source: images of any source, or a folder of images without classes, or their index.
        classes: names of at least two classes, their texts, or a file of either (`ClassTexts.read`).
        top: number of classes to return per image.
        settings: settings of `index_pictures`, which indexes the images of a source.

    Raises:
        ConfigError: fewer than two classes, or no run was aligned with texts.
    """
    from gpt4image.probing.intervals import wilson_interval
    from gpt4image.soft_labels import ClassTexts

    if isinstance(classes, Path):
        classes = ClassTexts.read(classes)
    elif not isinstance(classes, ClassTexts):
        classes = ClassTexts.of_names(list(dict.fromkeys(classes)))
    if len(classes.names) < 2:
        raise ConfigError("Name at least two classes to choose between (--classes).")
    index = _open_index(source, settings)
    texts = index.space.encode([text for own in classes.texts for text in own])  # [K, D]
    starts = np.cumsum([0, *(len(own) for own in classes.texts[:-1])])
    means = np.add.reduceat(texts, starts, axis=0)  # [C, D]
    scores = index.vectors @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T  # [N, C]
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    answers, hits = [], []
    for at, row in enumerate(index.rows.tolist()):
        own = tuple((classes.names[number], float(scores[at, number])) for number in best[at].tolist())
        given = index.images.label_of(row)
        answers.append(ZeroShotAnswer(index.images.path(row), given, own))
        if given in classes.names:
            hits.append(own[0][0] == given)
    accuracy = wilson_interval(float(np.mean(hits)), len(hits)) if hits else None
    return ZeroShotAnswers(answers, accuracy, len(hits))


def map_images(
    source: str | PictureIndex,
    page: str | Path,
    *,
    method: MapMethod = "tsne",
    most: int = 2000,
    seed: int = 0,
    **settings: Unpack[IndexSettings],
) -> Path:
    """Draw a map of images in text space as an HTML page, on which images with similar vectors are close together.

    Args:
        source: images of any source, or a folder of images without classes, or their index.
        page: the page to write, which contains its images.
        method: `tsne` keeps neighbours together (van der Maaten and Hinton, JMLR 9, 2008), `pca` keeps large distances.
        most: largest number of images on the map; a random sample if there are more.
        seed: seed of the sample and of t-SNE.
        settings: settings of `index_pictures`, which indexes the images of a source.

    Raises:
        ConfigError: fewer than three images, or no run was aligned with texts.
    """
    page = Path(page)
    index = _open_index(source, settings)
    count = len(index.rows)
    if count < 3 or most < 3:
        raise ConfigError(f"A map needs at least 3 images, not {min(count, most)}.")
    chosen = np.arange(count)
    if count > most:
        chosen = np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
        console.say(f"The map shows {most:,} of {counted(count, 'image')}, chosen at random (--most).")
    with console.doing(f"Arranging {counted(len(chosen), 'image')}"):
        places = project(index.vectors[chosen], method, seed)
    points = []
    with console.progress("Drawing pictures", len(chosen)) as meter:
        for at, (x, y) in zip(chosen.tolist(), places.tolist(), strict=True):
            points.append(MapPoint(x=x, y=y, **vars(index.match(at, 0.0, MAP_PIXELS))))
            meter.advance()
    return write_map_page(page, index.images.source, count, index.model, method, points)


def project(vectors: np.ndarray, method: MapMethod, seed: int = 0) -> np.ndarray:
    """Project unit vectors [N, D] to the plane: float64 [N, 2], each axis from 0 to 1. The result is deterministic."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count, width = vectors.shape
    components = 2 if method == "pca" else min(COMPONENTS, count, width)
    places = PCA(components, random_state=seed).fit_transform(vectors.astype(np.float64))
    if method == "tsne" and components > 2:
        perplexity = min(PERPLEXITY, (count - 1) / 3)
        places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(places).astype(np.float64)
    places = places[:, :2] - places[:, :2].min(axis=0)
    return np.asarray(places / np.maximum(places.max(axis=0), 1e-12))
