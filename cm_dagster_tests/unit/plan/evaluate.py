"""Decide whether a predicate holds for a row: Butler's own parser, and an evaluation that shares nothing with ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lsst.daf.butler.queries.expressions.parser import TreeVisitor, parse_expression


class _Evaluate(TreeVisitor[Any]):
    def __init__(self, row: Mapping[str, int | str]) -> None:
        self.row = row

    def visitBinaryOp(self, operator: str, lhs: Any, rhs: Any, node: Any) -> Any:  # noqa: N802
        match operator:
            case "AND":
                return lhs and rhs
            case "OR":
                return lhs or rhs
            case "=":
                return lhs == rhs
            case ">":
                return lhs > rhs
            case "<":
                return lhs < rhs
        raise AssertionError(operator)

    def visitUnaryOp(self, operator: str, operand: Any, node: Any) -> Any:  # noqa: N802
        assert operator in ("-", "NOT")
        return not operand if operator == "NOT" else -operand

    def visitIsIn(self, lhs: Any, values: list[Any], not_in: bool, node: Any) -> Any:  # noqa: N802
        assert not not_in
        return any(lhs in value if isinstance(value, range) else lhs == value for value in values)

    def visitParens(self, expression: Any, node: Any) -> Any:  # noqa: N802
        return expression

    def visitIdentifier(self, name: str, node: Any) -> Any:  # noqa: N802
        return self.row[name]

    def visitNumericLiteral(self, value: str, node: Any) -> Any:  # noqa: N802
        return int(value)

    def visitStringLiteral(self, value: str, node: Any) -> Any:  # noqa: N802
        return value

    def visitRangeLiteral(self, start: int, stop: int, stride: int | None, node: Any) -> Any:  # noqa: N802
        assert stride is None
        return range(start, stop + 1)

    def _unexpected(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError(args)

    visitBind = visitBoxNode = visitCircleNode = visitGlobNode = visitPointNode = _unexpected  # noqa: N815
    visitPolygonNode = visitRegionNode = visitTimeLiteral = visitTupleNode = visitUuidLiteral = _unexpected  # noqa: N815


def holds(predicate: str, row: Mapping[str, int | str]) -> bool:
    """Say whether a predicate, as Butler reads it, selects a row."""
    tree = parse_expression(predicate)
    assert tree is not None
    return bool(tree.visit(_Evaluate(row)))
