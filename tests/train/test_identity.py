"""What differs between the images of two runs, in words."""

from gpt4image.train.identity import image_changes, trained_rows
from support.labelling_parts import make_table


def test_given_lost_and_changed_labels_are_told_apart():
    before = trained_rows(make_table([0, 0, 1, 1, -1, 0], ["ant", "bee"]))
    after = make_table([1, -1, 1, -1, 0, 0], ["ant", "bee"])
    assert image_changes(before, after) == [
        "1 image was given a label",
        "2 images were left without a label",
        "1 image was given another label",
    ]
