"""Stage `train_augmented`: the network of `train_basic`, each image augmented anew at each step.

In: the split. Out: `models/train_augmented.keras` and `.json`; the curves and the notebook's two
figures in `plots/training`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from catsdogs import params, stage
from catsdogs.data.augmentation import Augmentation
from catsdogs.models import cnn
from catsdogs.training import loop


class TrainAugmented(loop.Settings):
    filters: params.Layers
    dense: params.Layers
    initializer: cnn.Initializer
    augmentation: Augmentation

    def conflicts(self, name: str, sections: Mapping[str, Any]) -> Iterator[str]:
        yield from super().conflicts(name, sections)
        yield from cnn.too_small(name, self.filters, sections)


def main() -> None:
    with loop.begin("train_augmented", TrainAugmented) as training:
        settings, batches = training.settings, training.batches(training.settings.augmentation)
        model = cnn.build(batches.shape[0], settings.filters, settings.dense, settings.initializer)
        model.summary()
        training.fit(model, batches, training.validation())
        training.write(model)


if __name__ == "__main__":
    stage.run(main)
