"""The transformers peer: every line on stdin draws `--samples` samples of one new prompt and answers one JSON line.

    echo | python benchmarks/peers/hf_generate.py --d_model 384 --layers 6 --heads 6 --vocab_size 256 --samples 64

A GPT-2 of random weights in float32 (or --bf16), `generate` at temperature 1 without filters. Needs torch and
transformers.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import resource
import sys
import time


def main() -> None:
    """Answer one line for each line read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("d_model", "layers", "heads", "vocab_size", "samples"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--mallopt", type=json.loads, default={})
    options = parser.parse_args()
    for option, value in options.mallopt.items():
        ctypes.CDLL(None).mallopt(int(option), value)

    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    shape = transformers.GPT2Config(
        vocab_size=options.vocab_size, n_positions=1024, n_embd=options.d_model, n_layer=options.layers,
        n_head=options.heads, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(shape).eval()
    model = model.bfloat16() if options.bf16 else model
    print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}), flush=True)
    for _ in sys.stdin:
        prompt = torch.randint(0, options.vocab_size, (1, options.prompt))
        usage, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        with torch.inference_mode():
            model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=True, top_k=0, temperature=1.0,
                max_new_tokens=options.new, min_new_tokens=options.new, num_return_sequences=options.samples,
                pad_token_id=0,
            )  # fmt: skip
        wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
        print(json.dumps({"cpu_s": cpu, "wall_s": wall}), flush=True)


if __name__ == "__main__":
    main()
