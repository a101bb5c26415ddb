"""Tables of one's own: which columns are inputs, what is standardised by what, and numbers in their own units."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from lab.data.csv_table import csv_table
from lab.data.readers import load_reader
from lab.data.table_columns import find_columns
from lab.tasks.regression import Regression

ROWS = [f"{n},{n % 7 * 10},{'Rome' if n % 3 else 'Oslo'},{1000 + 5 * n}" for n in range(40)]


def write(path, rows=ROWS, header="age,size,city,price"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(path)


def read(path, **options):
    return csv_table(8, 0, **{"train_file": str(path), "target": "price", **options})


def test_columns_are_numbers_or_words_by_what_they_hold(tmp_path):
    file = write(tmp_path / "a.csv")
    columns = find_columns(file, "price")
    assert (columns.numbers, columns.categories, columns.width) == (["age", "size"], {"city": ["Oslo", "Rome"]}, 4)
    assert find_columns(file, "price", numbers=["size"], categories=[]).width == 1
    assert find_columns(file, ["price", "age"], categories=["size"]).categories == {
        "size": ["0", "10", "20", "30", "40", "50", "60"]
    }
    (tmp_path / "a.jsonl").write_text('{"a": 1, "b": null, "y": 2}\n{"a": null, "b": 3.5, "y": 2}\n')
    assert find_columns(str(tmp_path / "a.jsonl"), "y").numbers == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "prise"}, r"a\.csv has no column 'prise'; did you mean 'price'"),
        ({"numbers": ["price"]}, "'price' is to be predicted, so it is no input"),
        ({"categories": ["price"]}, "'price' is a category, and a number or to be predicted"),
        ({"numbers": [], "categories": []}, "no column beside price to predict from"),
        ({"numbers": ["city"]}, r"a\.csv:\d+: city is '\w+', not a number"),
        ({"missing": "ignore"}, "neither refuse nor fill"),
        ({"classes": ["a", "b"]}, r"a\.csv:\d+: price is '\d+', none of data\.classes: a, b"),
        ({"num_classes": 3, "shape": [4]}, r"has 4 inputs and 1 outputs, not \[4\] and 3"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, options, message):
    write(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.csv", **options)


def test_numbers_are_standardised_by_the_training_rows_alone(tmp_path):
    write(tmp_path / "a.csv")
    write(tmp_path / "b.csv", ["1000,5,Rome,7"] * 3)
    data = read(tmp_path / "a.csv", val_file=str(tmp_path / "b.csv"), test_share=0)
    numbers = data.splits["train"].inputs[:, :2].double()
    torch.testing.assert_close(numbers.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(numbers.std(0, correction=0), torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0)
    ages = np.arange(40)
    assert data.splits["val"].inputs[0].tolist()[0] == pytest.approx((1000 - ages.mean()) / ages.std(), rel=1e-6)
    assert data.splits["val"].inputs[0, 2:].tolist() == [0, 1]
    assert data.target_scale == ([1000 + 5 * 19.5], [pytest.approx(5 * ages.std())])


def test_missing_values_are_refused_by_their_place_or_filled(tmp_path):
    write(tmp_path / "a.csv", [*ROWS, ",NA,?,1100"])
    with pytest.raises(ValueError, match=r"a\.csv:42: age is missing; add it, or give data\.missing=fill"):
        read(tmp_path / "a.csv", val_share=0, test_share=0)
    data = read(tmp_path / "a.csv", missing="fill", val_share=0, test_share=0)
    assert data.splits["train"].inputs[-1].tolist() == [0, 0, 0, 0], "a number is its mean, a word is none"
    write(tmp_path / "a.csv", [*ROWS, "1,2,Rome,"])
    with pytest.raises(ValueError, match=r"a\.csv:42: price is missing"):
        read(tmp_path / "a.csv", missing="fill", val_share=0, test_share=0)


def test_a_word_that_is_not_known_is_refused_or_none(tmp_path):
    write(tmp_path / "a.csv")
    other = write(tmp_path / "b.csv", ["1,2,Bern,3"])
    with pytest.raises(ValueError, match=r"b\.csv:2: city is 'Bern', none of Oslo, Rome"):
        read(tmp_path / "a.csv", test_file=other)
    assert read(tmp_path / "a.csv", test_file=other, missing="fill").splits["test"].inputs[0, 2:].tolist() == [0, 0]


def test_a_column_that_is_constant_is_not_divided_by_0(tmp_path):
    write(tmp_path / "a.csv", [f"7,1e8,x,{n}" for n in range(9)])
    assert read(tmp_path / "a.csv").splits["train"].inputs[:, :2].abs().max() == 0


def test_scores_are_in_the_targets_units_and_the_loss_in_standard_ones(tmp_path):
    from sklearn import metrics

    write(tmp_path / "a.csv")
    data = read(tmp_path / "a.csv")
    torch.manual_seed(0)
    model, task = nn.Linear(4, 1), Regression()
    task.bind(data)
    inputs, targets = data.splits["train"]
    (mean,), (std,) = data.target_scale
    with torch.no_grad():
        predicted = (model(inputs)[:, 0] * std + mean).numpy()
        assert float(task.loss(model, (inputs, targets))) == pytest.approx(
            np.mean(((predicted - targets.numpy()) / std) ** 2), rel=1e-5
        )
        scores = task.score(model, [(inputs, targets)])
        assert scores["r2"] == pytest.approx(metrics.r2_score(targets, predicted), rel=1e-5)
        assert scores["mse"] == pytest.approx(metrics.mean_squared_error(targets, predicted), rel=1e-5)
        reader = load_reader(tmp_path, json.loads(data.reader.files["reader.json"]))
        rows = reader.expand([str(tmp_path / "a.csv")])
        told = task.predict(model, reader.read(rows[:2]))
    assert list(reader.target_scale) == list(data.target_scale)
    assert told[0].keys() == {"value"}


def test_several_columns_and_classes_are_predicted(tmp_path):
    write(tmp_path / "a.csv")
    data = read(tmp_path / "a.csv", target=["price", "age"])
    assert data.splits["train"].labels.shape == (32, 2)
    told = read(tmp_path / "a.csv", target="city", classes=["Rome", "Oslo"])
    assert told.splits["train"].labels.unique().tolist() == [0, 1]
    assert told.target_scale is None


def test_a_table_trains_predicts_and_says_nothing_of_classes(lab, tmp_path):
    write(tmp_path / "a.csv")
    table = ("data=csv", "data.train_file=a.csv", "data.target=price", "model=mlp", "data.batch_size=8")
    done = lab("train", *table, "task=regression", "epochs=40", "optimizer.lr=0.01", "hydra.run.dir=run")
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test/r2"] > 0.9
    assert "class" not in done.out + done.err
    assert "accuracy" not in done.out + done.err + json.dumps(results)
    told = lab("predict", "run", '{"age": 20, "size": 60, "city": "Rome"}', "a.csv", "--json")
    values = [json.loads(line)["value"] for line in told.out.splitlines()]
    assert len(values) == 41
    assert values[0] == pytest.approx(1100, rel=0.1)
    refused = lab("predict", "run", "twenty")
    assert refused.code == 2
    assert "neither a row as a JSON object, with age, size, city, nor a table's file" in refused.err
    assert "give task=regression" in lab("train", *table).err
    assert lab("train", *table[:1], "data.train_file=b.csv", "data.target=x", "model=mlp").err.startswith(
        "lab: no file"
    )
