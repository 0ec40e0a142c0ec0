"""Stage `train_basic`: the notebook's small CNN on the photographs as they are.

In: the split. Out: `models/train_basic.keras` and `.json`; the curves and the notebook's two
figures in `plots/training`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from catsdogs import params, stage
from catsdogs.models import cnn
from catsdogs.training import loop


class TrainBasic(loop.Settings):
    filters: params.Layers
    dense: params.Layers
    initializer: cnn.Initializer

    def conflicts(self, name: str, sections: Mapping[str, Any]) -> Iterator[str]:
        yield from super().conflicts(name, sections)
        yield from cnn.too_small(name, self.filters, sections)


def main() -> None:
    with loop.begin("train_basic", TrainBasic) as training:
        settings, batches = training.settings, training.batches()
        model = cnn.build(batches.shape[0], settings.filters, settings.dense, settings.initializer)
        model.summary()
        training.fit(model, batches, training.validation())
        training.write(model)


if __name__ == "__main__":
    stage.run(main)
