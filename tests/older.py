"""Documents as earlier versions wrote them."""

from __future__ import annotations

from typing import Any


def as_before(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document as versions wrote it that knew classification alone."""

    def older(value: Any) -> Any:
        if isinstance(value, list):
            return [older(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "metrics" in value:
            return {"top1": value["metrics"][0]["value"], "loss": value["loss"], "examples": value["examples"]}
        if "kept" in value and "values" in value:
            value = {"accuracy" if name == "values" else name: each for name, each in value.items()}
        names = {"quality": "accuracy", "train_metric": "train_accuracy", "val_metric": "val_accuracy"}
        return {names.get(name, name): older(each) for name, each in value.items()}

    return {name: older(value) for name, value in document.items()}
