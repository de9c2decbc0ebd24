"""Results as the stages write them, with losses made up for the purpose."""

import copy
import math

from charlm.report import leaderboard, page

LEAF = {
    "nats_per_char": 1.5,
    "bits_per_char": 1.5 / math.log(2),
    "bits_per_byte": 2.0,
    "perplexity": 4.5,
    "accuracy": 0.5,
    "characters": 10,
}
ENTROPY = {
    "characters": 100,
    "symbols": 65,
    "texts": {
        "whole": {
            "orders": [
                {
                    "order": n,
                    "distinct": 10 * n,
                    "once_share": 0.25,
                    "estimates": {
                        name: {"bits_per_char": 5 / n, "conditional_bits_per_char": 5 / n}
                        for name in leaderboard.ESTIMATORS
                    },
                }
                for n in (1, 2, 3)
            ]
        }
    },
    "held_out": [
        {
            "order": n,
            **{part: {"bits_per_char": bits} for part in leaderboard.HELD_OUT},
        }
        for n, bits in ((1, 6.0), (2, 3.0), (3, 3.5))
    ],
    "compressors": [
        {
            "name": "bzip2",
            "holdout": {"bits_per_char": 2.4, "nats_per_char": 1.6636},
            "validation": {"bits_per_char": 2.3},
        }
    ],
}
LAYERS = [
    {
        "layer": "output",
        "kind": "logits",
        "mean_abs": 0.25,
        "sd": 0.3125,
        "gradient_mean_abs": None,
        "gradient_sd": None,
        "first_values": [0.5, -0.25],
    }
]
PUBLISHED = {
    "verdicts": {"reproduced": 1, "not run at the published training": 1},
    "documents": {"B": "LMNet"},
    "literature": {"Cover and King 1978": 1.34},
    "literature_remark": "Of 27 letters.",
    "compressors": [{"name": "paq", "validation": None, "test": 1.2, "holdout": 1.1}],
    "compressors_remark": "Run once.",
    "rows": [
        {
            "document": "B",
            "entry": "lmnet_all",
            "figure": f"step {step}",
            "published": 4.1738,
            "ours": ours,
            "difference": None if ours is None else ours - 4.1738,
            "tolerance": None if ours is None else 0.01,
            "verdict": verdict,
            "full_pass": {"text": "seen", "nats_per_char": 1.75} if ours else None,
            "evidence": "dvc repro",
            "remark": "<b>wide</b>",
        }
        for step, ours, verdict in (
            (0, 4.1751, "reproduced"),
            (500, None, "not run at the published training"),
        )
    ],
    "this_run": {"lmnet_all": {"steps": 600, "full_pass": {"text": "seen", "nats_per_char": 1.75}}},
}
EXCERPT = {
    "text": "Go <b>\n",
    "first": 1,
    "bits": [0.5, 9.0, 1.0, 2.0, 3.0, 0.0, 4.0],
    "guesses": ["G<", "ox", " n", "<b", "bB", "> ", "\n "],
    "percent": [[70, 3]] * 7,
}


LEARNING = {"steps": [0, 10], "bits": [[6.0] * 9, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]]}


def metrics(nats):
    """Content of metrics.json; `nats` is the streaming validation loss."""
    parts = dict.fromkeys(leaderboard.HELD_OUT, LEAF)
    content = {protocol: copy.deepcopy(parts) for protocol in leaderboard.PROTOCOLS}
    loss = {"nats_per_char": nats, "bits_per_char": nats / math.log(2)}
    content["streaming"]["validation"] = LEAF | loss
    return {"parameters": 1234, "context_length": None, **content}


def result(name, nats, *, by_steps=True, initial=4.2, **more):
    """A run or, with `ensemble`, an ensemble; a run may count instead of training by steps."""
    activations = {
        moment: {"nats_per_char": loss, "layers": LAYERS}
        for moment, loss in (("initial", initial), ("trained", 1.5))
    }
    curve = [
        {"step": c / 10, "characters": c, "train_nats": 3.9, "validation_nats": 4.0 - c / 200}
        for c in (0.0, 100.0, 200.0)
    ]
    by_steps = by_steps and "ensemble" not in more
    content = {
        "name": name,
        "metrics": metrics(nats),
        "sample": "ROMEO: hello",
        "excerpt": EXCERPT,
        "details": None,
        "pieces": [],
        "curve": curve if by_steps else [],
        "activations": activations if by_steps else {},
        "learning": LEARNING if by_steps else {},
        "ensemble": None,
        "dynamic": None,
        "repeats": [],
    }
    return leaderboard.Result(**(content | more))


def ensemble(*names):
    """Content of ensemble.json."""
    member = {"validation_nats_per_char": 1.4, "likelier": 0.57, "linear": 0.65, "geometric": 0.56}
    return {
        "mixing": "geometric",
        "members": [{"name": name, **member} for name in names],
        "validation_nats_per_char": {"linear": 1.36, "geometric": 1.354},
    }


RESULTS = [result("worse", 2.0), result("better", 1.0), result("middle", 1.2)]
NO_TIMES = leaderboard.Times({}, "")


def findings(results=RESULTS, entropy=ENTROPY, published=PUBLISHED, seconds=None, groupings=()):
    """What a report is made from."""
    times = leaderboard.Times(seconds, "a machine, 2026-11-23") if seconds else NO_TIMES
    return page.Findings("a text", "smoke", results, entropy, published, times, groupings)
