import re

import pytest

from charlm.report import leaderboard, summary
from charlm.report.leaderboard import Times
from tests.unit.report.examples import NO_TIMES, RESULTS, ensemble, result
from tests.workspace import at_scale

RECORDED = Times({"worse": 2.0, "better": 0.25}, "theirs, 2026-11-23")


def table(local=NO_TIMES, recorded=NO_TIMES, results=RESULTS):
    return summary.as_text(leaderboard.rank(results, {}), local, recorded).splitlines()


def test_the_terminal_table_has_a_line_per_model_and_a_column_per_protocol():
    lines = table(Times({"better": 130.0}, "a machine"))
    assert len(lines) == 6
    assert re.match(r"better +1,234  1\.4427 +2\.1640 +2\.1640 +2\.1640 +130 s$", lines[2])
    assert [line.split()[0] for line in lines[2:5]] == ["better", "middle", "worse"]
    assert lines[3].endswith(" -")
    assert lines[5] == "training: on this machine (a machine)"
    starts = [lines[1].index(heading) for heading in ("validation", "test, own", "test, 256")]
    assert [lines[2][start : start + 2] for start in starts] == ["1.", "2.", "2."]


def test_seconds_are_the_readers_own_or_marked_or_a_dash():
    lines = table(Times({"better": 130.0}, "ours"), RECORDED)
    assert [line.split("  ")[-1].strip() for line in lines[2:5]] == ["130 s", "-", "2 s *"]
    assert lines[5] == "training: on this machine (ours); * recorded on theirs, 2026-11-23"
    lines = table(recorded=RECORDED)
    assert [line.split("  ")[-1].strip() for line in lines[2:5]] == ["0.2 s *", "-", "2 s *"]
    assert lines[5] == "training: * recorded on theirs, 2026-11-23"
    assert table()[5] == "training: no seconds are known of these trainings"
    # What is not shown is not explained.
    both = Times({"better": 130.0, "worse": 60.0}, "ours")
    assert table(both, RECORDED)[5] == "training: on this machine (ours)"


def test_an_ensemble_is_never_timed_on_two_machines():
    results = [*RESULTS, result("pair", 0.9, ensemble=ensemble("better", "worse"))]
    assert table(Times({"better": 130.0}, "ours"), RECORDED, results)[2].endswith(" 2 s *")
    ours = Times({"better": 130.0, "worse": 60.0}, "ours")
    assert table(ours, RECORDED, results)[2].endswith(" 190 s")


@pytest.mark.parametrize(
    ("zoo", "command"),
    [
        (("bigram", "lstm"), "dvc exp run -S models.bigram.smoke.steps=40"),
        (("kneser_ney", "gpt"), "dvc exp run -S models.gpt.smoke.steps=20"),
        (("kneser_ney",), "dvc exp run -S sampling.temperature=0.5"),
    ],
)
def test_the_first_experiment_is_of_a_model_that_is_there(zoo, command):
    settings = at_scale("smoke")
    runs = {name: run for name, run in settings.runs.items() if name in zoo}
    assert summary.first_experiment(settings.model_copy(update={"runs": runs})) == command
