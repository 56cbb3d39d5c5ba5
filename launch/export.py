"""Write a trial as a folder that Hugging Face's transformers, vLLM and others read.

    python -m launch.export --checkpoint runs/x/trials/0123456789ab --out exported/x

The folder holds config.json, safetensors and the tokenizer. A model whose shape no published family has is refused,
with the field that keeps it from the nearest one.
"""

from __future__ import annotations

from typing import Any

from launch import cli

FLAGS = cli.new_flags()
cli.DEFINE_string("checkpoint", None, "directory of a finished trial", flag_values=FLAGS, required=True)
cli.DEFINE_string("out", None, "folder to make", flag_values=FLAGS, required=True)
cli.DEFINE_string("family", "", "such as llama; by default the first that fits", flag_values=FLAGS)


def main(checkpoint: str, out: str, family: str) -> int:
    import jax

    from models import counts
    from models.huggingface import export_model
    from scaling.report import numbers
    from search.policy import load_policy

    jax.config.update("jax_platforms", "cpu")  # weights go from file to file
    policy = load_policy(checkpoint)
    savable: Any = policy.tokenizer if hasattr(policy.tokenizer, "save") else None
    export_model(out, policy.model, policy.params, savable, model_type=family or None)
    note = "" if savable else "; without a tokenizer, as this one (characters of tasks) has no such form"
    print(f"{out}: {numbers.count(counts.params(policy.model))} parameters of {checkpoint}{note}")
    return 0


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
