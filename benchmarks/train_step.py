"""One training step, ours against torch's: CPU seconds, tokens/s and MFU.

    python benchmarks/train_step.py [--quick] [--cases tiny,small] [--torch_python PATH] [--bf16] [--compile]
    JAX_PLATFORMS=cuda python benchmarks/train_step.py --cases 350m

Our side is the library's own program, state donated and batches from the host; the peer is peers/torch_train.py, null
where its Python has no torch. 350m is for a GPU (bfloat16, seq 2048) and has published figures for a peer.
"""

from __future__ import annotations

import dataclasses

import harness

CASES = {
    "micro": harness.Case("micro", "MICRO", batch_size=4, seq_len=64, chunk=32),
    "tiny": harness.Case("tiny", "TINY", batch_size=16, seq_len=256),
    "small": harness.Case("small", "SMALL", batch_size=4, seq_len=256),
    "350m": harness.Case("350m", "LLAMA_350M", batch_size=16, seq_len=2048, dtype="bfloat16", chunk=4),
}


def main() -> None:
    """Print one line per case."""
    options = harness.parser(__doc__ or "", "tiny,small").parse_args()
    malloc = harness.prepare(options.core)
    for name in options.cases.split(","):
        case = CASES[name]
        if options.bf16:
            case = dataclasses.replace(case, dtype="bfloat16")
        harness.compare("train_step", case, options, malloc, peer=name != "350m")


if __name__ == "__main__":
    main()
