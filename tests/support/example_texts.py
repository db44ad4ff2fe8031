"""Texts of the example set, and one text in other languages."""

import pyarrow.parquet as pq

from support import CLIPART12

OTHER_LANGUAGES = {
    "de": "Ein brauner Hund liegt auf einer grünen Wiese und schaut in die Kamera, im Hintergrund stehen Bäume.",
    "fr": "Un chien brun est allongé dans l'herbe verte et regarde l'appareil photo, avec des arbres au fond.",
    "es": "Un perro marrón está tumbado en la hierba verde y mira a la cámara, con árboles al fondo.",
    "it": "Un cane marrone è sdraiato sull'erba verde e guarda la fotocamera, con alberi sullo sfondo.",
    "nl": "Een bruine hond ligt in het groene gras en kijkt naar de camera, met bomen op de achtergrond.",
    "pl": "Brązowy pies leży na zielonej trawie i patrzy w obiektyw, a w tle widać drzewa.",
    "zh": "一只棕色的狗躺在绿色的草地上看着镜头",
    "ru": "Коричневая собака лежит на зелёной траве и смотрит в камеру, на заднем плане деревья.",
}


def read_column(name):
    """Read a column of the example's training and test images."""
    return [
        value
        for split in ("train", "test")
        for value in pq.read_table(CLIPART12 / f"{split}.parquet")[name].to_pylist()
    ]
