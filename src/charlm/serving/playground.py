"""The playground, a page where models write side by side.

The page asks each chosen model for one text; the answer is a line of JSON for each character, sent
as soon as it is drawn. The text is the sampler's, the same that `charlm sample` prints.

Shapes: T time, V vocabulary.
"""

import contextlib
import ipaddress
import json
import math
import reprlib
import threading
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import click
import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from fastapi.telemetry import TelemetryConfig
from pydantic import ConfigDict, Field
from torch import Tensor

from charlm import results as evaluations
from charlm import sampling, saved_model
from charlm.cli import one_line_errors
from charlm.config import params
from charlm.errors import UserError
from charlm.models.base import LanguageModel, State, start_torch
from charlm.serving.ports import listen

MODELS, RESULTS = Path("models"), Path("results")

LONGEST = 10_000
"""Characters that a prompt, and a text, may have."""

MAX_BYTES = 1 << 20
"""Bytes of a request."""

GUESSES = 5
"""Likeliest symbols that are told of each character."""

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; frame-ancestors 'none'"
)
"""What a browser lets the page do: run what stands in it and ask the server that it came from."""


class TextRequest(params.Sampling):
    """What the page asks of one model; numbers may be the text that was typed."""

    model_config = ConfigDict(strict=False)

    model: str
    prompt: Annotated[str, Field(min_length=1, max_length=LONGEST)]
    length: Annotated[int, Field(ge=1, le=LONGEST)]
    seed: params.Seed
    context: Any = None
    samples: Annotated[int, Field(ge=1, le=1)] = 1


class Character(NamedTuple):
    """A character of a text, and what the model that read or wrote it predicted at its place.

    Attributes:
        symbol: the character.
        drawn: whether the model wrote it; it read it in the prompt otherwise.
        bits: its surprisal under the model's own probability (temperature 1, all symbols); None if
            the model had seen nothing before it.
        guesses: the likeliest symbols at its place, the likeliest first.
        percent: their probabilities.
    """

    symbol: str
    drawn: bool
    bits: float | None
    guesses: str
    percent: list[float]


