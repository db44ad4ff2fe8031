"""Find refusals and apologies: the model speaks of itself instead of the image."""

# ruff: noqa: RUF001 - letters and punctuation of other scripts

from __future__ import annotations

import re

from gpt4image.llm.base import FILTERS, plain_reason
from gpt4image.quality.words import APOSTROPHE, remove_quotes

# Pieces of the patterns below. Only a sentence that begins with one of them is a refusal.
START = r"(?:^|(?<=[.!?—\n。！？]))[\s*_>\"'-]*"  # of a sentence
LEAD = (
    r"(?:(?:but|however|unfortunately|regrettably|currently|therefore|thus|so|and|since|as|because|certainly|"
    r"at\s+the\s+moment)[,!\s]+)*"
)
JOINT = r"(?<=[,;])\s+(?:(?:so|but|and|because|since|therefore)\s+)"  # of two clauses
SEEMS = r"(?:(?:it\s+)?(?:seems|looks|appears)\s+(?:like\s+|that\s+)*)?"
GAP = r"[^.!?\n]"
WE = r"(?:i|we)\b"
CANNOT = (
    r"(?:\s+(?:can(?:no|')t|can\s+not|could(?:n't|\s+not)|won't|will\s+not)"
    r"|(?:\s+am|'m|\s+are|'re)\s+(?:not\s+able|unable|not\s+allowed|not\s+permitted|not\s+going)\s+to"
    r"|\s+must\s+(?:respectfully\s+)?(?:decline|refuse)\s+to"
    r"|(?:'d|\s+would)\s+(?:rather\s+not|prefer\s+not\s+to)"
    r"|\s+(?:do\s+not|don't)\s+have\s+(?:the\s+)?(?:ability|capability|permission)\s+to)"
    r"(?:\s+(?:be\s+able\s+to|actually|currently|directly|really|reliably|accurately|provide\s+help\s+or))*"
)
PICTURE = r"(?:images?|pictures?|photos?|photographs?|files?|links?|attachments?|urls?|visuals?|contents?)\b"
PERSON = r"(?:people|persons?|individuals?|someone|anyone|faces?|who)\b"
SERVE = (
    r"(?:help|assist|comply|complete|fulfil+|provide|describe|generate|caption|engage|continue|answer|support|comment|"
    r"proceed|respond|discuss|transcribe|do\s+that)\b"
)
PERCEIVE = r"(?:see|view|access|open|retrieve|process|analy[sz]e|interpret|look\s+at|load|display|read)\b"
NAME = r"(?:identify|recogni[sz]e|name|determine|confirm)\b"
GIVE = r"(?:upload|re-upload|provide|share|attach|send|resend)\b"
GIVEN = r"(?:uploaded|provided|attached|shared|included|sent|supplied)\b"

