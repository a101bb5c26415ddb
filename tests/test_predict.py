"""lab predict: answers of finished runs to new inputs, from their directories alone."""

import io
import json

import pytest
import torch
from PIL import Image

import lab as library
from lab.data.readers import load_reader
from tests.test_language import SMALL as LANGUAGE
from tests.test_language import TINY, make_corpus
from tests.test_text import write_csv
from tests.test_translation import SMALL as TRANSLATION
from tests.test_translation import write_pairs

TEXT = ["data=text_csv", "data.train_file=t.csv", "data.num_classes=2", "data.batch_size=8", "data.vocab_size=60"]


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
def test_texts_get_labels_without_the_data(lab, tmp_path, monkeypatch):
    table = write_csv(tmp_path / "t.csv")
    done = lab("train", *TEXT, "model=cnn_text", "steps=4", "hydra.run.dir=run", "regularize=ema", "final=last")
    assert done.code == 0, done.err
    (tmp_path / "t.csv").unlink()
    assert table.endswith("t.csv")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    (tmp_path / "in.txt").write_text("a fine film\nso dull\n")
    answers = lines(lab("predict", "elsewhere", "--file", "in.txt", "--json").out)
    assert [answer["input"] for answer in answers] == ["a fine film", "so dull"]
    for answer in answers:
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert answer["probability"] == max(answer["probabilities"].values())
    shown = lab("predict", "elsewhere", "so dull").out
    assert shown.split() == ["so", "dull", answers[1]["label"], f"{answers[1]['probability']:.4f}"]
    monkeypatch.chdir(tmp_path)
    assert library.predict("elsewhere", ["so dull"])[0] == {k: v for k, v in answers[1].items() if k != "input"}
    assert isinstance(library.load("elsewhere"), torch.nn.Module)


@pytest.mark.slow
def test_images_get_the_labels_that_scoring_gives_them(lab, tmp_path):
    from sklearn.datasets import load_digits

    done = lab("train", "model=mlp", "steps=300", "optimizer.lr=0.003", "hydra.run.dir=run")
    assert done.code == 0, done.err
    images = load_digits().images[:5]
    (tmp_path / "new").mkdir()
    for place, image in enumerate(images):
        Image.fromarray((image / 16 * 255).round().astype("uint8")).save(tmp_path / "new" / f"{place}.png")
    answers = lines(lab("predict", "run", "new", "--json").out)
    assert [answer["label"] for answer in answers] == ["0", "1", "2", "3", "4"]
    missing = lab("predict", "run", "nothing.png")
    assert missing.code == 2
    assert "no file nothing.png" in missing.err
    (tmp_path / "broken.png").write_bytes(b"no image")
    broken = lab("predict", "run", "broken.png")
    assert broken.code == 2
    assert "broken.png" in broken.err


@pytest.mark.slow
def test_sentences_are_translated_and_texts_go_on(lab, tmp_path):
    write_pairs(tmp_path)
    small = ["model=seq2seq_rnn", "model.width=8", "model.hidden=8"]
    done = lab("train", *TRANSLATION, *small, "steps=4", "hydra.run.dir=run")
    assert done.code == 0, done.err
    (kept,) = lines((tmp_path / "run" / "test_translations.jsonl").read_text().splitlines()[0])
    (answer,) = lines(lab("predict", "run", kept["source"], "--json").out)
    assert answer["translation"] == kept["translation"]
    make_corpus(tmp_path)
    done = lab("train", *LANGUAGE, *TINY, "steps=4", "hydra.run.dir=lm")
    assert done.code == 0, done.err
    first, second = (lab("predict", "lm", "the red fox", "--json").out for _ in range(2))
    assert first == second
    assert set(lines(first)[0]) == {"input", "continuation"}


@pytest.mark.slow
def test_a_model_of_a_folder_is_built_from_what_the_run_keeps(lab, tmp_path):
    from lab.models.huggingface import huggingface_model

    write_csv(tmp_path / "t.csv")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = huggingface_model("bert", 2, None, config=small, vocab_size=60)
    model.model.save_pretrained(tmp_path / "folder")
    done = lab(
        "train",
        *TEXT,
        "model=huggingface",
        "model.name=folder",
        "weights=DEFAULT",
        "steps=2",
        "hydra.run.dir=run",
        "finetune_strategy=lora",
    )
    assert done.code == 0, done.err
    (tmp_path / "folder").rename(tmp_path / "gone")
    answered = lab("predict", "run", "a fine film")
    assert answered.code == 0, answered.err
    too_long = lab("check", *TEXT, "model=huggingface", "model.name=gone", "data.max_length=600")
    assert "data.max_length=512" in too_long.err


def test_a_reader_that_is_damaged_is_named(tmp_path):
    with pytest.raises(ValueError, match="no kind of inputs"):
        load_reader(tmp_path, {"kind": "sounds"})
    with pytest.raises(ValueError, match="is not as a run writes it"):
        load_reader(tmp_path, {"kind": "images", "shapes": [1]})


@pytest.mark.slow
def test_a_data_set_without_a_reader_says_what_is_missing(lab, monkeypatch):
    done = lab("train", "data=modular_addition", "model=mlp", "steps=2", "hydra.run.dir=run")
    assert done.code == 0, done.err
    answered = lab("predict", "run", "x")
    assert answered.code == 2
    assert "reader" in answered.err
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    nothing = lab("predict", "run")
    assert nothing.code == 2
    assert "no input" in nothing.err
