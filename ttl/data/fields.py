"""Settings as dataclasses: built from the plain values of a YAML file, with every value's type checked."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError

from ttl.errors import ParamsError

T = TypeVar("T")

NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def parse(text: str, *, where: str) -> Any:
    """Return the plain values of a YAML text, as DVC reads it.

    `where` names it for error messages. Raises `ParamsError` for what is not YAML, and for a key that stands
    twice in one mapping: one of its values would be lost.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except DuplicateKeyError as error:
        line, problem = error.problem_mark.line + 1, error.problem.partition(" with value")[0]
        raise ParamsError(f"{where}, line {line}: {problem}; write all of it under one") from error
    except YAMLError as error:
        raise ParamsError(f"{where} is not valid YAML: {error}") from error


def build(cls: type[T], values: object, *, where: str) -> T:
    """Return the dataclass `cls` with the fields that the mapping `values` gives.

    `where` names the place in the file for error messages. Raises `ParamsError` for a field that `cls` does
    not have, that it needs and is not given, or whose value has the wrong type.
    """
    if not isinstance(values, Mapping):
        raise ParamsError(f"{where} is {values!r}; it must be a mapping of settings")
    assert dataclasses.is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            raise ParamsError(f"{where} has no setting {name!r}; it has: {', '.join(fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ParamsError(f"{where} lacks the setting {name!r}")
    return cls(**{name: convert(value, hints[name], f"{where}.{name}") for name, value in values.items()})


def settle_types(settings: Any, *, where: str) -> None:
    """Give the fields of a frozen dataclass, from its `__post_init__`, the types they are declared with.

    Raises `ParamsError` for the first whose value is of another type.
    """
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = convert(getattr(settings, field.name), hints[field.name], f"{where}.{field.name}")
        object.__setattr__(settings, field.name, value)


def convert(value: object, hint: Any, where: str) -> Any:
    """Return `value` as the type `hint`: lists become tuples, mappings become dataclasses.

    Raises `ParamsError` where it is of another type; a whole number passes as a float, and nothing else does.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (plain,) = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else convert(value, plain, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ParamsError(f"{where} is {value!r}; it must be a list")
        return tuple(convert(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, where=where)
    if origin is Literal and value not in arguments:
        raise ParamsError(f"{where} is {value!r}; it must be one of: {', '.join(map(str, arguments))}")
    if origin is not Literal and hint is not Any:
        _check_plain(value, hint, where)
    return float(value) if hint is float else value  # type: ignore[arg-type]


def _check_plain(value: object, hint: type, where: str) -> None:
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        quote = "; put it in quotes" if hint is str else ""
        raise ParamsError(f"{where} is {value!r}; it must be {NAMES[hint]}{quote}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ParamsError(f"{where} is {value!r}; it must be a finite number")
