"""The words that params.yaml is described in: a strict mapping and a few kinds of number."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Schema(BaseModel):
    """A mapping of which every key is known, required and of its exact type.

    Attributes:
        by_steps: of an architecture: whether it has weights that steps of an optimiser train. A
            model that only counts has none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    by_steps: ClassVar[bool] = True


Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, le=1e38)]  # as float32 holds
PositiveRate = Annotated[float, Field(gt=0, le=1e38)]
Share = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
