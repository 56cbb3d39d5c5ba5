"""Which examples to train on: scores of difficulty, and what is kept by them."""

from scaling.data.select.decontamination import Neighbours as Neighbours  # texts that say the same in other words
from scaling.data.select.perceptron import Teacher as Teacher  # a world in which the best selection is known
from scaling.data.select.perceptron import max_margin as max_margin  # its student
from scaling.data.select.prototypes import prototype_distances as prototype_distances  # difficulty without labels
from scaling.data.select.pruning import keep as keep  # the hard, the easy or any examples of a set
from scaling.data.select.transport import Projection as Projection  # scores of mixtures at sizes not tried
from scaling.data.select.transport import nearest_mixture as nearest_mixture  # shares of sources for a target
from scaling.data.select.transport import transport as transport  # how far a mixture is from a target
