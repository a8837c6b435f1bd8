"""What a method and a distillation themselves change from epoch to epoch."""

import keras


class OwnSchedules(keras.callbacks.Callback):
    """Has an `AdversarialTrainer` set, and log, its weights and state of each epoch.

    First in every `fit`, so that an `Anneal` of the user has the last word.
    """

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        self.values = self.model.anneal(epoch, self.params["epochs"])

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        self.model.learning.after_epoch()
        if logs is not None:
            logs |= {n: float(self.model.scheduled[n].numpy()) for n in self.values}
            logs |= self.model.learning.scalars()
