"""Blocks: what a layer costs that carries a state through a sequence, so many tokens at a time."""

from __future__ import annotations

INVERTED_WHOLE = 16  # rows of a triangle that is inverted without being cut into blocks, a power of two


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


def inverse_flops(size: int) -> int:
    """FLOPs of the inverse of one unit triangle of `size` rows, filled up to a power of two C (models.recurrence):
    4 C b^2 (log2 b - 1) in pieces of b = min(C, INVERTED_WHOLE) rows, and 2/3 C (C^2 - b^2) to join them."""
    whole = 1 << (size - 1).bit_length()
    piece = min(whole, INVERTED_WHOLE)
    return 4 * whole * piece**2 * max(piece.bit_length() - 2, 0) + 2 * whole * (whole**2 - piece**2) // 3
