"""Stage `train_basic`: the notebook's small CNN on the photographs as they are.

In: the split. Out: `models/train_basic.keras`; `plots/train_basic.csv` and the two figures of the
notebook beside it; `metrics/train_basic.json`.
"""

from catsdogs import networks, params, runtime, stage, training


class TrainBasic(params.Training):
    filters: params.Layers
    dense: params.Layers


def main() -> None:
    settings, pinned = runtime.begin_training("train_basic", TrainBasic)
    batches, validation = training.open_batches(settings)
    model = networks.cnn(batches.shape[0], settings.filters, settings.dense)
    training.train("train_basic", model, settings, pinned, batches, validation)


if __name__ == "__main__":
    stage.run(main)
