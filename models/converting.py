"""An autoencoder that maps a hard image to an easy one of its class, before a light classifier (CBNet, Mahmud et al.
2024).

    code = E(x),    image = sigmoid(D(code)),    logits = C(image)

E, D and C are products with biases and ReLUs between them; D has the widths of E in reverse. An image is easy where the
entropy of what an early exit says about it is below a threshold, and everything that is not costs a network with exits
its later layers: here every image costs E, D and C. In training each has an easy one of its class as its target, and

    loss of E and D = mean over pixels (image - target)^2 + sparsity sum |code|,    loss of C = its cross-entropy,

both means over images. Neither loss has a gradient in the other's weights. FLOPs are those of the products.
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from models.contraction import contract
from models.counts import tree_flops
from models.errors import require
from models.weight import Weight, walk

Params = dict[str, Any]


@dataclass(frozen=True)
class Converting:
    """Widths of the three networks."""

    inputs: int = 64  # pixels
    classes: int = 10
    encoder: tuple[int, ...] = (32, 8)  # widths behind the pixels; the last is the code's
    classifier: tuple[int, ...] = (16,)  # widths between pixels and classes; (): one product
    sparsity: float = 0.0  # factor on the sum of the code's magnitudes

    def __post_init__(self) -> None:
        require(self.inputs >= 1, "converting.inputs", f"is {self.inputs}", "give a number of pixels")
        require(self.classes >= 2, "converting.classes", f"is {self.classes}", "give 2 or more")
        for field, least in (("encoder", 1), ("classifier", 0)):
            widths = getattr(self, field)
            fits, fix = len(widths) >= least and all(w >= 1 for w in widths), "give positive widths"
            require(fits, f"converting.{field}", f"is {widths}", fix)
        require(self.sparsity >= 0, "converting.sparsity", f"is {self.sparsity}", "give a factor, or 0 for none")

    @property
    def widths(self) -> dict[str, tuple[int, ...]]:
        """Those of each network, with what it reads and what it says."""
        coded = (self.inputs, *self.encoder)
        light = (self.inputs, *self.classifier, self.classes)
        return {"encoder": coded, "decoder": coded[::-1], "classifier": light}


class Converted(NamedTuple):
    """code `[rows, width]`, image `[rows, inputs]` in (0, 1) and logits `[rows, classes]`, as the inputs' dtype."""

    code: jax.Array
    image: jax.Array
    logits: jax.Array


def weights(own: Converting) -> dict[str, dict[str, dict[str, Weight]]]:
    """Of `encoder`, `decoder` and `classifier`: product `[in, out]` and bias `[out]` of layers "0", "1", .."""
    return {
        name: {str(i): _declared(*sizes) for i, sizes in enumerate(itertools.pairwise(widths))}
        for name, widths in own.widths.items()
    }


def _declared(inputs: int, outputs: int) -> dict[str, Weight]:
    std = (2 / inputs) ** 0.5  # keeps the size of what ReLUs pass (He et al. 2015)
    product = Weight((inputs, outputs), ("inputs", "outputs"), "matrix", std=std)
    return {"product": product, "bias": Weight((outputs,), ("outputs",), "vector")}


def init(own: Converting, key: jax.Array) -> Params:
    """Initial parameters, float32."""
    named = ((path, w, zlib.crc32("/".join(path).encode())) for path, w in walk(weights(own)))
    return unflatten_dict({path: w.initial(jax.random.fold_in(key, name)) for path, w, name in named})


def flops(own: Converting) -> dict[str, int]:
    """Forward FLOPs of each network for one image."""
    return {name: tree_flops(tree) for name, tree in weights(own).items()}


def apply(own: Converting, params: Params, x: jax.Array) -> Converted:
    """x `[rows, inputs]`, pixels from 0 to 1."""
    code = _through(params["encoder"], x)
    image = jax.nn.sigmoid(_through(params["decoder"], code))
    return Converted(code, image, classify(params, image))


def classify(params: Params, image: jax.Array) -> jax.Array:
    """What the classifier alone says of images `[rows, inputs]`: logits `[rows, classes]`. Its own loss sees converted
    images as they are, without a way back into what made them."""
    return _through(params["classifier"], jax.lax.stop_gradient(image))


def _through(layers: Params, x: jax.Array) -> jax.Array:
    for i in range(len(layers)):
        w = layers[str(i)]
        x = contract(jax.nn.relu(x) if i else x, w["product"]) + w["bias"]
    return x


def conversion_loss(own: Converting, found: Converted, targets: jax.Array) -> jax.Array:
    """What encoder and decoder minimise; targets `[rows, inputs]`."""
    return jnp.square(found.image - targets).mean() + own.sparsity * jnp.abs(found.code).sum(-1).mean()


def classification_loss(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """What the classifier minimises, nats; classes `[rows]`."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), classes[:, None], axis=-1).mean()


def entropy(logits: jax.Array) -> jax.Array:
    """Of the softmax, nats: `[rows]` of `[rows, classes]`. Easy images have a low one at an early exit."""
    logprobs = jax.nn.log_softmax(logits)
    return -(jnp.exp(logprobs) * logprobs).sum(-1)


def partners(rng: np.random.Generator, classes: np.ndarray, easy: np.ndarray) -> np.ndarray:
    """For each image an easy one of its class, all alike likely: indices `[rows]` of classes `[rows]` and easy `[rows]`
    bool. ConfigError where a class has none."""
    found = np.zeros(len(classes), np.int64)
    for kind in np.unique(classes):
        of_class = classes == kind
        from_these = np.flatnonzero(of_class & easy)
        require(from_these.size > 0, "threshold", f"leaves class {kind} without an easy image", "raise it")
        found[of_class] = rng.choice(from_these, of_class.sum())
    return found
