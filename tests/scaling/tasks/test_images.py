"""Images: patches give the pixels back, an image is its class moved, and noise is as frequent as said."""

from __future__ import annotations

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.tasks import images
from scaling.tasks.images import KINDS, Images


def pixels(tokens: list[int]) -> np.ndarray:
    """The image that patches show, pixel by pixel."""
    wide = round((len(tokens) - 1) ** 0.5)
    image = np.zeros((2 * wide, 2 * wide), int)
    for at, patch in enumerate(tokens[:-1]):
        row, column = 2 * (at // wide), 2 * (at % wide)
        for i, bit in enumerate(f"{patch:04b}"):
            image[row + i // 2, column + i % 2] = int(bit)
    return image


def test_patches_give_the_pixels_back_and_an_image_is_its_class_moved() -> None:
    kind = Images(classes=6, first=3, most=10, shift=1, flipped=0.0)
    data = kind.draw(np.random.default_rng(0), 60)
    patterns = images._patterns(kind)
    assert data.tokens.shape == (60, 17) and (data.tokens[:, -1] == KINDS).all() and kind.vocab_size == 27
    assert data.scored.sum() == 60 and data.scored[:, -1].all()
    moves = set()
    for tokens, label in zip(data.tokens.tolist(), data.labels[:, -1].tolist(), strict=True):
        pattern, seen = patterns[label - KINDS - 1 - kind.first], pixels(tokens)
        fits = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (np.roll(pattern, (y, x), (0, 1)) == seen).all()]
        assert fits
        moves.update(fits)
    assert len(moves) == 9
    shown = np.stack([pixels(tokens) for tokens in data.tokens.tolist()])
    assert (kind.pixels(data.tokens) == shown).all()
    assert (kind.sequences(shown, np.zeros(60, int)).tokens == data.tokens).all()


def test_pixels_and_labels_are_wrong_as_often_as_said_and_classes_do_not_depend_on_their_neighbours() -> None:
    kind = Images(classes=4, shift=0, flipped=0.2, noise=0.3)
    data = kind.draw(np.random.default_rng(1), 3000)
    patterns = images._patterns(Images(classes=4))
    seen = np.stack([pixels(tokens) for tokens in data.tokens.tolist()])
    distance = (seen[:, None] != patterns).mean((2, 3))  # [images, classes]
    nearest = distance.argmin(1)
    assert abs(distance.min(1).mean() - 0.2) < 0.01
    assert abs((nearest != data.labels[:, -1] - KINDS - 1).mean() - 0.3) < 0.03
    assert np.abs(np.bincount(nearest, minlength=4) - 750).max() < 5 * np.sqrt(750)
    assert (images._patterns(Images(classes=2, first=2)) == patterns[2:]).all()
    assert (patterns.mean((1, 2)) == 0.5).all()
    with pytest.raises(ConfigError, match="classes"):
        Images(classes=20, first=20)


def test_larger_images_have_the_same_waves() -> None:
    kind = Images(classes=3, shift=0, flipped=0.0, side=12)
    data = kind.draw(np.random.default_rng(2), 5)
    assert data.tokens.shape == (5, kind.size) == (5, 37)
    patterns = images._patterns(kind)
    for tokens, label in zip(data.tokens.tolist(), data.labels[:, -1].tolist(), strict=True):
        assert (pixels(tokens) == patterns[label - KINDS - 1]).all()
    with pytest.raises(ConfigError, match="side"):
        Images(side=9)
