from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import sys
import tomllib
import types
from pathlib import Path

import pyarrow as pa
import pytest

from models.errors import ConfigError
from scaling.data import DataConfig, Source, open_corpus
from scaling.data.corpus import EMBEDDED_DISTRIBUTIONS, Tally, embedded_files, is_heldout


def texts(source):
    return [document.text for document in open_corpus(source).documents()]


@pytest.fixture(scope="module")
def embedded():
    tally = Tally()
    return list(open_corpus(Source()).documents(tally)), tally


def test_the_embedded_corpus_is_tens_of_megabytes_of_unique_documents(embedded):
    documents, tally = embedded
    assert sum(len(document.text) for document in documents) > 30e6
    assert len({document.sha256 for document in documents}) == len(documents) == tally.kept


def test_the_embedded_corpus_reads_only_the_listed_distributions_and_no_tests():
    names = [file.name for file in embedded_files()]
    assert {name.split("/")[0] for name in names} <= {"python", *EMBEDDED_DISTRIBUTIONS}
    assert not [name for name in names if "/tests/" in name or "/test/" in name or "site-packages" in name]
    assert names == sorted(names)


def test_the_listed_distributions_are_dependencies_of_the_project():
    declared = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(EMBEDDED_DISTRIBUTIONS) <= {re.match(r"[\w-]+", requirement)[0] for requirement in declared}


def test_listing_the_embedded_corpus_imports_nothing(start_python):
    program = (
        "import sys\n"
        "from scaling.data.corpus import embedded_files\n"
        "before = set(sys.modules)\n"
        "embedded_files()\n"
        "assert not {'jax', 'scipy', 'pandas', 'matplotlib', 'flax'} & (set(sys.modules) - before)\n"
    )
    process = start_python(program)
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 0


def test_a_missing_distribution_is_named(monkeypatch):
    monkeypatch.setattr("scaling.data.corpus.EMBEDDED_DISTRIBUTIONS", ("no-such-distribution",))
    with pytest.raises(ConfigError, match=r"'no-such-distribution', which is not installed: pip install"):
        open_corpus(Source())


def test_the_order_of_a_folder_does_not_depend_on_where_it_lies(folder, tmp_path):
    moved = tmp_path / "elsewhere" / "copy"
    shutil.copytree(folder, moved)
    assert texts(Source("text", str(folder))) == texts(Source("text", str(moved)))
    assert len(texts(Source("text", str(folder)))) == 200


def test_the_fingerprint_notices_a_changed_file(folder):
    source = Source("text", str(folder))
    before = open_corpus(source).fingerprint
    assert open_corpus(source).fingerprint == before
    (folder / "part0" / "0.txt").write_text("something else")
    assert open_corpus(source).fingerprint != before


def test_duplicates_empty_and_binary_files_are_left_out_and_counted(tmp_path):
    for name, content in {"a": b"one", "b": b"one", "c": b"", "d": b"\xff\xfe", "e": b"two"}.items():
        (tmp_path / name).write_bytes(content)
    tally = Tally()
    found = [document.text for document in open_corpus(Source("text", str(tmp_path))).documents(tally)]
    assert found == ["one", "two"]
    assert tally == Tally(kept=2, duplicates=1, empty=1, not_utf8=1)


def test_documents_with_nul_bytes_are_binary_and_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one\\u0000"}\n{"text": "two"}\n')
    tally = Tally()
    assert [d.text for d in open_corpus(Source("jsonl", str(tmp_path))).documents(tally)] == ["two"]
    assert tally == Tally(kept=1, binary=1)
    (tmp_path / "b.txt").write_bytes("UTF-16 text".encode("utf-16-le"))
    with pytest.raises(ConfigError, match="holds no text .*1 binary documents"):
        texts(Source("text", str(tmp_path / "b.txt")))


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_a_byte_order_mark_is_no_text(tmp_path, kind):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n', encoding="utf-8-sig")
    expected = ["one", "two"] if kind == "jsonl" else ['{"text": "one"}\n{"text": "two"}\n']
    assert texts(Source(kind, str(tmp_path))) == expected


