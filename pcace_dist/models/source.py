"""A digest of the code that defines a model: the user's own modules that its classes come from.

Weights alone do not identify a model: with an edited `forward`, other channels are ranked. Libraries are identified
elsewhere, by their versions. Comments, docstrings and formatting do not change the digest.
"""

from __future__ import annotations

import ast
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from types import ModuleType

from torch import nn

_LIBRARIES = tuple(
    {str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


def code_digest(model: nn.Module, factory: str) -> str | None:
    """Digest of the code of `factory`'s module, of the modules that define the model's classes, and of the modules that
    these import, without libraries: blake2b (128 bits, hex). None where all of it is library code.
    """
    roots = {factory.partition(":")[0], *(type(part).__module__ for part in model.modules())}
    texts = {name: text for name in _reached(roots) if (text := _meaning(sys.modules[name])) is not None}
    if not texts:
        return None
    digest = blake2b(digest_size=16)
    for text in sorted(texts.values()):  # without their names: the same file may be imported under two
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _reached(roots: set[str]) -> Iterator[str]:
    """Names of the user's modules that `roots` import, directly or indirectly, and of `roots` themselves."""
    waiting, seen = sorted(roots), set(roots)
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        if module is None or not _is_own(module):
            continue
        yield name
        for value in list(vars(module).values()):
            other = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(other, str) and other not in seen:
                seen.add(other)
                waiting.append(other)


def _is_own(module: ModuleType) -> bool:
    """Whether a module is the user's own file: not Python's, not installed, not of this package."""
    file = getattr(module, "__file__", None)
    if file is None or module.__name__.partition(".")[0] == __name__.partition(".")[0]:
        return False
    return not str(Path(file).resolve()).startswith(_LIBRARIES)


def _meaning(module: ModuleType) -> str | None:
    """A module's code without comments, docstrings and formatting; None where there is no source."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return None
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            del body[0]
            body.extend([] if body else [ast.Pass()])
    return ast.unparse(tree)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
