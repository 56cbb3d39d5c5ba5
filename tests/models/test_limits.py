"""A foreign file cannot make this process allocate or compute without bounds: it is refused with what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers

from models import limits
from models.errors import ConfigError
from models.huggingface.tokenizer import load_checkpoint_tokenizer

VALUES = {"messages": [{"role": "user", "content": "hé"}], "add_generation_prompt": True}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for templates that gives up soon."""
    pytest.importorskip("jinja2", reason="chat templates need jinja2, which the core install leaves out")
    for name, value in (("SECONDS", 1), ("MEMORY", 2**28), ("CHARACTERS", 2**16)):
        monkeypatch.setattr(limits, f"TEMPLATE_{name}", value)
    monkeypatch.setattr(limits, "_CHILDREN", {})


def test_a_template_renders_what_jinja_renders(small: None) -> None:
    source = """{% for m in messages %}
<{{ m['role'] }}>{{ m.content | trim }}{% generation %}!{% endgeneration %}
{%- endfor %}{% if add_generation_prompt %}|{{ messages | tojson }}{{ x | tojson(ensure_ascii=True) }}{% endif %}"""
    found = limits.render(source, VALUES | {"x": "é"})
    assert found == '<user>hé!|[{"role": "user", "content": "hé"}]"\\u00e9"'
    assert limits.render("{{ '\ud800' }}\n{{ a }}", {"a": "\n"}) == "\ud800\n\n"


def test_a_template_renders_though_the_process_of_the_last_one_was_ended(small: None) -> None:
    assert limits.render("{{ 1 }}", {}) == "1"
    (child,) = limits._CHILDREN.values()
    child.kill()
    child.wait()
    assert limits.render("{{ 2 }}", {}) == "2"


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 2000000000 }}",
        "{{ [0] * 2000000000 }}",
        "{{ 7 ** (7 ** (7 ** 7)) }}",
        "{{ '%2000000000d' % 1 }}",
        "{{ '{:2000000000}'.format(1) }}",
        "{{ 'a' | center(2000000000) }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{% for i in range(99999) %}aaaaaaaaaaaaaaa{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages[0].content.missing.more }}",
        "{{ raise_exception('no') }}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_that_takes_too_much_is_refused_and_the_next_one_is_not(small: None, source: str) -> None:
    with pytest.raises(ConfigError, match="messages: do not fit the chat template"):
        limits.render(source, VALUES)
    assert limits.render("{{ messages[0].role }}", VALUES) == "user"


@pytest.mark.parametrize("source", ["{% if %}", "{{", "{% for x in y %}", "{{ " + "(" * 5000 + " }}"])
def test_what_is_no_template_is_said_to_be_none(small: None, source: str) -> None:
    with pytest.raises(ConfigError, match="chat_template: is no template"):
        limits.render(source, VALUES)


def test_values_that_are_no_json_are_refused(small: None) -> None:
    with pytest.raises(ConfigError, match="messages: cannot be written as JSON"):
        limits.render("", {"messages": [object()]})


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "vocab_size", "num_experts"])
def test_sizes_that_no_model_has_are_refused(name: str) -> None:
    limits.check_sizes({name: 128, "model_type": "llama", "rope_scaling": None, "sliding_window": None}, "config.json")
    for value in (10**9, 1e300, float("inf"), -(10**9), 10**50):
        with pytest.raises(ConfigError, match=rf"config\.json: {name} is .*, above \d+: copy the checkpoint again"):
            limits.check_sizes({name: value}, "config.json")


def tokenizer_file(folder: Path, change: object = None) -> Path:
    """A folder's tokenizer.json of three words, with `change` in place of the last one's id."""
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "</s>": 2}, unk_token="a"))
    written = json.loads(made.to_str())
    if change is not None:
        written["model"]["vocab"]["b"] = change
    (folder / "tokenizer.json").write_text(json.dumps(written))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return folder / "tokenizer.json"


@pytest.mark.parametrize("id", [2**31, 2**63, 10**50, -1, "1", None, True])
def test_a_token_id_that_would_fill_the_memory_is_refused(tmp_path: Path, id: object) -> None:
    path = tokenizer_file(tmp_path)
    assert load_checkpoint_tokenizer(tmp_path).ends == (2,)
    written = json.loads(path.read_text())
    if not (isinstance(id, int) and id > 10**20):
        tokenizer_file(tmp_path, id) if id is not None else None
        written["added_tokens"] = [{"id": id, "content": "<x>", "special": True}]
        if id is not None:
            with pytest.raises(ConfigError, match=r"tokenizer\.json: model\.vocab has the token id"):
                load_checkpoint_tokenizer(tmp_path)
        path.write_text(json.dumps(written))
        with pytest.raises(ConfigError, match=r"tokenizer\.json: added_tokens has the token id"):
            load_checkpoint_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match="eos_token_id has the token id"):
        limits.check_ids([0, id], "config.json", "eos_token_id")


@pytest.mark.parametrize("content", [b"[]", b"null", b"[" * 100_000, b"\xff", b'{"model": 1}', b"{}"])
def test_a_tokenizer_of_another_structure_is_refused(tmp_path: Path, content: bytes) -> None:
    tokenizer_file(tmp_path).write_bytes(content)
    with pytest.raises(ConfigError, match=r"tokenizer\.json: is no tokenizer\.json"):
        load_checkpoint_tokenizer(tmp_path)


def test_a_panic_of_the_tokenizer_is_an_error_of_its_text(tmp_path: Path) -> None:
    written = json.loads(tokenizer_file(tmp_path).read_text())
    bomb = {"type": "Split", "pattern": {"Regex": "(?:(a+)+)+$|^(a|aa)+$"}, "behavior": "Isolated", "invert": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(written | {"pre_tokenizer": bomb}))
    tokenizer = load_checkpoint_tokenizer(tmp_path)
    assert tokenizer.encode("b").tolist() == [1]
    with pytest.raises(ConfigError, match="cannot be read by the tokenizer"):
        tokenizer.encode("a" * 60 + "!")


def test_an_interrupt_passes_through() -> None:
    def interrupt() -> None:
        with limits.foreign("place", "is bad"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
