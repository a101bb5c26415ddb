"""Tokenizers for text: trained on the training texts alone, or read from a file, by the library `tokenizers`."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from lab.data.cache import cached
from lab.data.progress import show_progress
from lab.data.sequences import Sequences, join_sequences
from lab.text import suggest

PAD, UNKNOWN, FIRST, LAST = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL = (PAD, UNKNOWN, FIRST, LAST)  # their ids are 0 to 3
CHUNK = 10_000  # texts that are encoded at once
TOKENS_FOLDER = ".tokens"  # of tokenized texts, beside the data; hidden, so that it is no part of it
WORTH_CHARACTERS = 20_000_000  # below this many, tokenizing takes a second or two
KINDS = ("words", "bpe", "byte_bpe")


def make_tokenizer(
    kind: str,
    texts: Iterable[str],
    vocab_size: int,
    lowercase: bool,
    download: bool = False,
    special_tokens: Sequence[str] = (),
) -> Any:
    """A `tokenizers.Tokenizer`.

    kind: `words`, the `vocab_size` most frequent words; `bpe`, subwords by byte-pair encoding (Sennrich et al. 2016,
    arXiv:1508.07909); `byte_bpe`, the same over bytes (Radford et al. 2019, sec. 2.2), from whose tokens the text comes
    back as it was; or, not trained, the path of a `tokenizer.json` or of its folder, or a repository of the hub.
    texts: the training texts.  vocab_size: number of tokens at most, the special ones included.
    download: whether to fetch files that the hub's cache lacks.  special_tokens: further ones of a trained vocabulary.
    Raises ValueError for another kind, or for more tokens; ImportError without the library.
    """
    if kind in KINDS:
        made = train_tokenizer(kind, texts, vocab_size, lowercase, [*SPECIAL, *special_tokens])
    else:
        made = read_tokenizer(kind, download)
    if (size := made.get_vocab_size()) > vocab_size:
        raise ValueError(f"{kind} has {size} tokens; give data.vocab_size={size}")
    return made


def import_tokenizers() -> Any:
    """The library. Raises ImportError with what to install."""
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise ImportError("text needs the library tokenizers: pip install 'lab[text]'") from error
    return tokenizers


def train_tokenizer(kind: str, texts: Iterable[str], vocab_size: int, lowercase: bool, special: Sequence[str]) -> Any:
    tokenizers = import_tokenizers()
    if vocab_size <= len(special):
        raise ValueError(f"vocab_size={vocab_size} leaves no room for words; 8000 is usual")
    normalizers = [tokenizers.normalizers.NFC(), *([tokenizers.normalizers.Lowercase()] if lowercase else [])]
    models, trainers = tokenizers.models, tokenizers.trainers
    if kind == "words":
        model, make_trainer = models.WordLevel({}, unk_token=UNKNOWN), trainers.WordLevelTrainer
    else:
        model, make_trainer = models.BPE(unk_token=UNKNOWN), trainers.BpeTrainer
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.Sequence(normalizers)
    options: dict[str, Any] = {"vocab_size": vocab_size, "special_tokens": list(special), "show_progress": False}
    if kind == "byte_bpe":
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        options["initial_alphabet"] = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(texts, make_trainer(**options))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{FIRST} $A {LAST}",
        pair=f"{FIRST} $A {LAST} $B {LAST}",
        special_tokens=[(FIRST, SPECIAL.index(FIRST)), (LAST, SPECIAL.index(LAST))],
    )
    return tokenizer


def read_tokenizer(path: str, download: bool = False) -> Any:
    tokenizers = import_tokenizers()
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    if not file.is_file() and path.count("/") == 1 and not path.endswith(".json"):
        from lab.models.hub import hub_files

        file = hub_files(path, ["tokenizer.json"], download)[0]
    if not file.is_file():
        raise ValueError(f"tokenizer={path!r} is no kind and no tokenizer.json; {suggest(path, KINDS)}")
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exceptions
        raise ValueError(f"{file} is no tokenizer: {error}") from error


def pad_id(tokenizer: Any) -> int:
    """The id of the padding token; 0 for a tokenizer without one."""
    for name in (PAD, "<pad>"):
        if (number := tokenizer.token_to_id(name)) is not None:
            return number
    return 0


def token_id(tokenizer: Any, token: str, key: str) -> int:
    """The id of a token that the config names. Raises ValueError where the tokenizer has none of that name."""
    number = tokenizer.token_to_id(token)
    if number is None:
        vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
        raise ValueError(f"{key}: the tokenizer has no token {token!r}; its first are {' '.join(vocabulary[:12])}")
    return number


def encode_texts(
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    max_length: int | None = None,
    special: bool = True,
) -> Iterator[list[int]]:
    """The ids of each text, or pair of texts, cut to `max_length` tokens; with a progress bar where it takes long.

    special: whether the tokenizer adds its first and last tokens.
    """
    tokenizer.no_padding()
    tokenizer.no_truncation() if max_length is None else tokenizer.enable_truncation(max_length)
    places = show_progress(range(0, len(texts), CHUNK), -(-len(texts) // CHUNK), "tokenizing")
    for place in places:
        chunk: Sequence[Any] = texts[place : place + CHUNK]
        if pairs is not None:
            chunk = list(zip(chunk, pairs[place : place + CHUNK], strict=True))
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=special):
            yield encoding.ids


def tokenize(
    tokenizer: Any,
    texts: Sequence[str],
    near: Path,
    *,
    pairs: Sequence[str] | None = None,
    max_length: int | None = None,
    special: bool = True,
    before: Sequence[int] = (),
    after: Sequence[int] = (),
) -> Sequences:
    """The tokens of each text; those of many texts are kept in the folder `near`, and read from there the next time.

    pairs, max_length, special: as `encode_texts` takes them.  before, after: tokens put around each text.
    """

    def make() -> Sequences:
        encoded = encode_texts(tokenizer, texts, pairs, max_length, special)
        return join_sequences([*before, *ids, *after] if before or after else ids for ids in encoded)

    if sum(map(len, texts)) < WORTH_CHARACTERS:
        return make()
    options = repr((len(texts), max_length, special, list(before), list(after), pairs is not None))
    parts = chain([tokenizer.to_str(), options], texts, pairs or ())
    kept = cached(near / TOKENS_FOLDER, parts, lambda: make()._asdict())
    return Sequences(**kept)
