"""Beginnings of sentences with which models refuse, apologise or say that they see no image: regular expressions."""

# ruff: noqa: RUF001 - letters and punctuation of other scripts

from __future__ import annotations

START = r"(?:^|(?<=[.!?—\n。！？]))[\s*_>\"'-]*"
"""Where a sentence begins."""
LEAD = r"(?:(?:but|however|unfortunately|regrettably|currently|as such|so|and|at the moment)[,\s]+)?"
WE = r"(?:i|we)\b"
CANNOT = (
    r"(?:\s+(?:can(?:no|')t|can\s+not|could(?:n't|\s+not)|won't|will\s+not)"
    r"|(?:\s+am|'m|\s+are|'re)\s+(?:not\s+able|unable|not\s+allowed|not\s+permitted)\s+to"
    r"|\s+must\s+(?:respectfully\s+)?(?:decline|refuse)\s+to"
    r"|\s+(?:do\s+not|don't)\s+have\s+(?:the\s+)?(?:ability|capability|permission)\s+to)"
    r"(?:\s+(?:be\s+able\s+to|actually|currently|directly|really|reliably|accurately|provide\s+help\s+or))*"
)
SERVE = (
    r"(?:help|assist|compl(?:y|ete)|fulfil+|provide|describe|generate|caption|engage|continue|answer|support|do\s+that)"
)
PERCEIVE = r"(?:see|view|access|open|process|analy[sz]e|interpret|look\s+at|load|display|read)"
NAME = r"(?:identify|recogni[sz]e|name|determine|confirm)"
PICTURE = r"(?:images?|pictures?|photos?|photographs?|files?|links?|attachments?|urls?|visuals?|content|contents)"
PERSON = r"(?:people|persons?|individuals?|someone|anyone|faces?|who)"

