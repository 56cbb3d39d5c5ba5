"""The engine generates with each kind of family (windows, soft-caps, rope scaling) what the plain model gives."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import transformer
from models.config import ModelConfig
from models.huggingface import import_config, import_weights
from search.engine.config import EngineConfig
from search.engine.engine import Engine
from search.engine.request import Request
from search.engine.sampling import Sampling

GOLDEN = Path(__file__).resolve().parents[1] / "models" / "golden"
SIZES = EngineConfig(slots=2, max_len=32, page_size=8, prefill_chunk=16, stage_tokens=8, share_rows=2)


def apart(model: ModelConfig) -> tuple[object, ...]:
    """What the engine tells families apart by: what is kept, seen and scaled; not norms, activations or biases."""
    layers = tuple(
        (type(layer.mixer), type(layer.channel), getattr(layer.mixer, "window", None) is not None,
         getattr(layer.mixer, "softcap", None) is not None, getattr(layer.mixer, "gated", False),
         (rotary := getattr(layer.mixer.resolved(model.stream), "rotary", None)) and rotary.scaling is not None)
        for layer in model.layers
    )  # fmt: skip
    scaled = model.embedding_scale, model.logit_scale, model.logit_softcap, model.scale_embeddings
    return *dict.fromkeys(layers), type(model.wired), model.positions, model.tied_embeddings, *scaled


def families() -> list[str]:
    """The first family of each kind."""
    folders = sorted(path for path in GOLDEN.iterdir() if path.is_dir())
    found = {apart(import_config(folder)): folder.name for folder in reversed(folders)}
    return sorted(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("family", families())
def test_engine_gives_the_tokens_of_the_plain_model(family: str) -> None:
    model, params = import_weights(GOLDEN / family)[:2]
    rng = np.random.default_rng(0)
    prompts = [tuple(int(t) for t in rng.integers(0, model.vocab_size, n)) for n in (3, 20)]
    greedy = Sampling(temperature=0)
    requests = [Request(i, prompt, samples=2, max_tokens=8, sampling=greedy) for i, prompt in enumerate(prompts)]
    done = list(Engine(model, params, SIZES).generate(requests))
    assert len(done) == 4
    for completion in done:
        prompt = prompts[completion.problem]
        logits = transformer.apply(model, params, jnp.asarray([[*prompt, *completion.tokens]]))[0, len(prompt) - 1 : -1]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(completion.tokens)[:, None], 1)[:, 0]
        np.testing.assert_allclose(completion.logprobs, chosen, atol=2e-5)  # float32 sums of 64 logits below 10
        assert completion.tokens == tuple(int(t) for t in logits.argmax(-1))
