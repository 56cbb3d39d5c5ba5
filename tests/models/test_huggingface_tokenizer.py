"""The tokenizer of a Hugging Face folder: its files as their authors meant them, out and back, and chat templates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from models.errors import ConfigError
from models.huggingface import export_model, import_model, import_weights
from models.huggingface.tokenizer import CheckpointTokenizer, load_checkpoint_tokenizer
from scaling.data.tokenizer import ByteTokenizer
from tests.models import write_huggingface_golden as golden
from tests.models.test_huggingface import rewrite


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the qwen2 checkpoint, to which a test adds a tokenizer."""
    return shutil.copytree(golden.GOLDEN / "qwen2", tmp_path / "qwen2")


TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'tool' %}"
    "{{ raise_exception('no tools here') }}{% endif %}\n"
    "<|{{ message['role'] }}|> {{ message['content'] | trim }} <|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% generation %}{% endgeneration %}{% endif %}"
)


def make_tokenizer(folder: Path, **settings) -> None:
    """A word-level tokenizer.json with special tokens that puts <s> first, as Llama's does, and its settings."""
    words = ["<s>", "<|end|>", "<|user|>", "<|assistant|>", "<unk>", "hello", "world", "é"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(words[:5])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": {"content": "<|end|>"}, "chat_template": TEMPLATE} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_a_tokenizer_comes_with_its_first_token_its_ends_and_the_size_of_its_tokens(folder):
    make_tokenizer(folder)
    config, _, tokenizer = import_model(folder)
    assert tokenizer.vocab_size == 8 < config.vocab_size
    assert tokenizer.ends == (2, 1) and tokenizer.end_of_document == 2  # config.json, and the end of a turn
    assert tokenizer.encode("hello world <|end|>").tolist() == [0, 5, 6, 1]
    assert tokenizer.encode("hello", add_special_tokens=False).dtype == np.int32
    assert [x.tolist() for x in tokenizer.encode_batch(["hello", "world"])] == [[0, 5], [0, 6]]
    assert tokenizer.decode([5, 6, 1]) == "hello world <|end|>"
    assert tokenizer.decode([5, 6, 1], skip_special_tokens=True) == "hello world"
    assert tokenizer.token_bytes.tolist() == [0, 0, 0, 0, 0, 5, 5, 2]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 3]}))
    assert load_checkpoint_tokenizer(folder).ends == (1, 3)
    (folder / "generation_config.json").unlink()
    rewrite(folder, keys=("eos_token_id",))
    again = load_checkpoint_tokenizer(folder)
    assert again.ends == (1,) and again.digest != tokenizer.digest


def test_a_tokenizer_goes_out_with_the_model_and_comes_back(folder, tmp_path):
    make_tokenizer(folder)
    config, params, tokenizer = import_model(folder)
    export_model(tmp_path / "out", config, params, tokenizer)
    again = import_model(tmp_path / "out")[2]
    assert again.digest == tokenizer.digest and again.settings == tokenizer.settings
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == [2, 1]


def test_a_tokenizer_without_settings_gets_those_that_transformers_needs(folder, tmp_path):
    make_tokenizer(folder)

    class Ours:
        end_of_document = 1

        def save(self, path):
            shutil.copy(folder / "tokenizer.json", path)

    config, params = import_weights(folder)
    export_model(tmp_path / "out", config, params, Ours())
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings == {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    assert import_model(tmp_path / "out")[2].ends == (1,)


def test_an_export_is_whole_or_not_there(folder, tmp_path):
    config, params = import_weights(folder)

    class Full:
        end_of_document = 1

        def save(self, path):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        export_model(tmp_path / "out", config, params, Full())
    with pytest.raises(ConfigError, match="tokenizer: cannot be written as tokenizer.json: give None"):
        export_model(tmp_path / "out", config, params, object())
    assert [path.name for path in tmp_path.iterdir()] == ["qwen2"]
    (tmp_path / "out").mkdir()
    export_model(tmp_path / "out", config, params)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]


def test_bytes_are_written_as_a_tokenizer_of_the_same_tokens(tmp_path):
    ByteTokenizer().save(tmp_path / "tokenizer.json")
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 0}))
    again = load_checkpoint_tokenizer(tmp_path)
    text = "".join(map(chr, range(1, 256))) + " Ā 日本語 😀\r\n"
    assert again.encode(text).tolist() == ByteTokenizer().encode(text).tolist()
    assert again.decode(again.encode(text)) == text
    assert again.spelling[1:] == ByteTokenizer().spelling[1:]
    assert again.encode("<|endoftext|>").tolist() == [0]


