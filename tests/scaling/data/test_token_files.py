from __future__ import annotations

import hashlib
import json
import pickle
import signal

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.data import ByteTokenizer, DataConfig, Source, TokenFile, open_corpus, prepare, train_bpe
from scaling.data.corpus import is_heldout
from scaling.data.summary import describe, warnings
from scaling.data.tokens import token_files, trained_tokenizer

FRACTION = 0.1


def build(path, cache, tokenizer=None, *, fraction=FRACTION, masked=False, **fields):
    source = Source(**({"source": "text", "path": str(path)} | fields))
    corpus, tokenizer = open_corpus(source), tokenizer or ByteTokenizer()
    return token_files(corpus, tokenizer, heldout_fraction=fraction, mask_prompts=masked, cache=cache)


def leftovers(cache):
    return [path.name for path in cache.rglob(".*")]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_the_streams_are_the_documents_of_each_split_with_ends(folder, cache):
    documents = list(open_corpus(Source("text", str(folder))).documents())
    for file, heldout in zip(build(folder, cache), (False, True), strict=True):
        expected = [document.text for document in documents if is_heldout(document.sha256, FRACTION) == heldout]
        stream = bytes(file.tokens)
        assert stream == b"".join(text.encode() + b"\0" for text in expected)
        pieces = [stream[start:end] for start, end in zip(file.documents, file.documents[1:], strict=False)]
        assert pieces == [text.encode() + b"\0" for text in expected]
        assert file.text_bytes == sum(len(text.encode()) for text in expected) == file.count - len(expected)


def test_bpe_streams_decode_to_the_documents(folder, cache):
    texts = [document.text for document in open_corpus(Source("text", str(folder))).documents()]
    tokenizer = train_bpe(texts, 300)
    train, heldout = build(folder, cache, tokenizer)
    assert train.tokens.dtype == np.uint16
    decoded = "".join(tokenizer.decode(file.tokens) for file in (train, heldout))
    assert sorted(decoded.split("<|endoftext|>")[:-1]) == sorted(texts)
    for file in (train, heldout):
        assert file.sidecar["table_bytes"] == file.text_bytes


def test_the_digest_is_that_of_the_bytes_on_disk(folder, cache):
    train, _ = build(folder, cache)
    of_tokens, of_mask = hashlib.sha256(train.path.read_bytes()), hashlib.sha256()
    assert train.digest == hashlib.sha256(of_tokens.digest() + of_mask.digest()).hexdigest()


def test_files_are_mapped_and_pickle_as_a_path(folder, cache):
    train, _ = build(folder, cache)
    assert isinstance(train.tokens, np.memmap)
    assert len(pickle.dumps(train)) < 1000
    assert pickle.loads(pickle.dumps(train)).digest == train.digest


def test_a_second_build_reads_nothing(folder, cache):
    source = Source("text", str(folder))
    first = build(folder, cache)
    corpus = open_corpus(source)
    object.__setattr__(corpus, "read", None)
    again = token_files(corpus, ByteTokenizer(), heldout_fraction=FRACTION, mask_prompts=False, cache=cache)
    assert [file.path for file in again] == [file.path for file in first]


def test_the_same_text_elsewhere_shares_the_files(folder, cache):
    first = build(folder, cache)
    moved = folder.rename(folder.with_name("moved"))
    assert [file.path for file in build(moved, cache)] == [file.path for file in first]
    assert leftovers(cache) == []


@pytest.mark.parametrize("change", ["text", "tokenizer", "fraction"])
def test_another_text_tokenizer_or_split_gets_files_of_its_own(folder, cache, change):
    first, _ = build(folder, cache)
    if change == "text":
        (folder / "new.txt").write_text("a new document that ends up in the train split")
    tokenizer = train_bpe(["some text " * 9], 258) if change == "tokenizer" else None
    second, _ = build(folder, cache, tokenizer, fraction=0.3 if change == "fraction" else FRACTION)
    assert second.digest != first.digest and second.path != first.path


