"""Blocks: what a layer costs that carries a state through a sequence, so many tokens at a time."""

from __future__ import annotations


def block_flops(seq: int, block: int, per_token: int, per_pair: int, causal: bool = True, per_block: int = 0) -> int:
    """FLOPs of one sequence of `seq` tokens in blocks of `block`.

    per_token: to enter the state and to read it, which is all that blocks of one token cost. per_pair: of each token
    with one up to it in its block; all pairs of blocks that are filled up where not `causal`. per_block: whatever the
    pairs.
    """
    size = min(block, seq)
    if size == 1:
        return seq * per_token
    whole, rest = divmod(seq, size)
    blocks = whole + (rest > 0)
    if not causal:
        return blocks * (size * (per_token + size * per_pair) + per_block)
    pairs = whole * (size * (size + 1) // 2) + rest * (rest + 1) // 2
    return seq * per_token + pairs * per_pair + blocks * per_block