ENGLISH = (
    # "I'm sorry, but...", "I am afraid that I..."; not "I'm Sorry greeting card"
    r"(?:i'm|i\s+am|we're|we\s+are)\s+(?:\w+\s+)?sorry(?:\s*[,.;:!—-]|\s+(?:but|for|that|about|if|i|we)\b)",
    r"(?:i'm|i\s+am)\s+afraid\s+(?:that\s+)?i\b",
    rf"(?:sorry|apologies)\b{GAP}{{0,60}}\b(?:i|we)(?:{CANNOT}|\s+don't)",
    r"(?:my\s+(?:\w+\s+)?apologies|i\s+(?:\w+\s+)?apologi[sz]e|apologies\s+for)\b",
    # "I cannot help with that", "I'm unable to view images", "I can't identify people"
    rf"{LEAD}{WE}{CANNOT}\s+{SERVE}",
    rf"{LEAD}{WE}{CANNOT}\s+{PERCEIVE}{GAP}{{0,30}}\b{PICTURE}",
    rf"{LEAD}{WE}{CANNOT}\s+{NAME}\s+(?:or\s+\w+\s+)?(?:\w+\s+)?{PERSON}",
    rf"{LEAD}{WE}\s+(?:must\s+)?(?:respectfully\s+)?decline\b",
    rf"{LEAD}i\s+(?:do\s+not|don't|did\s+not|didn't)\s+(?:actually\s+)?(?:see|have|receive|find)\s+(?:access\s+to\s+)?"
    rf"(?:any|an|the|your|this)\s+{PICTURE}",
    r"it(?:'s|\s+is)\s+(?:not\s+possible|impossible)\s+for\s+me\s+to\b",
    # "As an AI language model", "I am a text-based assistant"
    rf"as\s+an?\s+(?:\w+[\s-]+)?(?:ai|artificial\s+intelligence|language\s+model|text-(?:based|only))\b{GAP}{{0,40}}"
    r"[,\s]+(?:i|my)\b",
    r"(?:i'm|i\s+am)\s+(?:just\s+|only\s+)?an?\s+(?:\w+[\s-]+)?"
    r"(?:ai|artificial\s+intelligence|language\s+model|text-(?:based|only))\b",
    r"my\s+(?:guidelines|policies|programming|instructions)\b",
    # "Please upload an image", "No image was provided", "the image did not load"
    rf"(?:if\s+you\s+(?:could|can)\s+|(?:could|can)\s+you\s+)?(?:please\s+)?{GIVE}\s+(?:\w+\s+){{0,3}}{PICTURE}",
    rf"{SEEMS}(?:there\s+(?:is|was)|there's|i\s+see)\s+no\s+{PICTURE}(?=\s*(?:[.,;!]|$)|\s+(?:here|to\s+\w+)\b)",
    rf"{SEEMS}(?:there\s+(?:is|was)\s+|there's\s+)?no\s+{PICTURE}\s+(?:was\s+|were\s+|has\s+been\s+|is\s+)?{GIVEN}",
    rf"{SEEMS}the\s+{PICTURE}\s+(?:is|was)\s+(?:missing\s*(?:[.,;!]|$)|not\s+{GIVEN})",
    rf"{SEEMS}you\s+(?:have\s+not|haven't|did\s+not|didn't|forgot\s+to)\s+(?:\w+\s+)?(?:{GIVE}|{GIVEN})",
    rf"{SEEMS}the\s+{PICTURE}\s+(?:you\s+\w+\s+)?(?:did\s+not|didn't|could\s+not|couldn't|failed\s+to|cannot|can't)\s+"
    r"(?:be\s+)?(?:load|upload|display|viewed|processed|opened|accessed|retrieved)",
    rf"i\s+need\s+(?:the|an|your)\s+(?:\w+\s+)?{PICTURE}",
    rf"unable\s+to\s+{PERCEIVE}\s+(?:the|this|your|any)\s+(?:\w+\s+)?{PICTURE}",
    r"(?:this|the|your)\s+(?:request|image|content)\s+(?:violates|goes\s+against|may\s+violate)\b",
    r"(?:this|that|it)\s+(?:violates|goes\s+against)\s+(?:my|our|the)\b",
)

# Refusals in the second clause of a sentence
JOINED = (
    rf"i{CANNOT}\s+(?:{SERVE}|{PERCEIVE})\s+(?:(?:it|this|that|them)(?=\s*[.,;!]|$)|(?:the|this|any)\s+{PICTURE})",
    rf"{SEEMS}(?:there\s+(?:is|was)|there's|i\s+see)\s+no\s+{PICTURE}\s+{GIVEN}",
)


