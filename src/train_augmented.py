"""Stage `train_augmented`: the network of `train_basic`, every image seen otherwise each time.

In: the split. Out: `models/train_augmented.keras`; `plots/train_augmented.csv` and the two figures
of the notebook beside it; `metrics/train_augmented.json`.
"""

from catsdogs import networks, params, runtime, stage, training
from catsdogs.augmentation import Augmentation


class TrainAugmented(params.Training):
    filters: params.Layers
    dense: params.Layers
    initializer: networks.Initializer
    augmentation: Augmentation


def main() -> None:
    settings, pinned = runtime.begin_training("train_augmented", TrainAugmented)
    batches, validation = training.open_batches(settings, settings.augmentation)
    size, filters, dense = batches.shape[0], settings.filters, settings.dense
    model = networks.cnn(size, filters, dense, settings.initializer)
    model.summary()
    with training.begin("train_augmented", settings, pinned) as run:
        run.fit(model, batches, validation)
        run.write(model)


if __name__ == "__main__":
    stage.run(main)