def test_tokenizer_files_that_are_missing_or_damaged_are_named(folder):
    with pytest.raises(ConfigError, match=r"tokenizer.json: does not exist: write it with transformers"):
        import_model(folder)
    make_tokenizer(folder, eos_token=None)
    rewrite(folder, keys=("eos_token_id",))
    with pytest.raises(ConfigError, match=r"config.json: names no token that ends a text \(eos_token_id\)"):
        import_model(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer.json: is no tokenizer.json"):
        import_model(folder)


VOCABULARY = {"<s>": 0, "</s>": 1, "<unk>": 2, "a": 3, "Ġa": 4, "▁a": 5, "▁": 6, "<t>": 7, "Ġ": 8}


def saved(folder: Path, pre_tokenizer=None, template="$A", normalizer=None, **settings) -> CheckpointTokenizer:
    """A tokenizer of whole words in a folder with these settings, read back."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(VOCABULARY, [("▁", "a"), ("Ġ", "a")], unk_token="<unk>"))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer, tokenizer.normalizer = pre_tokenizer, normalizer
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        template, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>"} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return load_checkpoint_tokenizer(folder)


@pytest.mark.parametrize(
    ("template", "settings", "expected"),
    [
        ("$A", {}, [3]),
        ("$A", {"add_bos_token": True}, [0, 3]),
        ("<s> $A", {"add_bos_token": True}, [0, 3]),
        ("<s> $A", {"add_bos_token": False}, [3]),
        ("<s> $A </s>", {"add_bos_token": False}, [3, 1]),
        ("<s> $A", {"add_eos_token": True}, [0, 3, 1]),
        ("$A", {"add_bos_token": True, "add_eos_token": True}, [0, 3, 1]),
        ("$A", {"add_bos_token": True, "bos_token": None}, [3]),
    ],
)
def test_the_first_and_last_tokens_are_those_that_the_settings_ask_for(template, settings, expected, folder):
    tokenizer = saved(folder, template=template, **settings)
    assert tokenizer.encode("a").tolist() == tokenizer.encode_batch(["a"])[0].tolist() == expected
    assert tokenizer.encode("a", add_special_tokens=False).tolist() == [3]
    assert tokenizer.decode([3]) == "a"


def test_the_space_in_front_is_the_one_that_the_settings_ask_for(folder):
    def encode(pre_tokenizer=None, normalizer=None, **settings) -> list[int]:
        return saved(folder, pre_tokenizer, normalizer=normalizer, **settings).encode("a").tolist()

    level, space = tokenizers.pre_tokenizers.ByteLevel, tokenizers.pre_tokenizers.Metaspace
    assert encode(level(add_prefix_space=False)) == encode(level(add_prefix_space=True), add_prefix_space=False) == [3]
    assert encode(level(add_prefix_space=True)) == encode(level(add_prefix_space=False), add_prefix_space=True) == [4]
    assert encode(space()) == encode(space(), add_prefix_space=True) == [5]
    assert encode(space(prepend_scheme="never")) == encode(space(), add_prefix_space=False) == [3]
    prepend = tokenizers.normalizers.Prepend("▁")
    assert encode(normalizer=prepend) == [5]
    assert encode(normalizer=prepend, add_prefix_space=False) == [3]


def test_added_tokens_of_the_settings_are_tokens_at_the_ids_they_name(folder):
    entries = {"7": {"content": "<t>", "special": False}, "9": {"content": "<new>", "special": True}}
    tokenizer = saved(folder, added_tokens_decoder=entries)
    assert tokenizer.encode("a<t>a<new>").tolist() == [3, 7, 3, 9]
    assert tokenizer.vocab_size == 10
    assert tokenizer.decode([3, 7, 9], skip_special_tokens=True) == "a <t>"
    with pytest.raises(ConfigError, match=r"added_tokens_decoder: puts '<new>' at 10, where tokenizer.json leads to 9"):
        saved(folder, added_tokens_decoder={"10": {"content": "<new>"}})
    with pytest.raises(ConfigError, match=r"added_tokens_decoder: has an entry '9' without content"):
        saved(folder, added_tokens_decoder={"9": 3})


def test_a_chat_ends_with_the_tokenizers_token_too(folder):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7]}))
    assert saved(folder).ends == (7,)
    assert saved(folder, chat_template="x").ends == (7, 1)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ["x"]}))
    with pytest.raises(ConfigError, match=r"generation_config.json: eos_token_id is \['x'\]: give token ids"):
        saved(folder)


def test_templates_call_filters_as_transformers_lets_them(folder):
    pytest.importorskip("jinja2", reason="chat templates need jinja2, which the core install leaves out")
    call = "{{ messages[0] | tojson(ensure_ascii=%s, separators=(',', ':'), sort_keys=true) }}"
    text = '{"content":"é","role":"user"}'
    message = [{"role": "user", "content": "é"}]
    assert saved(folder, chat_template=call % "false").chat_text(message) == text
    assert saved(folder, chat_template=call % "true").chat_text(message) == text.replace("é", "\\u00e9")
    assert saved(folder, chat_template="{{ strftime_now(format='%%') }}").chat_text(message) == "%"


MESSAGES = [{"role": "user", "content": " hello "}, {"role": "assistant", "content": "world"}]


def test_a_conversation_becomes_the_tokens_of_the_chat_template(folder):
    pytest.importorskip("jinja2", reason="chat templates need jinja2, which the core install leaves out")
    make_tokenizer(folder)
    tokenizer = load_checkpoint_tokenizer(folder)
    text = "<s><|user|> hello <|end|>\n<|assistant|> world <|end|>\n"
    assert tokenizer.chat_text(MESSAGES, add_generation_prompt=False) == text
    assert tokenizer.chat_text(MESSAGES) == text + "<|assistant|>"
    assert tokenizer.chat(MESSAGES[:1]).tolist() == [0, 2, 5, 1, 3]
    assert tokenizer.chat(MESSAGES, add_generation_prompt=False).tolist() == [0, 2, 5, 1, 3, 6, 1]
    with pytest.raises(ConfigError, match=r"messages: do not fit the chat template \(no tools here\)"):
        tokenizer.chat([{"role": "tool", "content": "x"}])
    (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__ }}")
    with pytest.raises(ConfigError, match="do not fit the chat template"):  # the sandbox hides Python's insides
        load_checkpoint_tokenizer(folder).chat_text(MESSAGES)
    (folder / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(ConfigError, match="chat_template: is no template"):
        load_checkpoint_tokenizer(folder).chat_text(MESSAGES)


@pytest.mark.parametrize("content", ["world", "world  ", " world hello"])
def test_a_conversation_that_ends_with_the_models_own_turn_is_gone_on_with(content, folder):
    pytest.importorskip("jinja2", reason="chat templates need jinja2, which the core install leaves out")
    make_tokenizer(folder)
    tokenizer = load_checkpoint_tokenizer(folder)
    own = [*MESSAGES[:1], {"role": "assistant", "content": content}]
    expected = [0, 2, 5, 1, 3, *tokenizer.encode(content, add_special_tokens=False)]
    assert tokenizer.chat(own).tolist() == expected
    assert tokenizer.chat([*MESSAGES[:1], {"role": "assistant", "content": " "}]).tolist() == expected[:5]
    make_tokenizer(folder, chat_template="{{ messages[-1].content | upper }}")
    with pytest.raises(ConfigError, match="have a last one that the chat template does not write as it is"):
        load_checkpoint_tokenizer(folder).chat(own)


@pytest.mark.parametrize(
    "template", ["{{ 'a' * 2000000000 }}", "{{ 10 ** 2000000000 }}", "{{ [0] * 10 ** 9 }}", "{{ 1 // 0 }}",
                 "{{ messages.nothing.at.all }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"]
)  # fmt: skip
def test_whatever_a_template_raises_is_a_fault_of_the_messages(template, folder):
    pytest.importorskip("jinja2", reason="chat templates need jinja2, which the core install leaves out")
    make_tokenizer(folder, chat_template=template)
    with pytest.raises(ConfigError, match="messages: do not fit the chat template"):
        load_checkpoint_tokenizer(folder).chat(MESSAGES)


def test_a_text_that_is_none_is_a_fault_of_the_prompt(folder):
    make_tokenizer(folder)
    with pytest.raises(ConfigError, match=r"prompt: cannot be read by the tokenizer \('hello \\ud800'"):
        load_checkpoint_tokenizer(folder).encode("hello \ud800")


def test_without_a_chat_template_a_conversation_is_refused(folder):
    make_tokenizer(folder, chat_template=None)
    with pytest.raises(ConfigError, match="messages: the checkpoint has no chat template"):
        load_checkpoint_tokenizer(folder).chat(MESSAGES)


def test_one_of_several_chat_templates_is_the_default(folder):
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    make_tokenizer(folder, chat_template=named)
    assert load_checkpoint_tokenizer(folder).chat_template == "b"


def test_transformers_renders_the_same_conversation_and_reads_the_exported_tokenizer(folder, tmp_path):
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is left out")
    make_tokenizer(folder, tokenizer_class="PreTrainedTokenizerFast", eos_token="<|end|>")
    config, params, tokenizer = import_model(folder)
    export_model(tmp_path / "out", config, params, tokenizer)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")
    assert theirs.encode("hello world") == tokenizer.encode("hello world").tolist()
    assert isinstance(tokenizer, CheckpointTokenizer)
    rendered = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert rendered == tokenizer.chat_text(MESSAGES)
