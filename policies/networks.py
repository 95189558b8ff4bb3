"""The networks: a multilayer perceptron on normalised Fourier features, as actor and as critic."""

import torch
from torch import Tensor, nn

from policies.agent import Spec
from policies.normalizer import Normalizer
