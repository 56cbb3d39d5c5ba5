"""A converting autoencoder: what it says, loses and costs is that of plain matrices, and targets are easy ones."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from models import converting
from models.converting import Converted, Converting
from models.errors import ConfigError
from models.weight import walk
from scaling.tasks.images import KINDS, Images
from tests.models.jaxprs import jaxpr_flops
from tests.models.test_parts import quick

OWN = Converting(inputs=64, classes=4, encoder=(24, 6), classifier=(8,), sparsity=0.01)
TASK = Images(classes=4, shift=0, flipped=0.15)
DATA = TASK.draw(np.random.default_rng(0), 80)
X = np.float32(TASK.pixels(DATA.tokens).reshape(80, 64))
CLASSES = DATA.labels[:, -1] - KINDS - 1
PARAMS = jax.tree.map(np.asarray, converting.init(OWN, jax.random.key(0)))
TARGETS = X[converting.partners(np.random.default_rng(1), CLASSES, np.arange(80) % 3 > 0)]


def losses(params, x):
    found = converting.apply(OWN, params, x)
    return converting.conversion_loss(OWN, found, TARGETS), converting.classification_loss(found.logits, CLASSES), found


def through(layers, x):
    for i in range(len(layers)):
        x = (np.maximum(x, 0) if i else x) @ np.float64(layers[str(i)]["product"]) + layers[str(i)]["bias"]
    return x


def test_images_logits_and_losses_are_those_of_plain_matrices_and_neither_loss_reaches_the_others_weights() -> None:
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda w: np.float32(w + 0.1 * rng.standard_normal(w.shape)), PARAMS)

    @quick
    def run(params):
        *both, found = losses(params, X)
        return both, found, jax.jacrev(lambda p: losses(p, X)[:2])(params)

    both, found, gradients = run(params)
    code = through(params["encoder"], np.float64(X))
    image = 1 / (1 + np.exp(-through(params["decoder"], code)))
    logits = through(params["classifier"], image)
    for got, want in zip(found, Converted(code, image, logits), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    converted, classified = 0.0, 0.0
    for row in range(80):
        converted += ((image[row] - TARGETS[row]) ** 2).mean() + 0.01 * abs(code[row]).sum()
        classified += np.log(np.exp(logits[row]).sum()) - logits[row, CLASSES[row]]
    np.testing.assert_allclose(both, (converted / 80, classified / 80), rtol=1e-5)
    for tree, of_classifier in zip(gradients, (False, True), strict=True):
        for path, slope in flatten_dict(tree).items():
            assert (abs(slope).max() > 0) == ((path[0] == "classifier") == of_classifier), path


def test_flops_are_those_of_the_jaxpr() -> None:
    walked = jaxpr_flops(jax.make_jaxpr(partial(converting.apply, OWN))(PARAMS, X).jaxpr)
    counted = converting.flops(OWN)
    half = 2 * (64 * 24 + 24 * 6)
    assert counted == {"encoder": half, "decoder": half, "classifier": 2 * (64 * 8 + 8 * 4)}
    assert walked == 80 * sum(counted.values())
    alone = jaxpr_flops(jax.make_jaxpr(converting.classify)(PARAMS, X).jaxpr)
    assert alone == 80 * counted["classifier"]
    assert {path: x.shape for path, x in flatten_dict(PARAMS).items()} == {
        path: w.shape for path, w in walk(converting.weights(OWN))
    }


def test_every_target_is_an_easy_image_of_the_class_and_all_of_them_are_drawn() -> None:
    logits = np.float32([[0, 0, 0, 0], [9, 0, 0, 0], [1e4, 0, 0, 0]])
    p = np.exp([9, 0, 0, 0]) / np.exp([9, 0, 0, 0]).sum()
    np.testing.assert_allclose(converting.entropy(logits), [np.log(4), -(p * np.log(p)).sum(), 0], rtol=1e-4, atol=1e-6)
    classes, easy = np.array([0, 1, 0, 1, 0, 0] * 50), np.arange(300) < 5
    found = converting.partners(np.random.default_rng(3), classes, easy)
    assert (classes[found] == classes).all() and set(found) == {0, 1, 2, 3, 4}
    share = np.bincount(found[classes == 0])[[0, 2, 4]] / 200
    np.testing.assert_allclose(share, 1 / 3, atol=0.13)  # 4 deviations


def test_what_cannot_be_is_said_in_one_line() -> None:
    for make, told in (
        (partial(Converting, encoder=()), "converting.encoder: is (): give positive widths"),
        (partial(Converting, classes=1), "converting.classes: is 1: give 2 or more"),
        (partial(Converting, sparsity=-1.0), "converting.sparsity: is -1.0: give a factor, or 0 for none"),
        (partial(converting.partners, np.random.default_rng(0), np.array([0, 1]), np.array([True, False])),
         "threshold: leaves class 1 without an easy image: raise it"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as error:
            make()
        assert str(error.value) == told
