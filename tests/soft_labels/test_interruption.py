"""Text labels after kill -9 and with several processes: the same bytes, made once."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpt4image.soft_labels import label_by_texts
from support.forks import ForkedPython, forked_python
from support.labelling_parts import WordEncoder, informative_texts, make_store, make_table

pytestmark = pytest.mark.slow

CLASSES = ("ant", "bee", "cow")
TRUE = [number % 3 for number in range(120)]
GIVEN = [label if number < 30 else -1 for number, label in enumerate(TRUE)]
FILES = ("ids.npy", "logits.npy", "manifest.json")

LABEL = """
import hashlib, os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from test_interruption import CLASSES, GIVEN
from support.labelling_parts import WordEncoder, make_table
from gpt4image import EmbeddingStore
from gpt4image.soft_labels import label_by_texts, store, text_labels

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

plain, fits = text_labels.label_rows, []
def counted(*arguments, **settings):
    fits.append(1)
    return plain(*arguments, **settings)
text_labels.label_rows = counted
match sys.argv[4]:
    case "fitting": text_labels.label_rows = die
    case "writing": store.write_logits = die
    case "renaming": Path.rename = die
images = make_table(GIVEN, CLASSES)
labels = label_by_texts(images, [EmbeddingStore(sys.argv[2])], Path(sys.argv[3]), encoders=[WordEncoder()])
print(len(fits), hashlib.sha256(labels.take(labels.find(images.ids)).tobytes()).hexdigest())
"""

TWO = """
import hashlib, json, os, sys
from pathlib import Path
import torch
from gpt4image import EmbeddingStore, Recipe, load_descriptions, load_images, train_model
from gpt4image.core.options import ArmOptions, GuidanceOptions, SimulationOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.soft_labels import text_labels
from gpt4image.train.processes import make_accelerator
from gpt4image.workflows.arm_inputs import ArmInputs
data, texts, store, work, recipe = sys.argv[1:]
recipe, work = Recipe.from_dict(json.loads(recipe)), Path(work)
rank = make_accelerator(recipe).process_index
plain, fits = text_labels.label_rows, []
def counted(*arguments, **settings):
    fits.append(1)
    return plain(*arguments, **settings)
text_labels.label_rows = counted
images = load_images(data, validation_share=0.2, test_share=0.25)
options = ArmOptions(simulation=SimulationOptions(labels_per_class=3))
text, stores = GuidanceOptions(text=texts), (EmbeddingStore(store),)
learned = ArmInputs(images, load_descriptions(images, texts), stores, (), text, recipe, WorkDir(work), options)(
    "text-labels", 0
)
(labels,) = learned.soft_labels
seen = hashlib.sha256(labels.take(labels.find(images.ids)).tobytes()).hexdigest()
(work / f"seen-{rank}.json").write_text(json.dumps([len(fits), seen]))
train_model(learned.images, learned.stores, recipe, work / "run", soft_labels=[labels], arm="text-labels")
if torch.distributed.is_initialized():
    torch.distributed.barrier()
os._exit(0)  # skip torch's teardown, which may abort after training in several processes on a CPU
"""


def label_command(words, folder, moment="never"):
    here = str(Path(__file__).parent)
    return ["-c", LABEL, here, str(words.layout.folder), str(folder), moment]


@pytest.fixture
def words(tmp_path):
    return make_store(make_table(GIVEN, CLASSES), informative_texts(TRUE, CLASSES), tmp_path / "words")


@pytest.mark.parametrize("moment", ["fitting", "writing", "renaming"])
def test_killed_labelling_by_texts_ends_in_the_same_bytes(words, tmp_path, moment):
    folder = tmp_path / "labels"
    ended = forked_python(label_command(words, folder, moment), check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not folder.exists()
    again = forked_python(label_command(words, folder))
    assert again.stdout.split()[0] == ("0" if moment == "renaming" else "1")
    whole = label_by_texts(make_table(GIVEN, CLASSES), [words], tmp_path / "whole", encoders=[WordEncoder()])
    for name in FILES:
        assert (folder / name).read_bytes() == (whole.layout.folder / name).read_bytes(), name
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"words", "words.lock", "labels", "labels.lock", "whole", "whole.lock"}


def test_two_processes_that_label_at_once_fit_once_and_see_the_same_labels(words, tmp_path):
    command = label_command(words, tmp_path / "labels")
    both = [ForkedPython(command) for _ in range(2)]
    (one, its), (other, theirs) = (process.communicate()[0].split() for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert sorted([one, other]) == ["0", "1"]
    assert its == theirs


def test_processes_of_a_training_see_the_same_text_labels(image_set, descriptions_file, store, small_recipe, tmp_path):
    script, environment = tmp_path / "two.py", {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    script.write_text(TWO)
    settings, recipe = {}, json.dumps(small_recipe().to_dict())
    for processes in (1, 2):
        work = tmp_path / f"{processes}"
        work.mkdir()
        arguments = [script, image_set, descriptions_file, store.layout.folder, work, recipe]
        if processes == 1:
            forked_python(arguments, environment=environment)
        else:
            launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
            command = [sys.executable, *launcher, *map(str, arguments)]
            ended = subprocess.run(
                command, env={**os.environ, **environment}, check=False, capture_output=True, text=True
            )
            assert ended.returncode == 0, ended.stderr
        fits, seen = zip(*(json.loads(path.read_text()) for path in work.glob("seen-*.json")), strict=True)
        assert (len(seen), sum(fits), len(set(seen))) == (processes, 1, 1)
        settings[processes] = seen[0], json.loads((work / "run/settings.json").read_text())["soft_labels"]
    assert settings[1] == settings[2]
