"""Checks that answer a mistake with one line: what is wrong, where, and what is allowed."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError

from charlm.config.schema import Schema
from charlm.errors import UserError

AnySchema = TypeVar("AnySchema", bound=Schema)
AnyValue = TypeVar("AnyValue")

NAME = "[a-z][a-z0-9_]{0,63}"


def validate(schema: type[AnySchema], values: Any, where: str | Callable[[str], str]) -> AnySchema:
    """Build a schema, or say what is wrong with the first bad key.

    Args:
        schema: what to build.
        values: a mapping.
        where: the key that the mapping stands under, or what turns a key of the schema ("" for the
            whole) into where the user wrote it.

    Raises:
        UserError: the first thing that is wrong, in one line.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    # A misspelled key is missing too, but it is the misspelling that needs a correction.
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    place, message = first["loc"], first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = unknown("key", place[-1], _keys(schema, place[:-1]))
    elif first["type"] == "missing":
        message = "missing"
    elif first["type"] != "value_error":
        message = f"{message[0].lower()}{message[1:]}, not {first['input']!r}"
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    key = key.removeprefix(".")
    if callable(where):
        location = where(key)
    else:
        joint = "." if ": " in where else ": "
        location = f"{where}{joint}{key}" if key else where
    raise UserError(f"{location}: {message}")


def check_keys(mapping: Mapping[Any, Any], known: Iterable[str], where: str, prefix: str) -> None:
    """Refuse unknown keys (with the nearest right one) and missing ones."""
    known = list(known)
    for key in mapping:
        if key not in known:
            raise UserError(f"{where}: {prefix}{key}: {unknown('key', key, known)}")
    for key in known:
        if key not in mapping:
            raise UserError(f"{where}: {prefix}{key}: missing")


def check_mapping(value: Any, key: str) -> None:
    """Refuse what is no mapping."""
    if not isinstance(value, dict):
        raise UserError(f"{key}: must be a mapping ({{}} if empty)")


def check_name(name: Any, where: str) -> None:
    """Refuse a name that could not be a folder, a key and a stage."""
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise UserError(
            f"{where}: '{name}' cannot be a name (small letters, digits and _, at most 64)"
        )


def unknown(kind: str, name: Any, known: Iterable[str]) -> str:
    """Say that a name is unknown, with the nearest known one, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"allowed: {', '.join(known) or 'none'}"
    return f"unknown {kind} '{name}' ({hint})"


def named(kind: str, name: str, known: Mapping[str, AnyValue]) -> AnyValue:
    """Return a value by its name.

    Raises:
        UserError: there is none; the message has the nearest name, or all of them.
    """
    if name not in known:
        raise UserError(unknown(kind, name, known))
    return known[name]


def _keys(schema: type[Schema], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are allowed at a location inside a schema."""
    inner: Any = schema
    for part in location:
        if get_origin(inner) is dict:
            inner = get_args(inner)[1]
        else:
            inner = inner.model_fields[str(part)].annotation
    return list(inner.model_fields)