def test_only_completions_carry_loss(write_jsonl, cache):
    records = [{"q": f"{a}+{a}=", "a": str(2 * a)} for a in range(100)]
    train, _ = build(write_jsonl(*records), cache, source="jsonl", field="a", prompt_field="q", masked=True)
    stream, mask = bytes(train.tokens), train.mask
    assert train.text_bytes == len(stream) - stream.count(0)
    for start, end in zip(train.documents, train.documents[1:], strict=False):
        prompt = stream[start:end].index(b"=") + 1
        assert mask[start:end].tolist() == [0] * prompt + [1] * (end - start - prompt)


@pytest.mark.parametrize("fraction", [1e-9, 0.5])
def test_both_splits_hold_something_even_of_two_documents(write_jsonl, cache, fraction):
    train, heldout = build(write_jsonl({"text": "one"}, {"text": "two"}), cache, source="jsonl", fraction=fraction)
    assert sorted([bytes(train.tokens), bytes(heldout.tokens)]) == [b"one\0", b"two\0"]


def test_a_single_document_cannot_be_split(write_jsonl, cache):
    with pytest.raises(ConfigError, match="holds a single document, which cannot be split"):
        build(write_jsonl({"text": "one"}), cache, source="jsonl")
    assert leftovers(cache) == []


def test_a_file_that_was_cut_short_is_built_again(folder, cache):
    train, _ = build(folder, cache)
    whole = train.path.read_bytes()
    train.path.write_bytes(whole[:-10])
    with pytest.raises(ConfigError, match="is not a whole token file"):
        TokenFile.open(train.path)
    again, _ = build(folder, cache)
    assert again.path.read_bytes() == whole


def test_a_bad_document_leaves_nothing_behind(tmp_path, cache):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": 2}\n')
    with pytest.raises(ConfigError, match=r"a\.jsonl:2"):
        build(path, cache, source="jsonl")
    assert leftovers(cache) == [] and not list(cache.rglob("*.bin"))


def test_a_book_and_a_note_are_split_by_text_and_the_book_stays_one_stream(tmp_path, cache):
    root = tmp_path / "text"
    root.mkdir()
    book = "".join(f"line {number} of a book\n" for number in range(40_000))
    (root / "book.txt").write_text(book)
    (root / "note.txt").write_text("short")
    train, heldout = build(root, cache)
    assert 0.06 < heldout.count / (train.count + heldout.count) < 0.16
    pieces = [piece for file in (train, heldout) for piece in bytes(file.tokens).decode().split("\0")[:-1]]
    assert sum(map(len, pieces)) == len(book) + len("short")  # no text is lost, and only breaks of the split end in 0
    assert all(piece in book or piece == "short" for piece in pieces)
    joined = sum(document.continues for document in open_corpus(Source("text", str(root))).documents())
    assert len(pieces) < joined  # neighbours on one side of the split are not torn apart
    for file in (train, heldout):
        ends = np.flatnonzero(np.asarray(file.tokens) == 0) + 1
        assert file.documents.tolist() == [0, *ends.tolist()]


def test_the_pieces_of_a_masked_stream_keep_their_masks(write_jsonl, cache):
    path = write_jsonl({"q": "prompt", "a": "x" * 40_000}, {"q": "", "a": "y" * 40_000}, {"q": "p", "a": "z"})
    train, heldout = build(path, cache, source="jsonl", field="a", prompt_field="q", masked=True, fraction=0.5)
    for file in (train, heldout):
        stream, mask = bytes(file.tokens), np.asarray(file.mask, bool)
        assert not mask.any() or not {stream[i] for i in np.flatnonzero(~mask)} - set(b"prompt")
        assert mask[np.flatnonzero(np.asarray(file.tokens) == 0)].all()


def test_what_was_left_out_is_told_from_the_cache_as_well(folder, cache):
    (folder / "image.png").write_bytes(b"\x89PNG\xff")
    (folder / "copy.txt").write_text((folder / "part0" / "0.txt").read_text())
    config = DataConfig(source="text", path=str(folder), cache_dir=str(cache), heldout_fraction=FRACTION)
    first, again = prepare(config).record, prepare(config).record
    assert first == again
    (source,) = first["sources"]
    assert (source["not_utf8"], source["duplicates"]) == (1, 1)
    assert source["train"]["documents"] + source["heldout"]["documents"] == 200
    (line,) = describe(first)
    assert line.startswith(f"{folder}: {source['train']['tokens']:,} tokens of ")
    assert line.endswith("; left out: 1 a duplicate, 1 not UTF-8")
    assert f"{folder}: 1 document left out as no UTF-8 text: convert them" in warnings(first)


