"""Post-training: batches that depend on the parameters, because the model being trained has written them.

rollouts.py   groups of completions with verified rewards, as a batch of scaling.train.objectives.PolicyGradient
loop.py       rollout, update, checkpoint: a run that goes on from any of them with the same bits
"""

from search.posttrain.loop import PostTraining, RolloutConfig
from search.posttrain.rollouts import Rollouts

__all__ = ["PostTraining", "RolloutConfig", "Rollouts"]
