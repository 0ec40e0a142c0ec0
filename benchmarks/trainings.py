"""Short trainings: contenders begin and train in turn; what a whole one costs is reckoned.

A contender that trains validates first, before anything else runs, and once more when it ends.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import chain

from checkout import Checkout
from measure import Contender, Cost, cost, total
from pauses import WARM

VALIDATION = 20  # steps of a short training's validation
# The notebook's training: steps, and validations of so many steps.
STEPS, VALIDATIONS, VALIDATION_STEPS = 1500, 15, 50


def begin(stack: ExitStack, checkout: Checkout, *command: str) -> Contender:
    """Start a training and wait until it has, so that the wall time of its start is its own."""
    contender = stack.enter_context(checkout.contender(*command))
    contender.do("validate")
    return contender


def validation(contender: Contender) -> Cost:
    """A validation step, but for those of the first validation, which may prepare the others."""
    return cost(contender.samples["validate"][1:])


def rest(contender: Contender) -> Cost:
    """What a training that has ended used besides its steps and validations."""
    sampled = total(chain(*contender.samples.values()))
    unseen = cost(contender.samples["fit"]) * WARM + validation(contender) * VALIDATION
    return contender.used.cost - sampled - unseen


def whole(contender: Contender, steps: Cost | None = None) -> Cost:
    """What the notebook's numbers of steps would take.

    Args:
        contender: a training that has ended.
        steps: what all training steps take, if not so many times what the median one does.
    """
    first = contender.samples["validate"][0].each * VALIDATION_STEPS
    others = validation(contender) * (VALIDATIONS - 1) * VALIDATION_STEPS
    return rest(contender) + first + others + (steps or cost(contender.samples["fit"]) * STEPS)