ENGLISH = (
    # "I'm sorry, but...", "I am afraid that I..."; not "I'm Sorry greeting card"
    r"(?:i'm|i\s+am|we're|we\s+are)\s+(?:\w+\s+)?sorry(?:\s*[,.;:!—-]|\s+(?:but|for|that|about|if|i|we)\b)",
    r"(?:i'm|i\s+am)\s+afraid\s+(?:that\s+)?i\b",
    r"(?:sorry|apologies|my\s+apologies|i\s+(?:\w+\s+)?apologi[sz]e)\b[^.!?\n]{0,60}\b(?:i|we)(?:"
    + CANNOT
    + r"|\s+don't)",
    r"(?:my\s+(?:\w+\s+)?apologies\b|i\s+(?:\w+\s+)?apologi[sz]e\b|apologies\s+for\b)",
    # "I cannot help with that", "I'm unable to view images", "I can't identify people"
    LEAD + WE + CANNOT + r"\s+" + SERVE + r"\b",
    LEAD + WE + CANNOT + r"\s+" + PERCEIVE + r"\b[^.!?\n]{0,30}\b" + PICTURE + r"\b",
    LEAD + WE + CANNOT + r"\s+" + NAME + r"\s+(?:or\s+\w+\s+)?(?:\w+\s+)?" + PERSON + r"\b",
    LEAD + WE + r"\s+(?:must\s+)?(?:respectfully\s+)?decline\b",
    LEAD + WE + r"\s+(?:do\s+not|don't|did\s+not|didn't)\s+(?:actually\s+)?(?:see|have|receive|find)\s+"
    r"(?:access\s+to\s+)?(?:any|an|the|your|this)\s+" + PICTURE + r"\b",
    # "As an AI language model", "I am a text-based assistant"
    r"as\s+an?\s+(?:\w+[\s-]+)?(?:ai|artificial\s+intelligence|language\s+model|text-based)\b[^.!?\n]{0,40}[,\s]+(?:i|my)\b",
    r"(?:i'm|i\s+am)\s+(?:just\s+|only\s+)?an?\s+(?:\w+[\s-]+)?(?:ai\b|artificial\s+intelligence|language\s+model|text-based)",
    # "Please upload an image", "No image was provided", "the image did not load"
    r"please\s+(?:upload|provide|share|attach|send|resend|re-upload)\s+(?:the|an?|your|another|me|it)\b",
    r"(?:it\s+(?:seems|looks|appears)\s+(?:like\s+|that\s+)*)?(?:there\s+(?:is|was)\s+)?no\s+"
    + PICTURE
    + r"\s+(?:was|were|has\s+been|is)?\s*(?:provided|attached|uploaded|included|shared)\b",
    r"(?:it\s+(?:seems|looks|appears)\s+(?:like\s+|that\s+)*)?you\s+(?:have\s+not|haven't|did\s+not|didn't|forgot)\b",
    r"(?:it\s+(?:seems|looks|appears)\s+(?:like\s+|that\s+)*)?the\s+"
    + PICTURE
    + r"\s+(?:you\s+\w+\s+)?(?:did\s+not|didn't|could\s+not|couldn't|failed\s+to|cannot|can't)\s+(?:be\s+)?"
    r"(?:load|upload|display|viewed|processed|opened|accessed)",
    r"(?:this|the|your)\s+(?:request|image|content)\s+(?:violates|goes\s+against|may\s+violate)\b",
    r"(?:this|that|it)\s+(?:violates|goes\s+against)\s+(?:my|our|the)\b",
)
OTHERS = (
    # German
    r"(?:es\s+)?tut\s+mir\s+(?:sehr\s+|wirklich\s+)?leid\b",
    r"(?:leider\s+)?(?:kann\s+ich|ich\s+kann)\b[^.!?\n]{0,40}\b(?:nicht|keine?n?)\b[^.!?\n]{0,40}"
    r"\b(?:helfen|beschreiben|sehen|anzeigen|öffnen|erkennen|identifizieren|weiterhelfen|beantworten|verarbeiten)\b",
    r"als\s+(?:ki|künstliche\s+intelligenz|sprachmodell)\b",
    # French
    r"(?:je\s+suis\s+(?:vraiment\s+)?)?désolée?\s*[,.!]?\s*(?:mais\b|je\b|pour\b|,)",
    r"je\s+(?:ne\s+)?(?:peux|suis)\s+pas\s+(?:en\s+mesure\s+de\s+)?(?:vous\s+)?(?:aider|décrire|voir|identifier|fournir|répondre|analyser|accéder)",
    r"en\s+tant\s+qu(?:e|')\s*(?:modèle|ia|intelligence\s+artificielle)\b",
    # Spanish
    r"(?:lo\s+siento|lo\s+lamento|disculp[ae])\s*[,.!]",
    r"no\s+(?:puedo|soy\s+capaz\s+de|me\s+es\s+posible)\s+(?:ayudar|describir|ver|identificar|proporcionar|acceder|analizar|procesar)",
    r"como\s+(?:un\s+)?modelo\s+de\s+(?:lenguaje|ia)\b",
    # Portuguese
    r"(?:sinto\s+muito|desculpe|lamento)\s*[,.!]",
    r"não\s+(?:posso|consigo)\s+(?:ajudar|descrever|ver|identificar|fornecer|acessar|analisar|processar)",
    r"como\s+(?:um\s+)?modelo\s+de\s+linguagem\b",
    # Italian
    r"mi\s+dispiace\s*[,.!]",
    r"non\s+(?:posso|sono\s+in\s+grado\s+di)\s+(?:aiutar|descriver|veder|identificar|fornir|acceder|analizzar)",
    r"come\s+modello\s+linguistico\b",
    # Dutch
    r"het\s+spijt\s+me\b",
    r"(?:helaas\s+)?(?:ik\s+kan|kan\s+ik)\b[^.!?\n]{0,40}\b(?:niet|geen)\b[^.!?\n]{0,40}\b(?:helpen|beschrijven|zien|bekijken|identificeren)\b",
    # Russian
    r"(?:извините|простите|к\s+сожалению)\s*,[^.!?\n]{0,40}\bне\s+(?:могу|можем)\b",
    r"я\s+не\s+могу\s+(?:помочь|описать|увидеть|просматривать|определить|выполнить)",
    # Chinese, Japanese
    r"(?:很|非常)?(?:抱歉|对不起|對不起)[,，。!！我]",
    r"我(?:无法|無法|不能)(?:查看|看到|描述|识别|識別|提供|处理|處理|协助|協助|帮助|幫助|回答)",
    r"作为(?:一个|一個)?(?:ai|人工智能|语言模型)",
    r"申し訳(?:ありません|ございません)",
)
