"""Check, export and import the descriptions of a work directory, and use them to audit the labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gpt4image.core.console import doing
from gpt4image.core.errors import ConfigError
from gpt4image.core.options import CheckOptions, DataOptions, TextOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.images.open import open_images
from gpt4image.workflows.advise import advise_after_check
from gpt4image.workflows.inputs import check_names, find_descriptions, open_descriptions, open_embeddings

if TYPE_CHECKING:
    from gpt4image.descriptions.exchange import DatasetSummary, ImportSummary
    from gpt4image.descriptions.store import DescriptionStore
    from gpt4image.quality.advice import Advice
    from gpt4image.quality.audit_export import AuditFormat
    from gpt4image.quality.audit_record import AuditRecord
    from gpt4image.quality.check_record import QualityReport


def run_check(
    data: DataOptions, text: TextOptions, options: CheckOptions, work: Path
) -> tuple[QualityReport, Advice | None]:
    """Check descriptions, and write the findings and a page into the work directory.

    Returns:
        The findings, and advice on what to train; None, with the reason shown, if something that it needs is missing.

    Raises:
        ConfigError: an invalid setting, or `drop` or `retry` for texts outside the work directory's store.
        DescriptionError: there is no text to check.
    """
    from gpt4image.descriptions.store import DescriptionStore
    from gpt4image.images.thumbnails import image_thumbnails
    from gpt4image.quality import CheckSettings, check_descriptions
    from gpt4image.quality.check_record import ShownAdvice
    from gpt4image.report.descriptions.check_page import write_check_page
    from gpt4image.train.frozen_features import FrozenBackbone

    check_names(text, options.prompt_file, options.checkpoint)
    workdir = WorkDir(work)
    images = open_images(data, workdir)
    store = DescriptionStore(workdir.description_store)
    stored = text.text is None and not store.is_empty
    if options.undo:
        store.mark(
            [key for key, mark in store.marks().items() if mark.verdict in ("drop", "retry")], "keep", "taken back"
        )
    backbone = FrozenBackbone(options.backbone, options.checkpoint, options.image_size) if options.backbone else None
    settings = CheckSettings(
        splits=options.splits,
        prompt_file=options.prompt_file,
        class_in_prompt=options.class_in_prompt,
        language=options.language,
        encoder=text.encoder[0],
        long_text=text.long_text,
        embed_batch=text.embed_batch,
        embed_precision=text.embed_precision,
        backbone=backbone,
    )
    given = None if stored else find_descriptions(images, text, workdir)
    report = check_descriptions(images, work, given, settings, drop=options.drop, retry=options.retry)
    thumbnails = image_thumbnails(images)
    with doing("Writing the page"):
        write_check_page(workdir.description_check, report, thumbnails)
    advice = advise_after_check(images, data, text, options, work)
    if advice is not None:
        head, rest = advice.lines()
        shown = ShownAdvice(head=head, command=advice.command, rest=rest)
        write_check_page(workdir.description_check, report, thumbnails, shown)
    return report, advice


def run_audit(
    data: DataOptions, text: TextOptions, work: Path, *, limit: int, forms: Sequence[AuditFormat] = ()
) -> AuditRecord:
    """List labels that a person should review, and write the list and its page into the work directory.

    Args:
        data: the images.
        text: their descriptions.
        work: the work directory.
        limit: largest number of images of each kind to list.
        forms: other tools to write the audit for, in folders beside the page.

    Raises:
        DescriptionError: no labelled image has a text or a pick.
    """
    from gpt4image.embed import load_encoder
    from gpt4image.images.corrections import read_corrections, read_set_corrections
    from gpt4image.quality.audit import audit_labels
    from gpt4image.quality.audit_export import export_audit
    from gpt4image.quality.set_audit import audit_label_sets
    from gpt4image.report.descriptions.audit_page import write_audit_page

    check_names(text)
    workdir = WorkDir(work)
    images = open_images(data, workdir)
    if images.has_boxes:
        images.check_one_class()
    if images.is_multi_label and forms:
        raise ConfigError(
            f"write (--write) {', '.join(forms)} needs one class per image, and these have several labels: leave it "
            "out."
        )
    descriptions = open_descriptions(images, text, workdir)
    stores = open_embeddings(descriptions, text, workdir)
    encoders = [load_encoder(name, precision=text.embed_precision) for name in text.encoder if stores]
    if images.is_multi_label:
        done = read_set_corrections(data.corrections) if data.corrections is not None else ()
        decided = [(image_id, label) for image_id, each in done for label in (each.given, each.label) if label]
        audit = audit_label_sets(images, descriptions, stores, encoders=encoders, limit=limit, decided=set(decided))
    else:
        gone = read_corrections(data.corrections) if data.corrections is not None else {}
        audit, judgement = audit_labels(
            images, descriptions, stores, encoders=encoders, limit=limit, decided=gone, picks=descriptions.picks
        )
    workdir.audit.parent.mkdir(parents=True, exist_ok=True)
    audit.save(workdir.audit)
    write_audit_page(workdir.audit_page, audit)
    for form in forms:
        export_audit(form, audit, judgement, images, workdir.audit.parent / form)
    return audit


def run_export(
    data: DataOptions,
    work: Path,
    out: Path,
    *,
    images_inside: bool = False,
    with_cost: bool = False,
    prompt_file: Path | None = None,
    repo: str | None = None,
) -> DatasetSummary:
    """Export the descriptions of a work directory as a dataset with a dataset card.

    Args:
        data: the images.
        work: the work directory.
        out: folder for the dataset.
        images_inside: include the images.
        with_cost: include what each text cost.
        prompt_file: file with the user's prompts, which the card then shows in full.
        repo: the repository on the Hub, USER/NAME, that the card should name.

    Raises:
        ConfigError: the folder is not empty.
        DescriptionError: there is no text to export.
    """
    from gpt4image.descriptions.exchange import export_descriptions
    from gpt4image.descriptions.prompts.prompt import read_prompt_file
    from gpt4image.descriptions.store import DescriptionStore

    workdir = WorkDir(work)
    images = open_images(data, workdir)
    store = DescriptionStore(workdir.description_store)
    return export_descriptions(
        store,
        images,
        out,
        images_inside=images_inside,
        with_cost=with_cost,
        prompts=read_prompt_file(prompt_file) if prompt_file else (),
        findings=known_findings(workdir, store),
        repo=repo,
    )


def run_import(
    data: DataOptions, source: Path, work: Path, *, model: str | None, text_column: str | None, skip_orphans: bool
) -> ImportSummary:
    """Import descriptions into a work directory: all of them, or none.

    Raises:
        DescriptionError: a file or row is invalid, or texts belong to no image.
    """
    from gpt4image.descriptions.exchange import import_descriptions
    from gpt4image.descriptions.store import DescriptionStore

    check_names(TextOptions(text=str(source), encoder=()))
    workdir = WorkDir(work)
    images = open_images(data, workdir)
    orphans: Literal["fail", "skip"] = "skip" if skip_orphans else "fail"
    store = DescriptionStore(workdir.description_store)
    return import_descriptions(source, images, store, model=model, text_column=text_column, orphan_texts=orphans)


def known_findings(workdir: WorkDir, store: DescriptionStore) -> dict[str, int]:
    """Return the last check's findings as counts by title, for texts that have not changed since."""
    import pyarrow.compute as pc

    from gpt4image.quality.check_record import QualityReport

    if not workdir.description_findings.exists():
        return {}
    report = QualityReport.load(workdir.description_findings)
    unchanged: set[str] = set()
    for batch in store.current_batches():
        same = pc.and_(pc.is_null(batch["error"]), pc.less_equal(batch["created"], report.created))
        unchanged.update(batch["key"].filter(same).to_pylist())
    counts = {finding.title: len(unchanged.intersection(finding.keys)) for finding in report.findings}
    return {title: count for title, count in counts.items() if count}