def test_packed_files_are_unpacked_by_their_names(tmp_path):
    lines = b'{"text": "one"}\n{"text": "two"}\n'
    with pa.CompressedOutputStream(str(tmp_path / "a.jsonl.zst"), "zstd") as file:
        file.write(lines)
    (tmp_path / "b.JSONL.GZ").write_bytes(gzip.compress(b'{"text": "three"}\n'))
    assert texts(Source("jsonl", str(tmp_path))) == ["one", "two", "three"]
    assert texts(Source("text", str(tmp_path / "a.jsonl.zst"))) == [lines.decode()]
    whole = (tmp_path / "a.jsonl.zst").read_bytes()
    (tmp_path / "a.jsonl.zst").write_bytes(whole[:-4])
    with pytest.raises(ConfigError, match=r"a\.jsonl\.zst: cannot be read"):
        texts(Source("jsonl", str(tmp_path)))


def test_linked_folders_are_entered_once_each(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("linked")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "b.txt").write_text("own")
    (tmp_path / "text" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "text")
    assert sorted(texts(Source("text", str(tmp_path / "text")))) == ["linked", "own"]


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "a.txt").write_text("text")
    assert texts(Source("text", str(tmp_path))) == ["text"]
    with pytest.raises(ConfigError, match="pipe.txt: is neither a file nor a folder"):
        open_corpus(Source("text", str(tmp_path / "pipe.txt")))


def test_long_documents_are_cut_before_the_split(tmp_path):
    (tmp_path / "text").mkdir()
    book = "".join(f"line {number} of a book\n" for number in range(20_000))
    (tmp_path / "text" / "book.txt").write_text(book)
    (tmp_path / "text" / "note.txt").write_text("seven tokens")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": book}) + '\n{"text": "note"}\n')
    for source in (Source("text", str(tmp_path / "text")), Source("jsonl", str(tmp_path / "a.jsonl"))):
        documents = list(open_corpus(source).documents())
        assert max(len(document.text) for document in documents) < 20_000 and len(documents) > 20
    pieces = [document for document in documents if document.text != "note"]
    assert "".join(piece.text for piece in pieces) == book
    assert [piece.continues for piece in pieces] == [False] + [True] * (len(pieces) - 1)


def test_a_piece_whose_neighbour_was_a_duplicate_continues_nothing(tmp_path):
    same = "x" * 512 + "\n"
    (tmp_path / "a.txt").write_text(same + same + "b" * 2000 + "\n")
    documents = list(open_corpus(Source("text", str(tmp_path / "a.txt"))).documents())
    assert [(d.text[:1], d.continues) for d in documents] == [("x", False), ("b", False), ("b", True)]


def test_a_single_text_file_is_cut_into_documents_at_line_ends(tmp_path):
    path = tmp_path / "book.txt"
    content = "".join(f"line {number} of a longer book\r\n" for number in range(5000))
    path.write_bytes(content.encode())
    pieces = texts(Source("text", str(path)))
    assert "".join(pieces) == content
    assert len(pieces) > 5 and all(piece.endswith("\n") for piece in pieces)


def test_a_text_file_without_line_ends_is_still_cut(tmp_path):
    path = tmp_path / "line.txt"
    path.write_text("".join(str(number) for number in range(50_000)))
    pieces = texts(Source("text", str(path)))
    assert "".join(pieces) == path.read_text() and len(pieces) > 5


def test_jsonl_reads_a_field_of_plain_and_compressed_files(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "one"}\n\n{"body": "two"}\n')
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"body": "three"}\n'))
    (tmp_path / "readme.txt").write_text("not data")
    assert texts(Source("jsonl", str(tmp_path), "body")) == ["one", "two", "three"]


def test_jsonl_prompts_precede_the_text(write_jsonl):
    path = write_jsonl({"q": "1+1=", "a": "2"}, {"q": "2+2=", "a": "4"}, {"q": "2+2=", "a": "4"})
    documents = list(open_corpus(Source("jsonl", path, "a", prompt_field="q")).documents())
    assert [(document.prompt, document.text) for document in documents] == [("1+1=", "2"), ("2+2=", "4")]


