"""Labels that do not look like one class per image: numbers to predict, several labels, image names, one class in two
spellings, or folders that contain the classes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from gpt4image.core.console import say
from gpt4image.core.errors import DataError
from gpt4image.core.format import counted
from gpt4image.core.tables import compose
from gpt4image.images.sources.listing import NUMBER, Listing

SHOWN = 3  # labels that a message lists
MANY = 20  # fewer distinct numbers, or images, are not conclusive
FEW_IMAGES = 10  # images per class; measured numbers have fewer, and gaps between them

SEPARATORS = re.compile(r"\s*[,;|]\s*")
WEAK_SEPARATORS = re.compile(r"\s*[+&/]\s*|\s+")  # names of single classes contain them too
JOINTS = re.compile(r"\s+and\s+|[\s_-]+", re.IGNORECASE)  # salt and pepper is one class, or two
RATINGS = 5  # distinct numbers with fractions
YEAR = re.compile(r"(?:1[89]|20)\d\d(?:[-_. ]?[01]\d)?(?:[-_. ]?[0-3]\d)?")
TIME = re.compile(r"\d{1,2}:[0-5]\d(?::[0-5]\d)?(?:[.,]\d+)?(?: ?[ap]m)?", re.IGNORECASE)
DATE = re.compile(
    rf"(?:{YEAR.pattern}|\d{{1,2}}[./-]\d{{1,2}}[./-](?:\d\d){{1,2}}|\d{{1,2}}\.? [a-z]{{3,9}}\.? \d{{4}})"
    rf"(?:[T ]{TIME.pattern}(?:Z|[-+]\d\d:?\d\d)?)?",
    re.IGNORECASE,
)
YEARS = 3
# A number that may follow a currency sign or a sign such as < and may precede a unit.
WITH_UNIT = re.compile(r"[$€£¥<>≤≥~]?\s*(?P<number>[-+]?\d+(?:,\d{3})*(?:\.\d+)?)\s*(?P<unit>[^\d\s,;|/]{0,12})")
CLASS_WORDS = "class|type|grade|level|categor|label|stage|cluster|kind|species|group|[^a-z]*$"  # of numbered classes
# Labels that may be a class or a word for a missing label.
UNCLEAR = re.compile(
    "<?(?:none|unknown|undefined|missing|nil|na|n[.]a[.]|not (?:available|annotated|labell?ed)|no label|empty|blank|"
    "tbd|todo|unspecified|unassigned|-1)>?",
    re.IGNORECASE,
)
# Marks without width; and characters that look like a hyphen, an apostrophe, a quotation mark or a space.
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e01ef]"
)
LOOK_ALIKES = {
    "-": re.compile("[\u02d7\u058a\u05be\u1806\u2010-\u2015\u2043\u2212\u2796\u2e3a\u2e3b\ufe58\ufe63\uff0d]"),
    "'": re.compile(
        "[`\u00b4\u02b9\u02bb-\u02be\u02c8\u02ca\u02cb\u0374\u055a\u05f3\u2018-\u201b\u2032\u2035\ua78c\uff07\uff40]"
    ),
    '"': re.compile("''|[\u00ab\u00bb\u02ba\u02ee\u05f4\u201c-\u201f\u2033\u2036\u275d\u275e\u301d-\u301f\uff02]"),
    " ": re.compile("[\u115f\u1160\u2800\u3164\uffa0]"),
}
SCIENTIFIC = re.compile(r"[-+]?\d+(?:\.\d*)?e[-+]?\d{1,2}", re.IGNORECASE)  # as NumPy writes numbers
LIST = re.compile(r"\[.*\]|\{.*\}|\(.*,.*\)")  # as Python or JSON writes several values


def check_label_forms(listing: Listing, source: str) -> None:
    """Raise DataError if the labels do not look like classes; the message says why, and how to keep them."""
    if listing.has_label_sets:
        alike = find_alike(list(listing.classes))
        if alike:
            raise DataError(
                f"{source}: the labels look like one class in several spellings: {', '.join(map(quote, alike))}. Use "
                "one spelling for each class. If they are different classes, set unusual_labels to keep "
                "(--unusual-labels keep)."
            )
        return
    counts = np.bincount(listing.rows["label"].to_numpy() + 1, minlength=len(listing.classes) + 1)[1:]
    classes = [name for name, count in zip(listing.classes, counts.tolist(), strict=True) if count]
    images = int(counts.sum())
    plain = plain_numbers(classes)
    several, alike = find_several(plain), find_alike(classes)
    shared = shared_folders(listing) if listing.folders else []
    if shared:
        looks, shown = f"parts of the set, which contain the folders {', '.join(shared[:SHOWN])}", classes
        remedy = "Call folders of splits train, validation and test, or put the class folders at the top"
    elif alike:
        looks, shown = "one class in several spellings", alike
        remedy = "Use one spelling for each class"
    elif several:
        looks, shown = "several labels of an image in one", several
        remedy = (
            "If an image has several labels, name what separates them with label_separator (--label-separator); else "
            "leave one in each, or name another column with label_column (--label-column)"
        )
    elif not listing.folders and are_measured(plain, images):
        looks, shown = "numbers or dates to predict (regression)", classes
        remedy = "Name a column of classes with label_column (--label-column), or group the numbers into classes"
    elif images >= MANY and 2 * len(classes) > images:
        looks, shown = "names or texts of individual images", classes
        remedy = "Name a column of classes with label_column (--label-column)"
    else:
        _report_unclear(listing.classes, counts.tolist())
        return
    examples = ", ".join(map(quote, shown[:SHOWN]))
    raise DataError(
        f"{source}: the labels look like {looks}, not like classes: {len(classes):,} different ones of "
        f"{counted(images, 'image')}, such as {examples}. {remedy}. If they are classes, set "
        "unusual_labels to keep (--unusual-labels keep)."
    )


def _report_unclear(classes: Sequence[str], counts: Sequence[int]) -> None:
    known = frozenset(classes)
    joined = [name for name in classes if is_joined(name, known)]
    if joined:
        examples = ", ".join(map(repr, joined[:SHOWN]))
        say(
            f"labels: some class names combine others ({examples}). If these mean several labels per image, leave one "
            "label per image, or see multi-label (--task).",
            "yellow",
        )
    for name, count in zip(classes, counts, strict=True):
        if count and UNCLEAR.fullmatch(name):
            say(
                f"labels: {name!r} is used as a class, with {counted(count, 'image')}. If it means that the label is "
                "missing, empty these cells, or name the folder unlabelled.",
                "yellow",
            )


def find_several(classes: list[str]) -> list[str]:
    """Return the class names that consist of others.

    A list of synonyms does not: its parts are no classes, and occur in no other list.

    >>> find_several(["animals", "animals,food", "food"]), find_several(["crane", "tench, Tinca tinca"])
    (['animals,food'], [])

    White space and slashes stand in names of single classes as well. They separate labels if each part is a class of
    its own, or if names of all lengths are made of few words.

    >>> find_several(["cat", "dog", "cat dog"]), find_several(["sea lion", "sea snake", "lion"])
    (['cat dog'], [])
    """
    weak = {name: WEAK_SEPARATORS.split(name.strip()) for name in classes}
    several = [name for name in classes if len(weak[name]) > 1 and all(part in weak for part in weak[name])]
    vocabulary = {part for split in weak.values() for part in split}
    if several or (len(set(map(len, weak.values()))) > 2 and len(classes) > 2 * len(vocabulary)):
        return several or [name for name in classes if len(weak[name]) > 1]
    parts = {name: SEPARATORS.split(name.strip()) for name in classes}
    uses = Counter(part for split in parts.values() if len(split) > 1 for part in set(split))
    atoms = {part for part, count in uses.items() if part in parts or count > 1}
    return [
        name for name in classes if LIST.fullmatch(name) or (len(parts[name]) > 1 and atoms.issuperset(parts[name]))
    ]


def is_joined(name: str, classes: Collection[str]) -> bool:
    """Whether a class name is made of others by "and", a hyphen or the like: it may mean several labels, or a class.

    Grades in words are no such names, and stay classes like grades in digits: they are few, with many images each.

    >>> is_joined("salt and pepper", {"salt", "pepper", "salt and pepper"}), is_joined("2 stars", {"1 star", "2 stars"})
    (True, False)
    """
    parts = JOINTS.split(name.strip())
    return len(parts) > 1 and all(part in classes for part in parts)


def find_alike(classes: list[str]) -> list[str]:
    """Return the first class names that differ only in case, width, spaces, marks without width, characters that look
    the same or forms of a number; letters alone may differ in case.

    >>> find_alike(["Sea_lion", "sea lion", "otter"]), find_alike(["01", "1.0e+00"]), find_alike(["a", "A"])
    (['Sea_lion', 'sea lion'], ['01', '1.0e+00'], [])
    """
    groups: dict[str, list[str]] = {}
    for name in classes:
        words = re.sub(r"[\s_]+|(?<=\w)-+(?=\w)", " ", plain_characters(name)).strip()
        plain = words.casefold() if len(words) > 1 else words
        plain = f"{float(plain):g}" if SCIENTIFIC.fullmatch(plain) else re.sub(r"^0+(?=\d)", "", plain)
        groups.setdefault(plain, []).append(name)
    return next((group for group in groups.values() if len(group) > 1), [])


def plain_characters(name: str) -> str:
    """Return a name without marks that have no width, and with one character for all that look like it.

    A name of one character is kept: it may be a class of symbols.

    >>> plain_characters("T\u2010shirt"), plain_characters("driver\u2019s\u00a0seat"), plain_characters("s\u200bea")
    ('T-shirt', "driver's seat", 'sea')
    """
    name = INVISIBLE.sub("", name)
    if len(name) > 1:
        for plain, others in LOOK_ALIKES.items():  # before NFKC, which takes some of them apart
            name = others.sub(plain, name)
    return unicodedata.normalize("NFKC", name)


def quote(name: str) -> str:
    """Return a name in quotation marks, with escapes for the marks and characters that `plain_characters` replaces.

    >>> print(quote("Caf\u00e9"), quote("T\u2010shirt"))
    'Caf\u00e9' 'T\\u2010shirt'
    """
    pattern = "|".join(each.pattern for each in (INVISIBLE, *LOOK_ALIKES.values()))
    return re.sub(pattern, lambda found: found[0].encode("unicode_escape").decode(), repr(name))


def shared_folders(listing: Listing) -> list[str]:
    """Return the names of the folders that all classes hold, if there are several and they are most of them.

    Where the classes are years or dates, which are rarely meant, all folders in them are returned. Where they are
    numbered (`batch1`, `batch2`), and hold mostly folders that others hold as well, these are. Under other names, such
    classes are pointed out.
    """
    inner: dict[int, set[str]] = {}
    paths, labels = listing.rows["path"].to_pylist(), listing.rows["label"].to_pylist()
    folders = {(path.rpartition("/")[0], label) for path, label in zip(paths, labels, strict=True) if label >= 0}
    for folder, label in sorted(folders, key=lambda found: found[1]):
        # The class, then the folder in it; a split folder may be above.
        names = folder.split("/")
        at = next((n for n, name in enumerate(names[:2]) if compose(name) == compose(listing.classes[label])), 0)
        inner.setdefault(label, set()).update(names[at + 1 : at + 2])
    shared = set.intersection(*inner.values()) if len(inner) > 1 else set()
    every = set.union(*inner.values()) if inner else set()
    if all(inner.values()) and len(every) > 1 and all(YEAR.fullmatch(listing.classes[label]) for label in inner):
        return sorted(every)
    if len(shared) > 1 and 2 * len(shared) > len(every):
        return sorted(shared)
    uses = Counter(name for names in inner.values() for name in names)
    common = sorted(name for name, count in uses.items() if count > 1)
    mostly = 2 * sum(uses[name] for name in common) > uses.total()
    if not (all(inner.values()) and len(common) > 1 and mostly) or are_numbered(every):
        return []
    above = [listing.classes[label] for label in inner]
    if are_numbered(above) and not re.match(CLASS_WORDS, above[0].casefold()):
        return common
    say(
        f"labels: the classes {', '.join(above[:SHOWN])} contain some of the same folders "
        f"({', '.join(common[:SHOWN])}). If these are the classes, put them at the top.",
        "yellow",
    )
    return []


def are_numbered(names: Collection[str]) -> bool:
    """Whether names differ in a number, a letter or a date at their end only.

    >>> are_numbered(["batch1", "batch 2", "Batch_03"]), are_numbered(["set_a", "set_b"]), are_numbered(["cat", "rat"])
    (True, True, False)
    """
    return len({re.sub(r"[\W_]*(?:[\d\W_]+|(?<=[\W_])[a-z])$", "", name.casefold()) for name in names}) == 1


def plain_numbers(classes: list[str]) -> list[str]:
    """Return numbers with a decimal comma, an exponent or one unit as Python writes them, other names as they are.

    >>> plain_numbers(["0,5", "12,25 %"]), plain_numbers(["5%", "7.5 %"]), plain_numbers(["1", "1,2"])
    (['0.5', '12.25'], ['5', '7.5'], ['1', '1,2'])
    >>> plain_numbers(["1 year", "35 years"]), plain_numbers(["$1,000", "$2.50"]), plain_numbers(["5 cats", "7 dogs"])
    (['1', '35'], ['1000', '2.50'], ['5 cats', '7 dogs'])
    """
    bare = [re.sub(r"\s*%$", "", name) for name in classes]
    if all(re.fullmatch(r"-?\d+,\d{1,2}|-?\d+,\d{4,}", name) for name in bare):
        return [name.replace(",", ".") for name in bare]
    if all(map(NUMBER.fullmatch, bare)):
        return bare
    if all(map(SCIENTIFIC.fullmatch, bare)):
        return [np.format_float_positional(float(name), trim="0") for name in bare]
    found = [WITH_UNIT.fullmatch(name) for name in bare]
    units = {match and match["unit"].casefold().rstrip("s.") for match in found}
    if len(units) > 1 or None in units:
        return classes
    return [match["number"].replace(",", "").lstrip("+") for match in found if match]


def are_measured(classes: list[str], images: int) -> bool:
    """Whether class names are dates or numbers as measured: with fractions, or with gaps and few images each.

    Args:
        classes: the class names.
        images: number of labelled images.
    """
    if len(classes) >= YEARS and all(map(DATE.fullmatch, classes)):
        return True
    if len(classes) >= RATINGS and all(map(TIME.fullmatch, classes)):
        return True
    if not all(NUMBER.fullmatch(name) for name in classes):
        return False
    numbers = np.array(list(map(float, classes)))
    fractions = bool((numbers % 1).any())
    gaps = bool(len(numbers)) and numbers.max() - numbers.min() + 1 > len(numbers)
    few = images < FEW_IMAGES * len(classes)
    return (fractions and (few or len(classes) >= RATINGS)) or (gaps and few and len(classes) >= MANY)
