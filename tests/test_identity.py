"""What makes two runs the same run."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.identity.fingerprint import fingerprint
from lab.identity.identity import Identifier, Identity
from lab.redact import redact, redact_text, secret_variables

CONFIG = {
    "seed": 0,
    "paths": {"outputs": "outputs"},
    "log_every": 20,
    "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.001},
    "data": {"_target_": "lab.data.digits.digits", "workers": 2},
    "hardware": {"_target_": "lab.hardware.Hardware", "threads": None},
}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=4), inner, max_size=3),
    max_leaves=10,
)


def identify(config) -> Identity:
    """The identity with code and data as they are now."""
    return Identifier()(config)


identify_reading_once = Identifier()  # each source; for the tests that ask hundreds of times


def changed(path: str, value) -> dict:
    config = deepcopy(CONFIG)
    *parents, last = path.split(".")
    node = config
    for part in parents:
        node = node[part]
    node[last] = value
    return config


def test_bookkeeping_is_no_part_of_it_and_everything_else_is():
    own = identify(CONFIG).id
    for path in ("paths.outputs", "log_every", "data.workers", "hardware.threads"):
        assert identify(changed(path, 3)).id == own, path
    for path in ("seed", "optimizer.lr", "optimizer.foreach"):
        assert identify(changed(path, 3)).id != own, path


@given(st.dictionaries(st.text(min_size=1, max_size=6), values, max_size=4))
def test_the_order_of_keys_does_not_matter_and_the_id_is_stable(config):
    shuffled = json.loads(json.dumps(dict(reversed(config.items()))))
    assert identify_reading_once(config).config == identify_reading_once(shuffled).config


@given(values, values)
def test_different_values_are_different_runs(a, b):
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (identify_reading_once({"x": a}).config == identify_reading_once({"x": b}).config) == same


@pytest.mark.parametrize("value", ["/", "//", "./", "../"])
def test_a_separator_is_no_path(value):
    assert not identify_reading_once({"model": {"separator": value}}).files


def test_a_path_counts_by_what_lies_there(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.csv").write_text("1,2")
    here, there = (changed("data.folder", str(tmp_path / name)) for name in ("a", "b"))
    assert identify(here).id == identify(there).id
    (tmp_path / "b" / "x.csv").write_text("1,3")
    assert identify(here).id != identify(there).id
    assert identify(there).files == {str(tmp_path / "b"): fingerprint(tmp_path / "b")}


def test_names_in_a_folder_count(tmp_path):
    (tmp_path / "x").write_text("1")
    before = fingerprint(tmp_path)
    (tmp_path / "x").rename(tmp_path / "y")
    assert fingerprint(tmp_path) != before


def test_code_that_a_target_imports_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("mine_a.py").write_text("from mine_b import width\n")
    Path("mine_b.py").write_text("width = 3\n")
    Path("unrelated.py").write_text("x = 1\n")
    config = changed("model", {"_target_": "mine_a.Net"})
    before = identify(config).code
    Path("unrelated.py").write_text("x = 2\n")
    assert identify(config).code == before
    Path("mine_b.py").write_text("width = 4\n")
    assert identify(config).code != before


def test_imports_that_were_parsed_before_change_no_identity(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("mine_c.py").write_text("from mine_d import width\n")
    Path("mine_d.py").write_text("width = 3\n")
    config = changed("model", {"_target_": "mine_c.Net"})
    without = Identifier()
    code = without(config).code
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LAB_CACHE_GB", "1")
    assert identify(config).code == code
    (index,) = (tmp_path / "cache").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("lab.identity.source_code.imported_modules", lambda *_: pytest.fail("parsed again"))
        kept = Identifier()
        assert kept(config).code == code
    assert kept.source_hashes() == without.source_hashes()
    for damage in ("[]", "{", '{"a": 3}', index.read_text().replace('["mine_d", "mine_d.width"]', "7")):
        index.write_text(damage)
        assert identify(config).code == code
    Path("mine_c.py").write_text("import os\n")
    assert identify(config).code != code


def test_code_edited_while_a_sweep_is_planned_counts_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("shared_code.py").write_text("width = 3\n")
    for name in ("planned_a", "planned_b"):
        Path(f"{name}.py").write_text("from shared_code import width\n")
    first, second = (changed("model", {"_target_": f"planned_{name}.Net"}) for name in "ab")
    whole, sweep = Identifier(), Identifier()
    expected = [whole(first).code, whole(second).code]
    codes = [sweep(first).code]
    Path("shared_code.py").write_text("width = 4\n")
    assert [*codes, sweep(second).code] == expected
    assert sweep.source_hashes() == whole.source_hashes()


def test_values_of_secret_keys_are_redacted():
    assert redact({"api_key": "x", "tokens": 3, "tokenizer": "bpe", "a": [{"password": "y"}]}) == {
        "api_key": "<redacted>",
        "tokens": 3,
        "tokenizer": "bpe",
        "a": [{"password": "<redacted>"}],
    }
    assert redact_text("a: 1\nhub_token: abc\nb=2") == "a: 1\nhub_token: <redacted>\nb=2"


def test_a_number_of_tokens_is_no_secret_and_counts():
    assert identify({"data": {"max_tokens": 1}}).id != identify({"data": {"max_tokens": 2}}).id
    assert identify({"data": {"api_key": "a"}}).id == identify({"data": {"api_key": "b"}}).id


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://me:hunter2@example.org/x", "https://<redacted>@example.org/x"),
        ("Authorization: Bearer abcdefghijk", "Authorization: <redacted>"),
        ("curl -H 'x' Bearer abcdefghijk end", "curl -H 'x' Bearer <redacted> end"),
        ("+KEY = 'hf_abcdefghijklmnopqrstuvwxyz'", "+KEY = '<redacted>'"),
        ("AKIAABCDEFGHIJKLMNOP", "<redacted>"),
        ("a\n-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nb", "a\n<redacted>\nb"),
        ("auth: abc", "auth: <redacted>"),
        (
            "author=me optimizer.lr=0.1 https://example.org:8080/x",
            "author=me optimizer.lr=0.1 https://example.org:8080/x",
        ),
    ],
)
def test_secrets_that_tell_by_themselves_are_redacted_wherever_they_are(text, kept):
    assert redact_text(text) == kept


def test_the_value_of_a_secret_variable_is_redacted_wherever_it_comes_from(monkeypatch):
    monkeypatch.setenv("MY_AUTH_TOKEN", "correct horse")
    monkeypatch.setenv("MY_MODE", "battery staple")
    secret_variables.cache_clear()
    try:
        assert redact({"note": "a correct horse", "mode": "battery staple"}) == {
            "note": "a <redacted>",
            "mode": "battery staple",
        }
    finally:
        secret_variables.cache_clear()
