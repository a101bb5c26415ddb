"""Files that would take more memory or time than the machine has end in a sentence that names them."""

import os
import struct
import zlib
from itertools import pairwise

import pytest

from lab.data.decode import decode_image
from lab.errors import ConfigError
from lab.ledger.saved_run import SavedRun
from lab.models.state_files import read_weights
from lab.yaml_aliases import check_yaml_aliases

NAMES = "abcdefghijkl"
BOMB = "a: &a [1,2,3,4,5,6,7,8,9,0]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in pairwise(NAMES)
)


def test_aliases_that_grow_beyond_measure_are_refused(tmp_path):
    (tmp_path / "bomb.yaml").write_text(BOMB)
    with pytest.raises(ConfigError, match=r"bomb\.yaml: its aliases stand for more than"):
        check_yaml_aliases(tmp_path / "bomb.yaml")
    (tmp_path / "itself.yaml").write_text("a: &a [1, *a]\n")
    with pytest.raises(ConfigError, match="aliases"):
        check_yaml_aliases(tmp_path / "itself.yaml")
    (tmp_path / "usual.yaml").write_text("a: &a {lr: 1}\nb: *a\nc: [*a, *a]\n")
    check_yaml_aliases(tmp_path / "usual.yaml")


def test_a_config_an_experiment_and_a_run_with_such_aliases_are_refused(lab, tmp_path):
    for name, head in (
        ("conf/model/bomb.yaml", "_target_: x.Y\n"),
        ("experiments/x/bomb.yaml", "# @package _global_\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(head + BOMB)
    for chosen in ("model=bomb", "experiment=x/bomb"):
        refused = lab("train", chosen)
        assert (refused.code, "bomb.yaml: its aliases" in refused.err) == (2, True), refused.err
    run = tmp_path / "run"
    run.mkdir()
    (run / "status.json").write_text('{"state": "done"}')
    (run / "config.yaml").write_text(BOMB)
    shown = lab("show", "run")
    assert (shown.code, "its aliases" in shown.err) == (2, True), shown.err


def test_lines_without_an_end_are_not_read(tmp_path):
    for name in ("metrics.jsonl", "plan.jsonl"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 4_000_000_000)  # sparse
    assert SavedRun(tmp_path).metrics == []


def test_a_header_of_weights_that_says_gigabytes_is_refused(tmp_path):
    file = tmp_path / "huge.safetensors"
    file.write_bytes(struct.pack("<Q", 2**40) + b"{}")
    with pytest.raises(ValueError, match=r"huge\.safetensors"):
        read_weights([file])


def test_an_image_of_gigapixels_is_refused_by_name(tmp_path):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    image = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
    (tmp_path / "huge.png").write_bytes(image)
    with pytest.raises(ValueError, match=r"huge\.png is not an image that can be read"):
        decode_image(tmp_path / "huge.png")
