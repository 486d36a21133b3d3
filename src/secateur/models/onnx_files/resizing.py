"""Which resizes of ONNX torch computes exactly, number for number; the others are refused."""

from __future__ import annotations

from typing import Any

import numpy as np

from secateur.models.onnx_files.site import Call, Site


def resize(site: Site) -> Call:
    """Return the interpolation that an operator is.

    Raises:
        ModelError: naming the modes that torch has no like of.
    """
    mode, how = site.attribute("mode", "nearest"), _coordinates(site)
    spatial = len(site.before) - 2
    if list(site.before[:2]) != list(site.after[:2]) or spatial not in (1, 2, 3):
        raise site.refusal("it resizes batch or channels")
    kinds = {"nearest": "nearest", "linear": ("linear", "bilinear", "trilinear")[spatial - 1], "cubic": "bicubic"}
    if mode not in kinds or (mode == "cubic" and spatial != 2):
        raise site.refusal(f"its mode is {mode}, {how}")
    if site.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise site.refusal("it keeps the ratio of height and width, which torch does not")
    before, after = ([size or 0 for size in shape[2:]] for shape in (site.before, site.after))
    factors = [b / a if a else 0.0 for a, b in zip(before, after, strict=True)]
    told = _told(site, factors)
    if mode == "nearest":
        kinds["nearest"] = _nearest(site, how, before, after, told)
    else:
        _insist(site, mode, how, before, after, told)
    numbers: dict[str, Any] = {"mode": kinds[mode]}
    if all(factor >= 1 and factor.is_integer() for factor in factors):
        numbers["scale_factor"] = factors  # which holds for images of every size
    else:
        numbers["size"] = list(site.after[2:])
    if mode != "nearest":
        numbers["align_corners"] = how == "align_corners"
        numbers["antialias"] = bool(site.attribute("antialias", 0))
    return Call("interpolate", [site.x], numbers)


def _coordinates(site: Site) -> str:
    usual = "asymmetric" if site.opset < 11 or site.node.op_type == "Upsample" else "half_pixel"
    return str(site.attribute("coordinate_transformation_mode", usual))


def _told(site: Site, factors: list[float]) -> list[float]:
    """Return the factors that the operator names, of which sizes are rounded down; those of the sizes otherwise."""
    place = 1 if site.opset < 11 else 2
    said = site.attribute("scales")
    if said is None and site.has(place):
        said = site.constant(place).reshape(-1).tolist()
    if not said:
        return factors
    axes = [axis % len(site.before) for axis in site.attribute("axes") or range(len(said))]
    named = dict(zip(axes, said, strict=False))
    return [float(named.get(axis + 2, 1.0)) for axis in range(len(factors))]


def _nearest(site: Site, how: str, before: list[int], after: list[int], told: list[float]) -> str:
    """Return the mode of torch that takes the same pixels, which is tried for each of them."""
    rounding = site.attribute("nearest_mode", "round_prefer_floor")
    fitting = {"nearest", "nearest-exact"}
    for size, made, scale in zip(before, after, told, strict=True):
        if site.opset < 11 or site.node.op_type == "Upsample":
            rounding = "floor" if scale >= 1 else "ceil"
        at, ratio, factor = np.arange(made, dtype=np.float32), np.float32(size / made), np.float32(scale)
        half = (at + np.float32(0.5)) / factor - np.float32(0.5)
        places = {
            "asymmetric": at / factor,
            "half_pixel": half,
            "pytorch_half_pixel": half if made > 1 else at,
            "half_pixel_symmetric": half + np.float32(size / 2 * (1 - made / (size * scale))),
            "align_corners": at * np.float32((size - 1) / max(1, made - 1)),
        }
        rounded = {
            "floor": np.floor,
            "ceil": np.ceil,
            "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
            "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
        }
        if how not in places or rounding not in rounded:
            fitting.clear()
            break
        wanted = np.clip(rounded[rounding](places[how]), 0, size - 1)
        found = {"nearest": np.floor(at * ratio), "nearest-exact": np.floor((at + np.float32(0.5)) * ratio)}
        fitting -= {kind for kind, taken in found.items() if (np.clip(taken, 0, size - 1) != wanted).any()}
    if not fitting:
        raise site.refusal(f"it takes the nearest pixels by {how} and {rounding}, which are not those of torch")
    return min(fitting)


def _insist(site: Site, mode: str, how: str, before: list[int], after: list[int], told: list[float]) -> None:
    """Refuse what torch interpolates at other places or with other weights."""
    sizes = list(zip(before, after, told, strict=True))
    whole = all(abs(size * scale - made) < 1e-3 for size, made, scale in sizes)
    halves = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")
    at_one = how == "pytorch_half_pixel" and any(made == 1 < size for size, made, _ in sizes)
    unchanged = before == after and whole and how != "tf_crop_and_resize"
    if not (unchanged or how == "align_corners" or (how in halves and whole and not at_one)):
        raise site.refusal(f"it interpolates ({mode}) at the places of {how}, which are not those of torch")
    smooth = bool(site.attribute("antialias", 0))
    slope = site.attribute("cubic_coeff_a", -0.75)
    if mode == "cubic" and (abs(slope - (-0.5 if smooth else -0.75)) > 1e-6 or site.attribute("exclude_outside", 0)):
        raise site.refusal("it weighs the pixels around (cubic_coeff_a, exclude_outside) otherwise than torch")
