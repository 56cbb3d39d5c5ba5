"""muP: how learning rates follow the width, so that hyper-parameters tuned on a narrow model hold on a wide one.

Yang et al. 2022 ("Tensor Programs V"), table 8, for Adam. With m = d_model / mup_base_width:

    weight               initial variance        multiplier     Adam learning rate
    embedding, vector    constant                1              1
    hidden matrix        1 / fan_in              1              1 / m
    head                 constant                1 / m          1

Variances and the head's multiplier are in `models`, as is the 1 / head_dim scale of attention; the learning rates
are here. They hold for Muon too, whose updates are scaled to Adam's size per element (see optimizer.py).
"""

from __future__ import annotations

from models.config import ModelConfig
from models.weight import WIDTH_AXES, Weight


def learning_rate_multiplier(weight: Weight, model: ModelConfig) -> float:
    """What the learning rate of `weight` is multiplied by: 1 in the standard parametrisation.

    A model has one width: every dim in WIDTH_AXES is taken to grow in proportion to d_model.
    """
    if model.mup_base_width is None or weight.role != "matrix" or WIDTH_AXES.isdisjoint(weight.input_axes):
        return 1.0
    return model.mup_base_width / model.d_model
