"""``check_method``: the promises, one by one.

Each promise is tried on tiny networks that couple their channels in different ways. What is not tested here is
whether the method removes the right units: only its author knows.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.checks.case import Case, fail
from secateur.checks.networks import SHAPE
from secateur.checks.networks import networks as tiny_networks
from secateur.checks.state import other_randomness, same, state_of
from secateur.core.graph import tensor_of
from secateur.core.method import Method, Paper, settings_of
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Measure, Target, size, zero_masks
from secateur.core.surgery import apply, hold, run, verify
from secateur.core.surgery.foreign import refuse_foreign
from secateur.core.surgery.private_copies import apart
from secateur.core.surgery.untouched import private, randomness
from secateur.core.trace import trace
from secateur.core.zeros.shaper import Moment, Shaper
from secateur.errors import SecateurError, TargetError
from secateur.measure import count
from secateur.tasks import CLASSIFICATION

KEEP = 0.6
_MEASURES: tuple[Measure, ...] = ("macs", "nonzero", "params", "units")
_NEVER = Target(1e-9, "macs")
_EVEN = Limits(min_units=2, multiple=2)
_STEPS = 1000  # of a training that is long enough for any schedule


@checked
@apart()
def check_method(
    method: Method,
    *,
    networks: Mapping[str, tuple[nn.Module, Tensor]] | None = None,
    free_outputs: Sequence[str] = (),
) -> None:
    """Try a method on tiny networks and insist on what every method promises.

    The promises: settings are a frozen dataclass and survive a recipe; ``plan`` leaves the model alone, bit for
    bit; the same seed gives the same plan; the plan survives JSON; it meets the target, or ``TargetError`` names
    the smallest fraction that can be reached; it respects the limits, and groups that are left alone; a method that
    needs data says so; the plan can be carried out; the pruned network computes what the silenced one computes; its
    size on paper is the size counted; it trains, and so does the network that the method shapes.

    Args:
        method: the method with its settings; needs no data of yours, random images are made for it.
        networks: by name, a classifier and example images, (N, C, H, W), for it; None for a chain, a residual
            sum, a concatenation, a depthwise convolution and linear layers. They are not modified.
        free_outputs: outputs of these networks that may lose channels, see ``secateur.trace``.

    Raises:
        ContractError: at the first broken promise; an ``AssertionError`` that names the promise and the network.

    Example:
        >>> from secateur.methods import make
        >>> check_method(make("magnitude", {"norm": "l2"}))
    """
    _check_settings(method)
    with randomness():
        cases = list(_cases(method, networks, free_outputs))
        removed = [_check_on(case, thorough=number == 0) for number, case in enumerate(cases)]
    if not any(removed):
        fail(method, "removes something", f"it reached no target, however mild, on {', '.join(c.name for c in cases)}")


def _check_settings(method: Method) -> None:
    promise = "settings are a frozen dataclass and survive a recipe"
    if not isinstance(method, Method):  # pyright: ignore[reportUnnecessaryIsInstance]
        fail(method, promise, "it is no Method; pass an object of the class, with its settings")
    if not isinstance(getattr(type(method), "paper", None), Paper):
        fail(method, promise, "its class names no paper; give it paper: ClassVar[Paper] = Paper(...)")
    known = {entry.name for entry in dataclasses.fields(method)}
    for name, kind in inspect.get_annotations(type(method)).items():
        if name not in known and "ClassVar" not in str(kind):
            fail(method, promise, f"'{name}' is no setting; write @dataclass(frozen=True) above the class")
    try:
        again = type(method)(**json.loads(json.dumps(settings_of(method))))
    except (TypeError, ValueError) as error:
        fail(method, promise, f"its settings cannot be written down ({error})")
    if again != method:
        fail(method, promise, f"written down and read again, {method} becomes {again}")


def _check_on(case: Case, thorough: bool) -> bool:
    """Check all promises on one network; tell whether anything could be removed there.

    What has nothing to do with how channels are coupled is tried on one network only, with ``thorough``: methods
    that search take their time.
    """
    found: dict[Plan, None] = {}
    for measure in _MEASURES:
        plan = _answer(case, Target(KEEP, measure))
        if plan is not None and plan.edits:
            found[plan] = None
        if found and not thorough:
            break
    if thorough:
        _answer(case, _NEVER)
        _answer(case, Target(KEEP, "macs"), _EVEN)
        _check_without_data(case)
        _check_shaping(case)
        _check_left(case, found)
    for plan in found:
        _check_surgery(case, plan)
    return bool(found)


def _answer(case: Case, target: Target, limits: Limits = Limits()) -> Plan | None:  # noqa: B008
    """Ask for a plan twice, and check all that can be seen without cutting; None if the target is out of reach."""
    model = copy.deepcopy(case.model)
    before = state_of(model)
    with other_randomness(1):
        plan = _ask(case, case.problem(model, target, limits))
    after = state_of(model)
    for name in before | after:
        if name not in before or name not in after or not same(before[name], after[name]):
            case.fail("plan leaves the model alone", f"it changed {name}")
    with other_randomness(2):
        again = _ask(case, case.problem(case.model, target, limits))
    if _said(plan) != _said(again):
        case.fail("same seed, same plan", "a second call decided otherwise; draw from problem.rng and remember nothing")
    if isinstance(plan, TargetError):
        _check_refusal(case, target, plan, limits)
        return None
    if Plan.from_json(plan.to_json()) != plan:
        case.fail("the plan survives JSON", "the plan read back differs; are its units tuples of int?")
    _check_target(case, target, plan)
    _check_limits(case, plan, limits)
    return plan


def _ask(case: Case, problem: Problem) -> Plan | TargetError:
    try:
        plan = case.method.plan(problem)
    except TargetError as error:
        return error
    if not isinstance(plan, Plan):  # pyright: ignore[reportUnnecessaryIsInstance]
        case.fail("plan returns a Plan", f"it returned {type(plan).__name__}")
    return plan


def _check_refusal(case: Case, target: Target, error: TargetError, limits: Limits) -> None:
    promise = "TargetError names the reachable minimum"
    if error.reachable is None or not target.keep < error.reachable <= 1.0:
        case.fail(promise, f"keep={target.keep:g} of {target.of} was refused with reachable={error.reachable}")
    nearby = Target(min(1.0, error.reachable + 0.01), target.of)
    if isinstance(_ask(case, case.problem(case.model, nearby, limits)), TargetError):
        case.fail(promise, f"it said that {error.reachable:.3g} of the {target.of} can be kept, and then refused it")


def _check_target(case: Case, target: Target, plan: Plan) -> None:
    try:
        left, whole = size(case.graph, plan).of(target.of), size(case.graph).of(target.of)
    except SecateurError as error:
        case.fail("the plan can be carried out", str(error))
    if left > target.keep * whole * (1 + 1e-12) + 1e-9:  # both are whole numbers
        case.fail(
            "meets the target", f"it keeps {left / whole:.3g} of the {target.of} where {target.keep:g} was asked for"
        )


def _check_limits(case: Case, plan: Plan, limits: Limits) -> None:
    for name, units in plan.dropped().items():
        group = case.graph.group(name)
        left = group.size - len(units)
        multiple = 1 if limits.auto else limits.multiple_of(group)  # "auto" is refined where a target asks for it
        if left < min(limits.min_units, group.size) or left % multiple:
            case.fail(
                "respects the limits",
                f"it leaves {left} of {group.size} units of '{name}' where at least {limits.min_units} and a multiple "
                f"of {multiple} must stay",
            )


def _check_left(case: Case, found: Iterable[Plan]) -> None:
    """Leave a group alone that would have lost units, and ask again."""
    name = next((name for plan in found for name in plan.dropped()), None)
    if name is None:
        return
    spared = dataclasses.replace(case, graph=dataclasses.replace(case.graph, left=frozenset({name})))
    for keep in (KEEP, (1 + KEEP) / 2):  # what is left may not be enough for the first
        plan = _ask(spared, spared.problem(case.model, Target(keep, "macs")))
        if isinstance(plan, Plan) and name in plan.dropped():
            case.fail("spares what is left alone", f"it drops units of '{name}'; look at the groups of graph.free only")


def _check_without_data(case: Case) -> None:
    try:
        case.method.plan(case.problem(case.model, Target(KEEP, "macs"), data=False))
    except SecateurError:
        return
    except Exception as error:
        what = f"without data it fails with {type(error).__name__}: {error}; raise DataError instead"
        case.fail("says that it needs data", what)


def _check_surgery(case: Case, plan: Plan) -> None:
    try:
        thin = apply(case.model, case.graph, plan)
        check = verify(case.model, case.graph, plan, thin, case.inputs)
    except SecateurError as error:
        case.fail("the plan can be carried out", str(error))
    if not check.exact:
        what = f"they differ by {check.difference:.2g}, first at '{check.layer}'"
        case.fail("the pruned network computes what the silenced one computes", what)
    _check_size(case, plan, thin)
    promise = "the small network trains"
    _check_steps(case, thin, hold(thin, case.graph, plan), promise)
    for name, mask in zero_masks(case.graph, plan, case.graph.kept(plan)).items():
        if bool(tensor_of(thin, name)[~mask].any()):
            case.fail(promise, f"weights of '{name}' that the plan sets to zero did not stay there")


def _check_size(case: Case, plan: Plan, thin: nn.Module) -> None:
    paper, counted = size(case.graph, plan), count(thin, case.inputs[:1])
    pairs = {"params": (paper.params, counted.params), "macs": (paper.macs, counted.macs)}
    if count(case.model, case.inputs[:1]).nonzero == size(case.graph).params:  # chance zeros are none of the plan's
        pairs["nonzero"] = (paper.nonzero, counted.nonzero)
    for measure, (on_paper, real) in pairs.items():
        if on_paper != real:
            case.fail("size on paper is the size counted", f"the {measure} are {on_paper} on paper and {real} counted")


def _check_shaping(case: Case) -> None:
    promise = "the shaped network trains"
    model = copy.deepcopy(case.model)
    with case.method.shaping(case.problem(model, Target(KEEP, "nonzero"))) as shaper:
        if shaper is not None and not isinstance(shaper, Shaper):  # pyright: ignore[reportUnnecessaryIsInstance]
            case.fail(promise, f"training yields {type(shaper).__name__} where a Shaper or None is expected")
        if shaper is not None:
            _check_steps(case, model, shaper, promise)
    names = {name: tensor.shape for name, tensor in case.model.state_dict().items()}
    if {name: tensor.shape for name, tensor in model.state_dict().items()} != names:
        case.fail(promise, "after training its tensors have other names or shapes")


def _check_steps(case: Case, model: nn.Module, shaper: Shaper, promise: str) -> None:
    """Take two steps of plain gradient descent, which a shaper is told are the first and the last of a training."""
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in trained]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    for step, (images, labels) in zip((0, _STEPS - 1), case.batches, strict=False):
        optimizer.zero_grad()
        shaper.before_batch(Moment(step, _STEPS, torch.Generator().manual_seed(step)))
        loss = CLASSIFICATION.loss(CLASSIFICATION.output(model(images)), (images, labels))
        penalty = shaper.penalty()
        if penalty is not None:
            loss = loss + penalty
        if loss.dim() or not bool(torch.isfinite(loss)):
            case.fail(promise, f"the loss is {loss.detach().tolist()}, which is not one finite number")
        loss.backward()
        optimizer.step()
        shaper.after_step(step)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in trained):
        case.fail(promise, "after two steps weights are not finite")
    if all(torch.equal(old, new) for old, new in zip(before, trained, strict=True)):
        case.fail(promise, "two steps changed no weight")


def _cases(
    method: Method, networks: Mapping[str, tuple[nn.Module, Tensor]] | None, free_outputs: Sequence[str]
) -> Iterator[Case]:
    rng = torch.Generator().manual_seed(1)
    if networks is None:
        images = torch.randn(4, *SHAPE, generator=rng)
        networks = {name: (model, images) for name, model in tiny_networks().items()}
    for name, (given, images) in networks.items():
        refuse_foreign(given)
        model = private(given)
        classes = CLASSIFICATION.output(run(model, images)).shape[1]
        shape = (8, *images.shape[1:])
        batches = [
            (torch.randn(shape, generator=rng, dtype=images.dtype), torch.randint(classes, (8,), generator=rng))
            for _ in range(4)
        ]
        graph = trace(model, images[:1], free_outputs=free_outputs)
        yield Case(method, name, model, graph, images, batches)


def _said(answer: Plan | TargetError) -> Plan | float | None:
    return answer.reachable if isinstance(answer, TargetError) else answer
