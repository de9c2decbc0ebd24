"""A team's MLflow server: PostgreSQL and an S3-compatible store behind one address."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest

from charlm import tracking
from tests.services.servers import fetch, free_port, running
from tests.workspace import change, run


@pytest.fixture(scope="module")
def variables(postgres, store):
    """What `make server` is told."""
    return {
        **store.variables,
        "MLFLOW_S3_ENDPOINT_URL": store.endpoint,
        "DATABASE": postgres,
        "ARTIFACTS": f"s3://{store.bucket}",
    }


@pytest.fixture(scope="module")
def team(variables, tmp_path_factory):
    """The address of the server; its log has no password."""
    log = tmp_path_factory.mktemp("team") / "log"
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "charlm.serving.server", "--port", str(port)]
    with log.open("w") as file:
        how = {"env": {**os.environ, **variables}, "stdout": file, "stderr": file}
        with running(command, lambda: fetch(f"{url}/health"), **how):
            yield url
    assert "postgresql://charlm:***@127.0.0.1" in log.read_text()
    assert "secret" not in log.read_text()


def clone(project, folder, **changes):
    """Copy the trained project without its own runs."""
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts"))
    change(folder, **changes)
    return folder


def rows(address, query, *values):
    import psycopg

    with psycopg.connect(address) as connection:
        return connection.execute(query, values).fetchall()


def runs_of(postgres, folder):
    """Return id, status and artifact address of the runs that made a folder's weights."""
    return rows(
        postgres,
        "SELECT r.run_uuid, r.status, r.artifact_uri FROM runs r JOIN tags t USING (run_uuid) "
        "WHERE t.key = 'weights_sha256' AND t.value = %s",
        tracking.weights_digest(folder / "models/bigram"),
    )


def check_whole(postgres, store, team, folder, files):
    """One finished run with the whole curve, and its files, over HTTP and in the bucket."""
    ((run_id, status, address),) = runs_of(postgres, folder)
    assert status == "FINISHED"
    query = "SELECT step, value FROM metrics WHERE run_uuid = %s AND key = %s ORDER BY step"
    curve = csv.DictReader((folder / "results/bigram/curve.csv").read_text().splitlines())
    expected = [(int(row["step"]), pytest.approx(float(row["validation_nats"]))) for row in curve]
    assert rows(postgres, query, run_id, "validation_nats") == expected
    scheme, path = address.split(":/", 1)
    assert scheme == "mlflow-artifacts"
    for kind, name in files:
        content = (folder / name).read_bytes()
        key = f"{path.lstrip('/')}/{kind}/{name.split('/')[-1]}"
        assert fetch(f"{team}/api/2.0/mlflow-artifacts/artifacts/{key}") == content
        assert store.client.get_object(Bucket=store.bucket, Key=key)["Body"].read() == content
    return run_id


MODEL = [
    ("model", "models/bigram/weights.safetensors"),
    ("model", "models/bigram/config.json"),
    ("model", "results/bigram/curve.csv"),
    ("model", "results/bigram/activations.json"),
]
RESULTS = [("results", "results/bigram/metrics.json"), ("results", "results/bigram/sample.txt")]


def test_a_pipeline_run_is_in_postgresql_and_its_files_are_in_the_bucket(
    project, team, postgres, store, tmp_path
):
    folder = clone(project, tmp_path / "charlm", models__bigram__smoke__steps=120)
    done = run(folder, "env", f"MLFLOW_TRACKING_URI={team}", "dvc", "repro")
    assert "Running stage 'train@bigram'" in done.stdout
    assert "MLflow tracking is off" not in done.stderr
    run_id = check_whole(postgres, store, team, folder, MODEL + RESULTS)
    asked = rows(
        postgres,
        "SELECT value FROM params WHERE run_uuid = %s AND key = %s",
        run_id,
        "training.steps",
    )
    assert asked == [("120",)]
    loss = json.loads((folder / "results/bigram/metrics.json").read_text())
    query = "SELECT value FROM latest_metrics WHERE run_uuid = %s AND key = %s"
    ((value,),) = rows(postgres, query, run_id, "streaming.holdout.nats_per_char")
    assert value == pytest.approx(loss["streaming"]["holdout"]["nats_per_char"])
    assert not (folder / "mlflow.db").exists()


def test_two_trainings_at_once_make_two_whole_runs(project, team, postgres, store, tmp_path):
    folders = [
        clone(project, tmp_path / f"charlm{seed}", runs__bigram__seed=seed) for seed in (11, 12)
    ]
    command = [sys.executable, "-m", "stages.train", "--model", "bigram"]
    trainings = [
        subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "MLFLOW_TRACKING_URI": team, "PYTHONPATH": str(folder / "src")},
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    for training in trainings:
        _, said = training.communicate(timeout=300)
        assert training.returncode == 0, said
        assert "MLflow tracking is off" not in said
    assert len({check_whole(postgres, store, team, folder, MODEL) for folder in folders}) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"DATABASE": None}, "DATABASE must begin with postgresql://"),
        ({"DATABASE": "mysql://me:secret@127.0.0.1/x"}, "DATABASE must begin with postgresql://"),
        ({"DATABASE": "postgresql://charlm:secret@127.0.0.1:1/x"}, "Connection refused"),
        ({"password": "another-secret"}, 'password authentication failed for user "charlm"'),
        ({"ARTIFACTS": None}, "ARTIFACTS must be s3://BUCKET"),
        ({"ARTIFACTS": "s3://elsewhere"}, "(404) when calling the HeadBucket operation: Not Found"),
        ({"MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:1"}, "Could not connect to the endpoint URL"),
        ({"AWS_ACCESS_KEY_ID": None}, "Unable to locate credentials"),
    ],
)
def test_what_keeps_the_server_from_starting_is_one_line(variables, changes, said):
    told = {**os.environ, **variables, **changes}
    if "password" in changes:
        told["DATABASE"] = variables["DATABASE"].replace(":secret@", f":{told.pop('password')}@")
    told = {name: value for name, value in told.items() if value is not None}
    done = subprocess.run(
        # No such host: a server that starts all the same ends by itself.
        [sys.executable, "-m", "charlm.serving.server", "--host", "256.0.0.1"],
        env=told,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert said in line
    assert "secret" not in line
