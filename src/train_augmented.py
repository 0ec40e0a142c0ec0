"""Stage `train_augmented`: the network of `train_basic`, every image seen otherwise each time.

In: the split. Out: `models/train_augmented.keras`; `plots/train_augmented.csv` and the two figures
of the notebook beside it; `metrics/train_augmented.json`.
"""

from catsdogs import networks, params, runtime, stage, training
from catsdogs.augmentation import Augmentation


class TrainAugmented(params.Training):
    filters: params.Layers
    dense: params.Layers
    augmentation: Augmentation


def main() -> None:
    settings, pinned = runtime.begin_training("train_augmented", TrainAugmented)
    batches, validation = training.open_batches(settings, settings.augmentation)
    model = networks.cnn(batches.shape[0], settings.filters, settings.dense)
    training.train("train_augmented", model, settings, pinned, batches, validation)


if __name__ == "__main__":
    stage.run(main)
