"""Refusals, and descriptions that only sound like one."""

import pytest

from gpt4image.quality.checks.refusals import find_refusal

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, I can\u2019t assist with this request.",
    "Sorry, I am unable to view the picture.",
    "I apologize, but I am unable to see any image attached to this message.",
    "My apologies for the confusion. The dog is brown.",
    "As an AI language model, I cannot see images directly.",
    "I'm just an AI assistant and cannot see pictures.",
    "I cannot provide a description because the file is missing.",
    "Unfortunately, I can't view images.",
    "I can't identify people in images, but I can describe the scene.",
    "I don't see an image attached to your message.",
    "It seems that no image was provided.",
    "Please provide the image you would like me to describe.",
    "The image you uploaded could not be loaded.",
    "It appears you haven't uploaded a picture.",
    "I'd be happy to help, but there's no image attached.",
    "This may show private data, so I won't describe it.",
    "A brown dog on grass. I'm sorry, but I cannot say more about it.",
    "I must respectfully decline to describe this.",
    "This request violates our content policy.",
    "\"I'm sorry, but I can't help with that.\"",
    "**I cannot assist with this request.**",
    "Es tut mir leid, aber ich kann dieses Bild nicht beschreiben.",
    "Leider kann ich dabei nicht helfen.",
    "Désolé, je ne peux pas décrire cette image.",
    "En tant qu'intelligence artificielle, je ne vois pas les images.",
    "Lo siento, no puedo ayudar con eso.",
    "Desculpe, não consigo ver a imagem.",
    "Mi dispiace, ma non posso identificare la persona.",
    "Het spijt me, ik kan deze afbeelding niet beschrijven.",
    "Przykro mi, ale nie mogę pomóc.",
    "Извините, но я не могу помочь с этим.",  # noqa: RUF001
    "抱歉，我无法查看这张图片。",  # noqa: RUF001
    "申し訳ありませんが、お手伝いできません。",
    "죄송하지만 이 이미지를 볼 수 없습니다.",
)
DESCRIPTIONS = (
    "The dog refuses to leave the sofa.",
    "An apology letter is shown on a desk.",
    "A man apologises to a woman with a bunch of flowers.",
    "A card that says \"I'm sorry, I can't come\" in red letters.",
    "A sign reads: I'm sorry, we are closed.",
    "A red card. \"I'm sorry, I can't come.\" is written on it.",
    "Sorry! board game box with a red lid.",
    '"Sorry, we\'re closed" sign hanging on a glass door.',
    "Sorry sign in red capitals on a white door.",
    "I'm Sorry greeting card with a sad teddy bear holding a rose.",
    "A robot labelled as an AI assistant waves its hand.",
    "A cartoon cat unable to climb down from a tree, meowing for help.",
    "A child cannot reach the cookie jar on the shelf.",
    "Broken-link placeholder reading Linked Image Not Found with a red cross box.",
    "No image available placeholder icon, grey, with a camera.",
    "There is no text in this image. It shows a bar chart with revenue rising.",
    "I don't see any text in the image, but it shows a red stop sign on a pole.",
    "I cannot tell which breed it is, but the dog is brown and white.",
    "I see a dog with a ball, but I cannot see its tail.",
    "We cannot see who drives the car, because the windows are tinted.",
    "A poster asking readers to please share the road with cyclists.",
    "You have not one but two cats in this picture.",
    "Unfortunately hidden behind a tree, the dog shows only its tail.",
    "The image is missing its lower half; a horse's head is left.",
    "There is no image on the screen of the television.",
    "A man says 'I can't help you' in a comic strip.",
    "As an ambulance, it has blue lights, and its driver waves.",
    "Eine Frau, die sich entschuldigt, mit Blumen in der Hand.",
    "Un perro que no puede ver por la nieve.",
)


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_and_apologies_are_found(text):
    assert find_refusal(text)


@pytest.mark.parametrize("text", DESCRIPTIONS)
def test_descriptions_that_sound_like_refusals_are_not_found(text):
    assert find_refusal(text) is None


def test_answer_withheld_by_the_server_is_a_refusal():
    assert "content_filter" in find_refusal("A dog.", "content_filter")
    assert find_refusal("A dog.", "stop") is None
