import time

import numpy as np
import pytest
import torch

from charlm.evaluation import loss, metrics
from tests import zoo

CPU = torch.device("cpu")


@pytest.fixture
def splits():
    random = np.random.default_rng(0)
    sizes = {"train": 100, "validation": 3000, "test": 2000}
    return {split: random.integers(0, 5, size).astype(np.uint8) for split, size in sizes.items()}


@pytest.mark.parametrize("name", ["gru", "gpt", "bigram"])
@pytest.mark.parametrize("block", [16, metrics.WINDOW])
def test_two_passes_at_a_time_score_what_one_after_the_other_scores(name, block, splits):
    config = zoo.config(name, "abcde", block)
    model = config.build().eval()
    scored = []
    found, rows_RV = metrics.losses(model, config, splits, CPU, scored.append)
    assert list(found) == ["windowed", "windowed_256", "streaming"]
    assert sum(scored) == metrics.passes(config) * 5000
    ids_N = torch.from_numpy(np.concatenate([splits["train"][-1:], *[*splits.values()][1:]]))
    alone_RV = torch.empty(5000, 5, dtype=torch.float16)
    one_by_one = {
        "windowed": loss.windowed(model, ids_N, block),
        "windowed_256": loss.windowed(model, ids_N, 256),
        "streaming": loss.streaming(model, ids_N, rows_RV=alone_RV),
    }
    for protocol, scores in one_by_one.items():
        assert found[protocol]["holdout"] == loss.summarise(scores, 5000)
    assert (rows_RV == alone_RV.numpy()).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_where_one_pass_fails_the_others_are_not_waited_for(threads, splits):
    def fails(step):
        raise MemoryError

    def goes_on(step):
        while True:
            time.sleep(0.01)
            step(1)

    with pytest.raises(MemoryError):
        metrics._side_by_side({"a": fails, "b": goes_on}, threads, lambda _: None)
    with pytest.raises(MemoryError):
        metrics._side_by_side({"a": goes_on, "b": fails}, 2, lambda _: None)