class Observed(LanguageModel):
    """A model that remembers its last logits, so that the sampler needs no code for the page."""

    logits_BTV: Tensor

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model
        self.context_length = model.context_length

    def forward(self, ids_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Ask the model and keep its logits."""
        self.logits_BTV, state = self.model(ids_BT, state)
        return self.logits_BTV, state


def write(
    settings: params.Sampling,
    model: LanguageModel,
    config: saved_model.Config,
    prompt_T: Tensor,
) -> Iterator[Character]:
    """Yield the characters of the prompt, then those that `sampling.draw_as` draws.

    Args:
        settings: of one sample.
        model: in evaluation mode.
        config: what it was built from.
        prompt_T: at least one id, on the model's device.
    """

    def character(symbol: int, drawn: bool, log_p_V: Tensor | None) -> Character:
        if log_p_V is None:
            return Character(config.symbols[symbol], drawn, None, "", [])
        best = log_p_V.topk(min(GUESSES, len(log_p_V)))
        return Character(
            config.symbols[symbol],
            drawn,
            round(-log_p_V[symbol].item() / math.log(2), 3),
            config.vocabulary.decode(best.indices.tolist()),
            [round(100 * p, 1) for p in best.values.exp().tolist()],
        )

    observed = Observed(model)
    prompt = prompt_T.tolist()
    drawn = sampling.draw_as(settings, observed, config.block, prompt_T)
    for place, ids_B in enumerate(drawn):
        log_p_TV = observed.logits_BTV[0].cpu().double().log_softmax(dim=-1)
        if place == 0:
            # Nothing stands before the first, and `context` may leave out more.
            first = len(prompt) - len(log_p_TV) + 1
            for symbol in prompt[:first]:
                yield character(symbol, False, None)
            for symbol, log_p_V in zip(prompt[first:], log_p_TV, strict=False):
                yield character(symbol, False, log_p_V)
        yield character(int(ids_B[0]), True, log_p_TV[-1])


def model_names(models: Path) -> list[str]:
    """Return the names of the trained models in a folder."""
    return sorted(path.parent.name for path in models.glob(f"*/{saved_model.CONFIG}"))


def model_rows(models: Path, results: Path, settings: params.Params) -> list[dict[str, Any]]:
    """Return name, training text and validation bits (None without) of each model, best first."""
    rows = []
    for name in model_names(models):
        bits = None
        with contextlib.suppress(UserError, KeyError):
            metrics = evaluations.load(results / name / "metrics.json", models / name)
            bits = metrics["streaming"]["validation"]["bits_per_char"]
        text = settings.runs[name].text if name in settings.runs else "train"
        rows.append({"name": name, "text": text, "bits": bits})
    return sorted(rows, key=lambda row: math.inf if row["bits"] is None else row["bits"])


def app(
    models: Path,
    results: Path,
    settings: params.Params,
    device: torch.device,
    hosts: tuple[str, ...] = ("*",),
    ended: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """Return the page and what it asks for.

    Args:
        models: folder of trained models. Each is loaded when it is first asked for, and kept.
        results: folder of their evaluations, by which they are ranked.
        settings: the page begins with its common `sampling`; each model keeps its own `context`.
        device: where models compute.
        hosts: names by which the server may be called: a foreign name that was made to point here
            must not let a foreign page in.
        ended: whether the server is about to end, and texts with it.
    """
    # What is typed stays here, even where the environment asks FastAPI to report what it serves.
    unseen: TelemetryConfig = {"auto_configure": False, "exclude": lambda scope: True}
    api = FastAPI(openapi_url=None, telemetry=unseen, max_body_size=MAX_BYTES)
    api.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    loaded: dict[str, tuple[LanguageModel, saved_model.Config]] = {}
    loading = threading.Lock()

    def load(name: str) -> tuple[LanguageModel, saved_model.Config]:
        if name not in (names := model_names(models)):
            raise UserError(f"unknown model {name!r} (allowed: {', '.join(names) or 'none'})")
        with loading:
            if name not in loaded:
                loaded[name] = saved_model.load(models / name, device)
            return loaded[name]

    @api.get("/")
    def page() -> HTMLResponse:
        text = resources.files("charlm.serving").joinpath("playground.html").read_text("utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": POLICY})

    @api.get("/models")
    def offer() -> dict[str, Any]:
        return {
            "models": model_rows(models, results, settings),
            "settings": settings.sampling.model_dump(),
        }

    @api.post("/write")
    def answer(request: TextRequest) -> StreamingResponse:
        model, config = load(request.model)
        try:
            ids = config.vocabulary.encode(request.prompt)
        except UserError as error:
            raise UserError(f"prompt: {error}") from None
        known = request.model in settings.names
        context = settings.named(request.model).sampling.context if known else None
        chosen = request.model_copy(update={"context": context})
        prompt_T = torch.tensor(ids).long().to(device)

        def lines() -> Iterator[str]:
            try:
                for character in write(chosen, model, config, prompt_T):
                    if ended():
                        return
                    yield json.dumps(character._asdict()) + "\n"
            except (
                RuntimeError
            ) as error:  # torch's word for weights that are not numbers, and others
                reason = " ".join(str(error).split())
                yield json.dumps({"error": f"{request.model} cannot write: {reason}"}) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    @api.exception_handler(UserError)
    def refused(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    @api.exception_handler(RequestValidationError)
    def misread(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where, message = str(first["loc"][-1]).replace("_", "-"), first["msg"]
        line = f"{where}: {message[0].lower()}{message[1:]}, not {reprlib.repr(first['input'])}"
        return JSONResponse({"error": line}, 422)

    return api


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="0.0.0.0 lets other machines in too."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="0 takes a free one.",
)
@one_line_errors
def main(host: str, port: int) -> None:
    """Serve a page where the trained models write side by side, coloured by their surprise.

    Models are read once: start it again after a training.

    \b
    Examples:
      charlm play
      charlm play --port 8000
    """
    settings = params.load()
    if not model_names(MODELS):
        raise UserError(f"no models in {MODELS}/: run `dvc repro` or `dvc pull` first")
    with listen(host, port) as listener:
        address, port, *_ = listener.getsockname()
        local = ipaddress.ip_address(address).is_loopback
        hosts = ("localhost", "127.0.0.1", "[::1]", address) if local else ("*",)
        device = start_torch()
        api = app(MODELS, RESULTS, settings, device, hosts, lambda: server.should_exit)
        server = uvicorn.Server(uvicorn.Config(api, log_level="error", timeout_graceful_shutdown=1))
        name = f"[{address}]" if ":" in address else address
        click.echo(f"playground on http://{name}:{port} (Ctrl-C ends it)")
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


if __name__ == "__main__":
    main()