def test_a_split_far_from_the_share_asked_for_and_repeated_text_are_warned_about():
    source = {"name": "x", "train": {"tokens": 9000, "documents": 3}, "heldout": {"tokens": 9000, "documents": 1}}
    record = {"digest": "", "heldout_fraction": 0.05, "sources": [source]}
    about = [warning.split(":")[0] for warning in warnings(record, epochs=10.0)]
    assert about == ["x", "the longest trial reads its text 10 times"]
    source["train"] = {"tokens": 170_000, "documents": 30}
    assert warnings(record, epochs=1.0) == []


BUILD = """
import os, pathlib, signal, sys
from scaling.data import ByteTokenizer, Source, open_corpus, tokens
point, text, cache = sys.argv[1:]

def die_in(owner, name, call=1):
    original, calls = getattr(owner, name), []
    def dying(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    setattr(owner, name, dying)

if point == "in the middle of the documents": die_in(tokens._Split, "write", 100)
if point == "between the splits": die_in(tokens._Split, "finish", 2)
if point == "before the folder gets its name": die_in(pathlib.Path, "rename")
if point == "before the pointer is written": die_in(tokens, "replacing")
if point == "before the pointer gets its name": die_in(os, "replace")
if point == "no space":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
corpus = open_corpus(Source("text", text))
if point == "two builders":
    read = corpus.read
    def slowly(tally):
        print("reading", flush=True)
        import time
        time.sleep(0.5)
        yield from read(tally)
    object.__setattr__(corpus, "read", slowly)
try:
    files = tokens.token_files(
        corpus, ByteTokenizer(), heldout_fraction=0.1, mask_prompts=False, cache=pathlib.Path(cache))
    print(*(file.digest for file in files))
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "point",
    [
        "in the middle of the documents",
        "between the splits",
        "before the folder gets its name",
        "before the pointer is written",
        "before the pointer gets its name",
    ],
)
def test_a_killed_build_is_built_again_whole(folder, cache, tmp_path, start_python, point):
    process = start_python(BUILD, point, folder, cache)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    rebuilt = build(folder, cache)
    assert [file.digest for file in rebuilt] == [file.digest for file in build(folder, tmp_path / "other")]
    assert not [name for name in leftovers(cache) if name.startswith(".building")]


def test_two_processes_that_want_the_same_files_build_them_once(folder, cache, start_python):
    processes = [start_python(BUILD, "two builders", folder, cache) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    assert sum(lines.count("reading") for lines in said) == 1
    assert said[0][-1] == said[1][-1] == " ".join(file.digest for file in build(folder, cache))


def test_a_full_disk_is_an_error_that_names_the_cache_and_loses_nothing(folder, cache, start_python):
    said, _ = start_python(BUILD, "no space", folder, cache).communicate(timeout=60)
    assert said.startswith(f"data.cache_dir: the cache {cache} cannot be written (File too large): free some space")
    assert leftovers(cache) == []
    assert build(folder, cache)[0].count > 4096


def test_a_cache_that_is_no_folder_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"data\.cache_dir: the cache .* cannot be written"):
        build(folder, tmp_path / "file")


def test_the_tokenizer_is_trained_once_on_the_train_split_only(folder, cache, monkeypatch):
    corpus = open_corpus(Source("text", str(folder)))
    secret = next(d.text for d in corpus.documents() if is_heldout(d.sha256, FRACTION))
    seen = []

    def train(texts, size):
        seen.extend(texts)
        return train_bpe(seen, size)

    monkeypatch.setattr("scaling.data.tokens.train_bpe", train)
    tokenizer = trained_tokenizer([corpus], 300, FRACTION, cache)
    assert secret not in seen and len(seen) > 150
    monkeypatch.setattr("scaling.data.tokens.train_bpe", None)
    assert trained_tokenizer([corpus], 300, FRACTION, cache).digest == tokenizer.digest
    assert json.loads(next((cache / "tokenizers").glob("*.json")).read_text())["model"]["type"] == "BPE"
