"""A user's templates in Jinja's sandbox: text, columns, conditions and a few filters, no more.

Calls, assignments, macros, includes and nested loops are refused, so that no template takes more
time or memory than its text and its values do.
"""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from usermirrorer.builders.common.errors import UserError

LONGEST = 8_000
LONGEST_TEXT = 20_000  # of a rendered value
FILTERS = (
    *("upper", "lower", "title", "capitalize", "trim", "int", "float", "round", "abs", "default"),
    *("d", "length", "count", "join", "truncate", "first", "last", "string", "sort", "unique"),
)
_NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.If),
    *(nodes.For, nodes.Filter, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or),
    *(nodes.Not, nodes.Concat, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv),
    *(nodes.Mod, nodes.Neg, nodes.Pos, nodes.List, nodes.Tuple, nodes.Test, nodes.Getitem),
    nodes.Keyword,
)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox in which signs between values compute with numbers alone."""

    intercepted_binops = frozenset(("*", "/", "//", "%", "-"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse `"x" * 1000000` and `"%9999d" % 1`."""
        if not all(isinstance(value, int | float) for value in (left, right)):
            raise SecurityError(f"{operator} computes with numbers only")
        return super().call_binop(context, operator, left, right)


def environment(finalize: Any = None) -> Sandbox:
    """Return the sandbox, with the filters of `FILTERS` and a bounded `replace`."""
    sandbox = Sandbox(finalize=finalize, autoescape=False)
    sandbox.filters = {name: sandbox.filters[name] for name in FILTERS} | {"replace": _replace}
    sandbox.globals.clear()
    return sandbox


def _replace(text: object, old: str, new: str) -> str:
    value = str(text)
    if len(value) + (value.count(old) + 1) * len(new) > LONGEST_TEXT:
        raise SecurityError("replace makes a text too long")
    return value.replace(old, new)


def check(text: str, where: str) -> frozenset[str]:
    """Return the names that a template reads.

    Raises:
        UserError: if it is broken or does more than a template of texts needs.
    """
    if len(text) > LONGEST:
        raise UserError(f"template is longer than {LONGEST:,} characters", where=where)
    sandbox = environment()
    try:
        tree = sandbox.parse(text)
        _refuse(tree, where, 0, 0)
        sandbox.from_string(text)
    except TemplateSyntaxError as error:
        fix = f"Line {error.lineno} of the template."
        raise UserError(f"template is broken: {error.message}", where=where, fix=fix) from error
    except (TemplateError, RecursionError) as error:
        raise UserError(f"template is broken: {error}", where=where) from error
    from jinja2 import meta

    return frozenset(meta.find_undeclared_variables(tree))


def _refuse(node: nodes.Node, where: str, loops: int, depth: int) -> None:
    loops += isinstance(node, nodes.For)
    if not isinstance(node, _NODES) or loops > 1 or depth > 50:
        kind = "a nested loop" if loops > 1 else type(node).__name__.lower()
        raise UserError(
            f"template uses {kind}, which is not allowed",
            where=where,
            fix="Use {{ column }}, {% if column %}, and filters such as round, upper, truncate.",
        )
    if isinstance(node, nodes.For) and not isinstance(node.iter, nodes.Name | nodes.Filter):
        raise UserError("template loops over something else than a column", where=where)
    for child in node.iter_child_nodes():
        _refuse(child, where, loops, depth + 1)
