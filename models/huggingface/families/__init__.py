"""The Hugging Face model families that a ModelConfig can express: one file each, and one entry in this list."""

from __future__ import annotations

from models.huggingface.families import gemma, gemma2, gemma3, gpt2, llama, mamba2, mistral, qwen2, qwen3

# in the order in which an export tries them: the simplest family that can express a config wins
_FILES = (llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3, gpt2, mamba2)
FAMILIES = {file.FAMILY.model_type: file.FAMILY for file in _FILES}

__all__ = ["FAMILIES"]
