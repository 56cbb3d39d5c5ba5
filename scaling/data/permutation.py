"""A keyed permutation of 0..n-1 that is computed at any index without a table: a Feistel network."""

from __future__ import annotations

import numpy as np

_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def permute(index: np.ndarray, size: int, *, seed: int, epoch: np.ndarray | int = 0, stream: int = 0) -> np.ndarray:
    """Where the permutation of 0..size-1 that belongs to (seed, stream, epoch) sends each index.

    An alternating Feistel network permutes the smallest power of two that holds `size`; an image outside the
    range is sent through it again ("cycle walking", Black & Rogaway 2002), which leaves a permutation of the range.

    Args:
      index: [...] integers in [0, size).
      seed: in [0, 2^63).
      epoch: [...] integers, broadcast against index: every epoch has a permutation of its own.
      stream: what the permutation is for, so that uses under one seed are independent.

    Returns:
      [...] int64 in [0, size).
    """
    index = np.asarray(index)
    keys = np.broadcast_to(_keys(seed, stream, np.asarray(epoch)), index.shape).ravel()
    bits = max(size - 1, 1).bit_length()
    image = _feistel(index.astype(np.uint64).ravel(), keys, bits)
    outside = np.flatnonzero(image >= size)
    while outside.size:
        image[outside] = _feistel(image[outside], keys[outside], bits)
        outside = outside[image[outside] >= size]
    return image.astype(np.int64).reshape(index.shape)


def _feistel(value: np.ndarray, keys: np.ndarray, bits: int) -> np.ndarray:
    """Each round adds a keyed hash of one half to the other half, which the next round can undo: a bijection."""
    low_bits = np.uint64(bits // 2)
    masks = np.uint64((1 << (bits - bits // 2)) - 1), np.uint64((1 << (bits // 2)) - 1)
    halves = [value >> low_bits, value & masks[1]]
    for number in range(_ROUNDS):
        side = number % 2
        hashed = _mix(halves[1 - side] + keys + _GOLDEN * np.asarray([number], np.uint64))
        halves[side] = (halves[side] ^ (hashed >> np.uint64(32))) & masks[side]
    return (halves[0] << low_bits) | halves[1]


def _keys(seed: int, stream: int, epoch: np.ndarray) -> np.ndarray:
    start = _mix(_mix(np.asarray([seed], np.uint64) + _GOLDEN) + np.asarray([stream], np.uint64))
    return _mix(start + _GOLDEN * epoch.astype(np.uint64)).reshape(epoch.shape)


def _mix(value: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014), arithmetic modulo 2^64."""
    value = (value ^ (value >> np.uint64(30))) * _MIX[0]
    value = (value ^ (value >> np.uint64(27))) * _MIX[1]
    return value ^ (value >> np.uint64(31))