def test_lines_that_are_not_utf8_or_not_unicode_are_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n{"text": "\xff"}\n{"text": "\\ud800"}\n')
    tally = Tally()
    assert [document.text for document in open_corpus(Source("jsonl", str(path))).documents(tally)] == ["fine"]
    assert tally.not_utf8 == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"txt": "a"}', "data.jsonl:2: has no field 'text', but 'txt': did you mean data.field='txt'?"),
        ("{}", "data.jsonl:2: has no field 'text', but none: set data.field"),
        ('{"text": 3}', "data.jsonl:2: field 'text' is int, not text"),
        ('"text"', "data.jsonl:2: is not a JSON object"),
        ('{"text": ', "data.jsonl:2: is not JSON"),
        ('{"text": ' + "[" * 10**5 + "]" * 10**5 + "}", "data.jsonl:2: is not JSON that can be read"),
        ('{"text": ' + "9" * 5000 + "}", "data.jsonl:2: is not JSON that can be read"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path, line, message):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(ConfigError) as caught:
        texts(Source("jsonl", str(path)))
    assert message in str(caught.value)


def test_a_missing_path_is_named():
    with pytest.raises(ConfigError, match="/no/such/folder: does not exist: "):
        open_corpus(Source("text", "/no/such/folder"))


def test_a_folder_without_files_of_the_kind_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no \*\.jsonl files"):
        open_corpus(Source("jsonl", str(tmp_path)))


@pytest.mark.parametrize("content", [{"a": b""}, {"a": b"", "b": b"\xff"}])
def test_a_corpus_without_text_is_named(tmp_path, content):
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match="holds no text"):
        texts(Source("text", str(tmp_path)))


def test_a_single_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"a\.bin: is not UTF-8 .*: convert it to UTF-8"):
        texts(Source("text", str(tmp_path / "a.bin")))


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, kind):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"text": "x"}')
    corpus = open_corpus(Source(kind, str(tmp_path)))
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"b\.jsonl: cannot be read"):
        list(corpus.documents())


def test_a_damaged_gzip_file_is_named(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n' * 1000)[:-12])
    with pytest.raises(ConfigError, match=r"a\.jsonl\.gz: cannot be read"):
        texts(Source("jsonl", str(tmp_path)))


class Rows(list):
    """What `datasets.load_dataset` returns, as far as we use it."""

    column_names = ("text", "label")
    _fingerprint = "f00d"


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the `datasets` library, which would need the network."""
    asked = []

    def load_dataset(name, configuration, *, split):
        asked.append((name, configuration, split))
        if name == "owner/private":
            raise RuntimeError("gated")
        return Rows([{"text": "one", "label": 0}, {"text": "two", "label": 1}])

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    module.__spec__ = types.SimpleNamespace(name="datasets")
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_a_hub_dataset_is_read_by_name_and_configuration(hub):
    assert texts(Source("hub", "owner/name:config")) == ["one", "two"]
    assert hub == [("owner/name", "config", "train")]
    assert texts(Source("hub", "owner/name")) == ["one", "two"]
    assert hub[-1] == ("owner/name", None, "train")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source("hub", "owner/private"), "owner/private: cannot be loaded (RuntimeError: gated): check the name"),
        (
            Source("hub", "owner/name", "body"),
            "owner/name: has no field 'body': set data.field to one of 'text'",
        ),
    ],
)
def test_a_hub_dataset_that_cannot_be_used_is_named(hub, source, message):
    with pytest.raises(ConfigError) as caught:
        open_corpus(source)
    assert message in str(caught.value)


def test_a_hub_dataset_without_the_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the `datasets` library: pip install 'isoflop\[hf\]'"):
        open_corpus(DataConfig(source="hub", path="owner/name").sources[0])


def test_a_document_stays_on_its_side_whatever_else_is_added_or_moved(folder, tmp_path):
    def heldout(root):
        documents = open_corpus(Source("text", str(root))).documents()
        return {document.text for document in documents if is_heldout(document.sha256, 0.2)}

    before = heldout(folder)
    other = tmp_path / "other"
    for number, path in enumerate(sorted(folder.rglob("*.txt"), reverse=True)):
        (other / str(number % 7)).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, other / str(number % 7) / f"renamed{number}")
    (other / "new.txt").write_text("a new document")
    assert heldout(other) - {"a new document"} == before
    assert 20 <= len(before) <= 60  # of 200 at a fraction of 0.2: within 3.5 standard deviations


def test_a_larger_heldout_fraction_only_adds_documents(folder):
    shas = [document.sha256 for document in open_corpus(Source("text", str(folder))).documents()]
    small, large = ({sha for sha in shas if is_heldout(sha, fraction)} for fraction in (0.1, 0.3))
    assert small < large
