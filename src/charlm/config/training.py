"""How a model is trained: the training configuration, a part of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from charlm.config.schema import Count, Positive, PositiveRate, Probability, Rate, Schema
from charlm.errors import UserError


class Training(Schema):
    """How one model is trained at one scale; units are in params.yaml.

    A model that only counts has neither steps nor epochs.
    """

    batches: Literal["windows", "streams", "everything"]
    batch: Positive | None
    block: Positive
    steps: Positive | None
    epochs: Positive | None
    optimizer: Literal["sgd", "adam", "adamw", "muon"]
    learning_rate: PositiveRate
    momentum: Probability
    betas: Annotated[list[Probability], Field(min_length=2, max_length=2)]
    weight_decay: Rate
    warmup: Count
    decay: Literal["none", "linear", "cosine"]
    decay_after: Probability
    final_learning_rate: Rate
    clip: PositiveRate | None
    label_smoothing: Probability
    weight_averaging: Probability
    stop_below: PositiveRate | None
    precision: Literal["float32", "bfloat16"]
    threads: Annotated[int, Field(ge=1, le=1024)]
    validate_every: Positive
    validation_characters: Positive

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.batch is None) != (self.batches == "everything"):
            raise ValueError("batch must be null with batches: everything, and a number otherwise")
        if self.steps is not None and self.epochs is not None:
            raise ValueError("one of steps and epochs must be null")
        if self.steps is not None and self.warmup >= self.steps:
            raise ValueError(f"warmup ({self.warmup}) must be below steps ({self.steps})")
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate ({self.final_learning_rate}) must not exceed "
                f"learning_rate ({self.learning_rate})"
            )
        return self

    def characters_per_step(self, characters: int) -> int:
        """Return how many characters a step predicts, on a text of a given length."""
        return (self.batch or characters - self.block) * self.block

    def steps_on(self, characters: int) -> int:
        """Return the number of steps on a text of a given length; 0 for a model that only counts.

        An epoch is as many batches as hold the text once, at least one, whichever way they are
        drawn: 87 of 128 x 100 characters in tiny Shakespeare.

        Raises:
            UserError: the warm-up would not end before the training.
        """
        if self.epochs is None:
            return self.steps or 0
        per_batch = (self.batch or characters) * self.block
        steps = self.epochs * max(1, (characters - 1) // per_batch)
        if self.warmup >= steps:
            raise UserError(
                f"warmup ({self.warmup}) must be below the {steps} steps that {self.epochs} epochs "
                f"of {characters:,} characters make"
            )
        return steps
