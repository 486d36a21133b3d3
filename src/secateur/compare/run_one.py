"""One process of a comparison: what its runs share is made once, and each run is carried out."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from secateur import artifact
from secateur.artifact.environment import environment
from secateur.artifact.locks import claimed
from secateur.artifact.weights import read_into, to_bytes
from secateur.compare.comparison import Comparison
from secateur.compare.requests import Request
from secateur.compare.run_files import Run
from secateur.compare.runtime import runtime_of
from secateur.compare.scratch import uniform
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.data import Calibration, Data
from secateur.errors import ArtifactError, DataError, ExportError, SecateurError
from secateur.events import Event, Tell
from secateur.export import missing
from secateur.export.corners import corners
from secateur.measure import Measurement, SpeedUp
from secateur.measure.speed_up import DENSE, PRUNED
from secateur.outcome.network_stages import CUT, REPAIRED
from secateur.recipe import Recipe
from secateur.run import data_of, example_of, graph_of, images_of, model_of, preflight, prune_as, recipes
from secateur.run.calibration_images import suited
from secateur.run.device_placement import measure_at, place_for, quality_at
from secateur.run.headline_speed import timed_together
from secateur.run.work_folder import Work
from secateur.spelling import elsewhere
from secateur.training import History, fit

_OVERHEAD = ("packages", "method", "seed")


@contextmanager
def writing(place: Path) -> Generator[None]:
    """Say in a sentence what cannot be written.

    Raises:
        ArtifactError: naming it.
    """
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"cannot write {place}: {error.strerror or error}; {elsewhere()}") from None


@contextmanager
def work_claimed(path: Path, *, wait: bool = False) -> Generator[str | None]:
    """Claim some work, see ``claimed``.

    Raises:
        ArtifactError: if the claim cannot be written.
    """
    with ExitStack() as stack:
        with writing(path):
            holder = stack.enter_context(claimed(path, wait=wait))
        yield holder


class Conductor:
    """Carries out runs one after the other; data and dense networks are kept from one to the next."""

    def __init__(self, comparison: Comparison, folder: Path, download: bool, tell: Tell) -> None:
        self.comparison, self.folder, self.download, self.tell = comparison, folder, download, tell
        self._data: tuple[int, Data] | None = None
        self._images: tuple[int, Calibration | None] | None = None
        self._tested: dict[int, Measurement] = {}

    def refuse_early(self, recipe: Recipe) -> None:
        """Refuse what some run could not do; the recipe is that of any.

        Raises:
            SecateurError: naming the method.
        """
        recipes.runtime_of(recipe)
        if self.comparison.int8 and (reason := missing("onnx-int8")):
            raise ExportError(reason)
        (data, model), base = self._opened(recipe), self.comparison.base
        if not data.size("val"):
            raise DataError(f"{data.name} holds no images out; a comparison needs some to choose settings on")
        preflight.check_weights(model)
        if base.pretrain is None:
            preflight.warn_of_random_weights(model, self.tell)
        graph = graph_of(base, model, data.example(), tell=self.tell)
        for entry in self.comparison.all_entries():
            for keep in self.comparison.keeps:
                try:
                    target, method = Target(keep, base.of), entry.made()
                    method.check(target)
                    preflight.check_target(graph, method, target, Limits(base.min_units, base.multiple))
                except SecateurError as error:
                    error.args = (f"{entry.label}, keep {keep:g}: {error}",)
                    raise

    def run(self, request: Request) -> Run:
        """Carry out one run."""
        start = time.perf_counter()
        data = self.data(request.recipe)
        run = {"prune": self._prune, "scratch": self._scratch, "dense": self._dense}[request.kind](request, data)
        facts = environment(None, None)
        return replace(
            run,
            seconds=time.perf_counter() - start,
            recipe=request.recipe.to_toml(),
            environment={name: value for name, value in facts.items() if name not in _OVERHEAD},
        )

    def data(self, recipe: Recipe) -> Data:
        """Return the data; the seed says which images are held out."""
        if self._data is None or self._data[0] != recipe.seed:
            return self._opened(recipe)[0]
        return self._data[1]

    def _opened(self, recipe: Recipe) -> tuple[Data, nn.Module]:
        """Open the data; return it with the network, whose channels pictures are given."""
        found = data_of(recipe, download=self.download)
        assert found is not None
        model = model_of(recipe, found)
        data = suited(found, model)
        self._data = (recipe.seed, data)
        return data, model

    def images(self, recipe: Recipe, data: Data) -> Calibration | None:
        """Return the unlabelled images that the recipe names; the seed says which."""
        if self._images is None or self._images[0] != recipe.seed:
            self._images = (recipe.seed, images_of(recipe, data, self.tell))
        return self._images[1]

    def dense(self, recipe: Recipe, data: Data) -> nn.Module:
        """Return the dense network; if the recipe trains it, that happens once for each seed."""
        model = model_of(recipe, data)
        if recipe.pretrain is None:
            return model
        plain = replace(
            self.comparison.base, method="none", options={}, keep=None, train=None, shape=None, export=(), repair=()
        )
        name = f"dense-{replace(plain, seed=recipe.seed).name()}"
        path = self.folder / "work" / f"{name}.safetensors"
        with work_claimed(path.with_suffix(".lock"), wait=True):
            if path.is_file():
                read_into(model, path)
                return model
            place = Work(self.folder / "work").place(f"{name}.ckpt", model)
            fit(model, data, recipe.pretrain, checkpoint=place, seed=recipe.seed, tell=self.tell)
            with writing(path):
                artifact.write_file(path, to_bytes(model))
            place.unlink(missing_ok=True)
        return model

    def _prune(self, request: Request, data: Data) -> Run:
        recipe = request.recipe
        work = self.folder / "work" / request.name
        dense, tested = self.dense(recipe, data), self._measured_dense(recipe, data).quality
        runtime, _ = runtime_of(self.folder, recipe, dense, data.example(), self.tell)
        timed = replace(recipe, runtime=runtime)
        images = self.images(recipe, data)
        result = prune_as(
            timed, dense, data, images=images, tested=tested, answers=False, work=work, tell=self.tell
        )  # no page shows the answers of a run
        histories = (*result.shaped, *result.histories)
        made = _run(request, data, result.model, result.before, result.after, result.speed, histories)
        known = {name: found.quality.value for name, found in result.stages.items() if found.quality}
        return replace(
            made,
            cut=known.get(CUT),
            repaired=known.get(REPAIRED),
            verification=result.verification,
            plans=tuple(plan.to_json() for plan in result.plans),
            int8=self._int8(recipe, data, dense, result.model),
        )

    def _int8(self, recipe: Recipe, data: Data, dense: nn.Module, pruned: nn.Module) -> dict[str, Any] | None:
        if not self.comparison.int8:
            return None
        networks, example = {DENSE: dense, PRUNED: pruned}, example_of(recipe, data)
        images = self.images(recipe, data)
        found = corners(networks, example, calibrate=images, data=data, threads=recipe.threads, tell=self.tell)
        return found.to_dict()

    def _scratch(self, request: Request, data: Data) -> Run:
        """Train the network of uniform width from new weights, drawn as its author draws them."""
        recipe = request.recipe
        thin = uniform(recipe, request.keep, data, self.tell)
        before = self._measured_dense(recipe, data)
        return self._trained(request, data, thin, before)

    def _dense(self, request: Request, data: Data) -> Run:
        return self._trained(
            request, data, self.dense(request.recipe, data), self._measured_dense(request.recipe, data)
        )

    def _measured_dense(self, recipe: Recipe, data: Data) -> Measurement:
        if recipe.seed not in self._tested:
            dense = self.dense(recipe, data)
            found = self._measure(dense, "the dense network", recipe, data)
            preflight.warn_of_seen(dense, data, found.quality, place_for(dense, recipe.train), self.tell)
            self._tested = {recipe.seed: found}
        return self._tested[recipe.seed]

    def _trained(self, request: Request, data: Data, model: nn.Module, before: Measurement) -> Run:
        train = request.recipe.train
        assert train is not None
        place = Work(self.folder / "work" / request.name).place("train.ckpt", model)
        teacher = self.dense(request.recipe, data) if train.distill else None
        history = fit(
            model, data, train, teacher=teacher, checkpoint=place, seed=request.seed + 1, tell=self.tell
        )  # the order of images is that of the first round of pruning
        after = self._measure(model, f"the {request.label}", request.recipe, data)
        return _run(request, data, model, before, after, self._speed(request.recipe, model, data), (history,))

    def _speed(self, recipe: Recipe, model: nn.Module, data: Data) -> SpeedUp | None:
        """Time a network that was not pruned here in turns with the dense one, if the recipe wants times."""
        if not recipe.latency:
            return None
        dense, example = self.dense(recipe, data), example_of(recipe, data)
        runtime, threads = runtime_of(self.folder, recipe, dense, example, self.tell)
        return timed_together(dense, model, example, runtime or "eager", threads, self.tell)

    def _measure(self, model: nn.Module, name: str, recipe: Recipe, data: Data) -> Measurement:
        self.tell(Event("measure", f"measuring {name}"))
        example, place = example_of(recipe, data), place_for(model, recipe.train)
        return measure_at(model, example, data, place, tell=self.tell)


def _run(
    request: Request,
    data: Data,
    model: nn.Module,
    before: Measurement,
    after: Measurement,
    speed: SpeedUp | None,
    histories: tuple[History, ...],
) -> Run:
    assert before.quality is not None
    assert after.quality is not None
    return Run(
        name=request.name,
        method="" if request.kind == "dense" else request.recipe.method,
        keep=request.keep,
        seed=request.seed,
        dense=before.quality.value,
        cut=None,
        test=after.quality.value,
        val=quality_at(model, data.batches("val"), data.task, place_for(model, request.recipe.train)).value,
        test_images=after.quality.examples,
        macs=after.counts.macs,
        metric=asdict(after.quality.metric),
        uncounted=after.counts.uncounted,
        uncounted_macs=after.counts.uncounted_macs,
        params=after.counts.params,
        dense_macs=before.counts.macs,
        dense_params=before.counts.params,
        latency=speed.milliseconds[1] if speed else None,
        dense_latency=speed.milliseconds[0] if speed else None,
        speed=speed.to_dict() if speed else None,
        epochs=sum(len(history.rows) for history in histories),
        histories=tuple(history.to_dict() for history in histories),
    )
