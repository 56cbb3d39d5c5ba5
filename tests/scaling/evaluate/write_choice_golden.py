"""Write tests/scaling/evaluate/golden/llama_choices.json: choices scored by `transformers` on the golden Llama.

Needs torch and transformers, which the tests do not, and nothing of this project:

    python tests/scaling/evaluate/write_choice_golden.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
CHECKPOINT = HERE.parents[1] / "models" / "golden" / "llama"
BEGIN = 1


def main() -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    items = []
    for _ in range(8):
        context = [BEGIN, *rng.integers(3, 64, int(rng.integers(17, 25))).tolist()]
        choices = [rng.integers(3, 64, int(n)).tolist() for n in rng.integers(1, 7, 4)]
        items.append({
            "context": context, "empty": [BEGIN], "choices": choices,
            "logprobs": [score(model, context, choice) for choice in choices],
            "unconditional": [score(model, [BEGIN], choice) for choice in choices],
        })  # fmt: skip
    (HERE / "golden" / "llama_choices.json").write_text(json.dumps(items, indent=1) + "\n")


def score(model: transformers.PreTrainedModel, context: list[int], continuation: list[int]) -> float:
    """Summed log-probability, nats, in one pass over this pair alone."""
    ids = torch.tensor([context + continuation])
    with torch.no_grad():
        nats = model(ids).logits[0, :-1].double().log_softmax(-1)
    return float(sum(nats[len(context) - 1 + i, token] for i, token in enumerate(continuation)))


if __name__ == "__main__":
    main()
