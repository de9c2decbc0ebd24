"""What the match model buys, and where: `python -m benchmarks.match_model`.

`ngram_lstm` is trained at scale quick with the match model and without it (`reach: 0`), and both
are scored on the holdout, streaming. The difference is then shared out among names of speakers
(lines of letters that end in a colon) and the rest, and among words that the training split has, in
whatever case, and those that it has not. One seed; four minutes on two cores; the result is
benchmarks/match_model.json.
"""

import re
from pathlib import Path

import numpy as np
import torch

import stages  # puts this copy's src first
from benchmarks.common import at_scale, load, train
from benchmarks.machine import machine
from charlm.cli import script
from charlm.data.vocabulary import Vocabulary
from charlm.evaluation import loss
from charlm.files import write_json
from charlm.models.base import start_torch

ROOT = Path(stages.__file__).parent.parent
SPEAKER = re.compile(r"(?m)^[A-Z][A-Za-z' ]*:$")
WORD = re.compile(r"[A-Za-z']+")


def marked(text: str, spans: list[tuple[int, int]]) -> torch.Tensor:
    """Return which characters of a text lie in one of the spans."""
    marks = torch.zeros(len(text), dtype=torch.bool)
    for first, last in spans:
        marks[first:last] = True
    return marks


@script(__doc__)
def main() -> None:
    """Train twice, score, and say where the difference lies."""
    device = start_torch()
    ids = load(device)
    symbols = Vocabulary.load(ROOT / "data/encoded/vocabulary.json").symbols
    held = torch.cat([ids["train"][-1:], ids["validation"], ids["test"]])
    nats = {}
    without = {"models__ngram_lstm__architecture__reach": 0}
    for name, settings in (
        ("with", at_scale("quick")),
        ("without", at_scale("quick", **without)),
    ):
        model, *_ = train(settings.run("ngram_lstm"), device)
        nats[name] = loss.streaming(model, held)[0]
    seen, text = (
        "".join(np.array(list(symbols))[part.cpu().numpy()].tolist())
        for part in (ids["train"], held[1:])
    )
    known = {word.lower() for word in WORD.findall(seen)}
    speakers = marked(text, [found.span() for found in SPEAKER.finditer(text)])
    words = [found for found in WORD.finditer(text) if found.group().lower() not in known]
    new = marked(text, [found.span() for found in words])
    gain, first = nats["without"] - nats["with"], len(ids["validation"])
    results = {}
    for split, part in (("validation", slice(0, first)), ("test", slice(first, None))):
        gained = gain[part]
        results[split] = {
            "without": round(float(nats["without"][part].mean()), 4),
            "with": round(float(nats["with"][part].mean()), 4),
            **{
                name: {
                    "share of characters": round(float(marks.double().mean()), 3),
                    "share of the gain": round(float(gained[marks].sum() / gained.sum()), 3),
                }
                for name, marks in (
                    ("names of speakers", speakers[part]),
                    ("words that training has not", new[part]),
                    ("both", (speakers & new)[part]),
                )
            },
        }
        print(split, results[split], flush=True)
    write_json(
        ROOT / "benchmarks/match_model.json",
        {
            "command": "python -m benchmarks.match_model",
            "machine": machine(device),
            "unit": "nats per character, streaming; shares",
            "results": results,
        },
    )


if __name__ == "__main__":
    main()
