"""A quality report in the terminal."""

from __future__ import annotations

from gpt4image.core.format import counted
from gpt4image.quality.check_record import Finding, Knowledge, Probe, QualityReport

MEANINGS = "  mend: leave these texts out, or have them written again; look: judge them on the page; know: no harm"


def report_lines(report: QualityReport) -> list[str]:
    """What a person should know first, a line each; the page has the rest."""
    head = (
        f"{report.described:,} of {counted(report.images, 'image')} described, {counted(report.texts, 'text')}, "
        f"{report.distinct_texts:,} of them distinct"
    )
    failed = [f"failed: {count:,} {reason}" for reason, count in report.failed.items()]
    return [head, *failed, *finding_lines(report.findings), *knowledge_lines(report), *report.notes]


def finding_lines(findings: list[Finding]) -> list[str]:
    """The findings as a table."""
    if not findings:
        return ["Nothing was found in the texts."]
    rows = [
        f"  {finding.kind:13} {finding.count:8,} {finding.share:7.1%}  {finding.severity:4}  {finding.title}"
        for finding in findings
    ]
    return [f"  {'finding':13} {'texts':>8} {'share':>7}  to", *rows, MEANINGS]


def knowledge_lines(report: QualityReport) -> list[str]:
    """What the texts know that the model does not."""
    known = report.knowledge
    if known is None:
        return [f"What the texts know was not measured: {report.no_knowledge}"]
    return [known.title, f"  {accuracies(known)}", known.advice]


def accuracies(known: Knowledge) -> str:
    """The classifiers' accuracies side by side."""
    return (
        f"texts alone {percent(known.text)}, {known.backbone} {percent(known.image)}, both {percent(known.both)}; "
        f"{counted(known.images, 'image')}, out of fold"
    )


def percent(probe: Probe) -> str:
    """An accuracy in percent.

    >>> percent(Probe(accuracy=0.8164, low=0.79, high=0.84))
    '81.6%'
    """
    return f"{100 * probe.accuracy:.1f}%"
