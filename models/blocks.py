"""Blocks: what a layer costs that carries a state through a sequence, so many tokens at a time."""

from __future__ import annotations


def block_flops(
    seq: int, block: int, per_token: int, per_pair: int, causal: bool = True, per_block: int = 0, alone: int | None = None
) -> int:
    """FLOPs of one sequence of `seq` tokens in blocks of `block`.

    per_token: to enter the state and to read it. per_pair: of each token with one up to it in its block; all pairs of
    blocks that are filled up where not `causal`. per_block: whatever the pairs. alone: of a token that is a block of
    its own, as in decoding; None: per_token.
    """
    if seq == 1:
        return per_token if alone is None else alone
    size = min(block, seq)
    whole, rest = divmod(seq, size)
    blocks = whole + (rest > 0)
    if not causal:
        return blocks * (size * (per_token + size * per_pair) + per_block)
    pairs = whole * (size * (size + 1) // 2) + rest * (rest + 1) // 2
    return seq * per_token + pairs * per_pair + blocks * per_block