OTHERS = (
    # German
    r"(?:es\s+)?tut\s+mir\s+(?:sehr\s+|wirklich\s+)?leid\b",
    rf"(?:entschuldigung,\s+(?:aber\s+)?)?(?:leider\s+)?(?:kann\s+ich|ich\s+kann)\b{GAP}{{0,40}}\b(?:nicht|keine?n?)\b"
    rf"{GAP}{{0,40}}\b(?:helfen|beschreiben|sehen|anzeigen|öffnen|erkennen|identifizieren|weiterhelfen|beantworten|"
    r"verarbeiten)\b",
    r"als\s+(?:ki|künstliche\s+intelligenz|sprachmodell)\b",
    # French
    r"(?:je\s+suis\s+(?:vraiment\s+)?)?désolée?\s*[,.!]?\s*(?:mais\b|je\b|pour\b|,)",
    r"je\s+(?:ne\s+)?(?:peux|suis)\s+pas\s+(?:en\s+mesure\s+de\s+)?(?:vous\s+)?"
    r"(?:aider|décrire|voir|identifier|fournir|répondre|analyser|accéder)",
    r"en\s+tant\s+qu(?:e|')\s*(?:modèle|ia|intelligence\s+artificielle)\b",
    # Spanish
    r"(?:lo\s+siento|lo\s+lamento|disculp[ae])\s*[,.!]",
    r"no\s+(?:puedo|soy\s+capaz\s+de|me\s+es\s+posible)\s+"
    r"(?:ayudar|describir|ver|identificar|proporcionar|acceder|analizar|procesar)",
    r"como\s+(?:un\s+)?modelo\s+de\s+(?:lenguaje|ia)\b",
    # Portuguese
    r"(?:sinto\s+muito|desculpe|lamento)\s*[,.!]",
    r"não\s+(?:posso|consigo)\s+(?:ajudar|descrever|ver|identificar|fornecer|acessar|analisar|processar)",
    r"como\s+(?:um\s+)?modelo\s+de\s+linguagem\b",
    # Italian
    r"(?:mi\s+dispiace|spiacente)\s*[,.!]",
    r"non\s+(?:posso|sono\s+in\s+grado\s+di)\s+(?:aiutar|descriver|veder|identificar|fornir|acceder|analizzar)",
    r"come\s+modello\s+linguistico\b",
    # Dutch
    r"het\s+spijt\s+me\b",
    rf"(?:helaas\s+)?(?:ik\s+kan|kan\s+ik)\b{GAP}{{0,40}}\b(?:niet|geen)\b{GAP}{{0,40}}"
    r"\b(?:helpen|beschrijven|zien|bekijken|identificeren)\b",
    # Polish
    r"przykro\s+mi\b",
    r"nie\s+mogę\s+(?:pomóc|opisać|zobaczyć|zidentyfikować)",
    # Russian
    rf"(?:извините|простите|к\s+сожалению)\s*,{GAP}{{0,40}}\bне\s+(?:могу|можем)\b",
    r"я\s+не\s+могу\s+(?:помочь|описать|увидеть|просматривать|определить|выполнить)",
    # Chinese
    r"(?:很|非常)?(?:抱歉|对不起|對不起)[,，。!！我]",
    r"我(?:无法|無法|不能)(?:查看|看到|描述|识别|識別|辨識|提供|处理|處理|读取|讀取|协助|協助|帮助|幫助|回答)",
    r"作为(?:一个|一個)?(?:ai|人工智能|语言模型)",
    # Japanese, Korean
    r"申し訳(?:ありません|ございません)",
    r"죄송(?:합니다|하지만)",
)

PATTERN = re.compile(
    f"{START}(?:{'|'.join((*ENGLISH, *OTHERS))})|{JOINT}(?:{'|'.join(JOINED)})",
    re.IGNORECASE,
)
QUOTES = '"\u201c\u201d \n'
SHOWN = 80  # characters of the detail


def find_refusal(text: str, finish_reason: str | None = None) -> str | None:
    """Return the words with which a model refuses, apologises or says that it sees no image, else None.

    Only the start of a sentence outside quotation marks counts: a dog that refuses to move, a letter of apology and a
    sign saying "sorry" are things to describe.

    >>> find_refusal("I'm sorry, but I can't help with that.")
    "I'm sorry, but I can't help with that."
    >>> find_refusal("A dog refuses to leave the sofa.")
    """
    if plain_reason(finish_reason).startswith(FILTERS):
        return f"withheld by the server: {finish_reason}"
    plain = remove_quotes(text.replace(APOSTROPHE, "'").strip(QUOTES))
    found = PATTERN.search(plain)
    return plain[found.start() :].strip()[:SHOWN] if found else None
