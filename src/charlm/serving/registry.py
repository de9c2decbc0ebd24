"""The command `register`: models that MLflow can serve, by name."""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charlm import results, tracking
from charlm.cli import one_line_errors
from charlm.config import params
from charlm.errors import UserError
from charlm.files import project_root

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

MODELS, RESULTS, LOCK = Path("models"), Path("results"), Path("requirements.lock")
BEST = "best"


@click.command()
@click.option("--model", "name", help="Print the address of this model, not of the best one.")
@one_line_errors
def main(name: str | None) -> None:
    """Register the ranked models of models/ with MLflow and print the address of the best one.

    Each is added to the run that made its weights and becomes a version of CORPUS-MODEL; the best
    by streaming validation loss is a version of CORPUS too, alias best. What is there stays.

    \b
    Example:
      mlflow models serve --env-manager local --port 5001 -m $(charlm register)
    """
    click.echo(register(name))


def register(name: str | None) -> str:
    """Register the ranked models of models/; return the address of one of them.

    Args:
        name: of the model; None means the best one.

    Raises:
        UserError: there are none, or not this one, or MLflow failed.
    """
    settings = params.load()
    there = [each for each in settings.ranked if (MODELS / each / "weights.safetensors").is_file()]
    if not there:
        raise UserError("no models in models/: run `dvc repro` or `dvc pull` first")
    if name is not None and name not in there:
        raise UserError(f"--model: no '{name}' in models/ (ranked there: {', '.join(there)})")
    bits = {
        each: results.validation_bits(RESULTS / each / "metrics.json", MODELS / each)
        for each in there
    }
    best = min(there, key=bits.__getitem__)
    corpus = settings.corpus.name
    with one_line():
        registry = Registry(settings)
        registry.check(there)
        versions = {each: registry.version(f"{corpus}-{each}", each, bits[each]) for each in there}
        registry.alias(registry.version(corpus, best, bits[best]))
    click.echo(
        f"{len(there)} models, {registry.added} versions added; best on validation: {best}, "
        f"{bits[best]:.4f} bits per character",
        err=True,
    )
    chosen = f"{corpus}@{BEST}" if name is None else f"{corpus}-{name}/{versions[name].version}"
    return f"models:/{chosen}"


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn whatever MLflow raises into one line, and leave out its advice."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            line = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"MLflow: {line[:300]}") from None


class Registry:
    """The model registry of the environment's tracking server, or of mlflow.db.

    Attributes:
        added: how many versions were added.
    """

    def __init__(self, settings: params.Params) -> None:
        self._settings = settings
        self._client, self._experiment_id = tracking.connect(settings.corpus.name, project_root())
        self.added = 0

    def check(self, names: list[str]) -> None:
        """Refuse models that no run made.

        Raises:
            UserError: there are some.
        """
        missing = [name for name in names if not self._runs(name)]
        if missing:
            raise UserError(f"no run of MLflow made {', '.join(missing)}: run `charlm track` first")

    def version(self, registered: str, name: str, bits: float) -> "ModelVersion":
        """Return the version with a model's weights, which is added if there is none.

        Args:
            registered: under this name.
            name: a folder of models/.
            bits: per character of validation, a tag of the version.
        """
        weights = tracking.weights_digest(MODELS / name)
        same = f"name = '{registered}' and tags.weights_sha256 = '{weights}'"
        if found := self._client.search_model_versions(same):
            return found[0]
        model = self._model(name, weights)
        if not self._client.search_registered_models(f"name = '{registered}'"):
            self._client.create_registered_model(registered)
        self.added += 1
        return self._client.create_model_version(
            registered,
            model.artifact_location,
            model.source_run_id,
            {"weights_sha256": weights, "validation_bits_per_char": f"{bits:.4f}"},
            model_id=model.model_id,
        )

    def alias(self, version: "ModelVersion") -> None:
        """Let the alias `best` name this version."""
        aliases = self._client.get_registered_model(version.name).aliases
        if aliases.get(BEST) != version.version:
            self._client.set_registered_model_alias(version.name, BEST, version.version)

    def _runs(self, name: str) -> list[Any]:
        weights = tracking.weights_digest(MODELS / name)
        return tracking.runs_that_made(self._client, self._experiment_id, weights)

    def _model(self, name: str, weights: str) -> "LoggedModel":
        """Return the model of the run that made these weights, which is added if there is none."""
        from mlflow.entities import LoggedModelOutput

        same = f"tags.weights_sha256 = '{weights}'"
        for model in self._client.search_logged_models([self._experiment_id], same):
            # Another one was being added when something ended it.
            if model.status == "READY":
                return model
        (run,) = self._runs(name)
        run_id = run.info.run_id
        tags = {"weights_sha256": weights}
        model = self._client.create_logged_model(self._experiment_id, name, run_id, tags)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            save(path, MODELS / name, self._settings, run_id=run_id, model_id=model.model_id)
            self._client.log_model_artifacts(model.model_id, str(path))
        self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        return self._client.finalize_logged_model(model.model_id, "READY")


def save(
    path: Path,
    folder: Path,
    settings: params.Params,
    run_id: str | None = None,
    model_id: str | None = None,
) -> None:
    """Write a model as MLflow serves it: weights, this package, signature and locked environment.

    Args:
        path: a folder that is made.
        folder: of a saved model; its name is that of a run or an ensemble.
        settings: of which the entry's sampling becomes the signature's defaults.
        run_id: the run that made the weights.
        model_id: what MLflow calls the model.
    """
    import mlflow.pyfunc
    import pandas
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

    drawn = settings.named(folder.name).sampling
    signature = ModelSignature(
        Schema([ColSpec("string", "prompt")]),
        Schema([ColSpec("string")]),
        ParamSchema(
            [
                ParamSpec("length", "long", drawn.length),
                ParamSpec("temperature", "double", drawn.temperature),
                ParamSpec("top_k", "long", drawn.top_k),
                ParamSpec("top_p", "double", drawn.top_p),
                ParamSpec("seed", "long", drawn.seed),
            ]
        ),
    )
    mlflow.pyfunc.save_model(
        path,
        loader_module="charlm.serving.loader",
        data_path=folder,
        code_paths=[str(Path(__file__).parent.parent)],
        mlflow_model=Model(run_id=run_id, model_id=model_id),
        signature=signature,
        input_example=(pandas.DataFrame({"prompt": [drawn.prompt or "A"]}), {"length": 100}),
        # Without a list MLflow imports the model to guess one.
        pip_requirements=LOCK.read_text(encoding="utf-8").splitlines(),
        model_config={"context": drawn.context},
    )


if __name__ == "__main__":
    main()
