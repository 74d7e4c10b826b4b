"""Functions of the user's that a command line names, as `module:function`."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import Any


def function_of(name: str) -> Callable[[Any], object]:
    """The function that "module:function" names."""
    module, colon, function = name.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f'"{name}" is not of the form MODULE:FUNCTION')
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"{name}: {error}") from error
    except Exception as error:  # the module runs when it is imported, and may raise anything
        raise argparse.ArgumentTypeError(f"{name}: {type(error).__name__} in {module}: {error}") from error
    if not callable(found):
        raise argparse.ArgumentTypeError(f"{name} is not a function")
    called: Callable[[Any], object] = found
    return called


def handler_of(text: str) -> tuple[str, Callable[[Any], object]]:
    """Queue and function of "queue=module:function"."""
    queue, equals, name = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f'"{text}" is not of the form QUEUE=MODULE:FUNCTION')
    return queue, function_of(name)
