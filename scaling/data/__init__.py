"""Data: text -> tokens -> `batch(step)`.

config.py         DataConfig, Source: which text, tokenizer, split and order
corpus.py         the documents of a source (embedded, text, jsonl, hub)
tokenizer.py      bytes, trained BPE, or a tokenizer.json
tokens.py         token files on disk, built once, memory-mapped
permutation.py    the seeded order, computed at any index
mixture.py        which source an example comes from
batches.py        Batches.batch(step), its manifest
heldout.py        the held-out windows and their bytes
summary.py        what a person should know of it
dataset.py        prepare(config) -> Dataset: all of it together
grain_adapter.py  the same batches as a grain dataset
"""

from scaling.data.batches import Batches, check_manifest
from scaling.data.config import DataConfig, Source
from scaling.data.corpus import Corpus, Document, open_corpus
from scaling.data.dataset import Dataset, check_vocabulary, prepare, tokenizer_of
from scaling.data.heldout import HeldOut, heldout_batches
from scaling.data.tokenizer import ByteTokenizer, FileTokenizer, Tokenizer, load_tokenizer, train_bpe
from scaling.data.tokens import TokenFile

__all__ = [
    "Batches",
    "ByteTokenizer",
    "Corpus",
    "DataConfig",
    "Dataset",
    "Document",
    "FileTokenizer",
    "HeldOut",
    "Source",
    "TokenFile",
    "Tokenizer",
    "check_manifest",
    "check_vocabulary",
    "heldout_batches",
    "load_tokenizer",
    "open_corpus",
    "prepare",
    "tokenizer_of",
    "train_bpe",
]
