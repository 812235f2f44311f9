"""``lab.diagnose`` for networks of PyTorch: the same rules, on numbers from hooks.

PyTorch is not imported here; whoever hands in a ``torch.nn.Module`` has done so. All is measured on a copy of the
network, so that whatever hooks, modes, gradients and running averages go through, the network itself does not.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from minidl import nn, threads
from minidl.init.layer_rules import times
from minidl.init.signal import Call, Signal
from minidl.init.walk import kept_on, sum_of
from minidl.lab import closer
from minidl.lab.evidence import (
    Block,
    Evidence,
    Watch,
    Weight,
    affordable,
    described,
    mark_followers,
    matrix_of,
    moments,
    shares_of,
)
from minidl.lab.explain import Diagnosis, settled
from minidl.lab.measure import Report, _look, _of_gradient, _read, _size
from minidl.lab.theory import Recorder, signal_of
from minidl.lab.torch_fixes import in_torch
from minidl.lab.torch_layers import FUNCTIONS, called, host, standin, twin
from minidl.lab.trial import MOMENTUM, Losses, attempt, check_steps, mixed, slices
from minidl.lab.untouched import path_of, placed, rows_of, weight_of

__all__ = ["diagnose_torch"]


def diagnose_torch(
    module: Any,
    x: Any,
    y: Any,
    *,
    loss: Callable[[Any, Any], Any] | None = None,
    optimizer: Any = None,
    history: Sequence[Mapping[str, Any]] | None = None,
    trial: int | None = None,
) -> Diagnosis:
    """``lab.diagnose`` of a network written in PyTorch: same rules, same report; the fixes are lines of PyTorch.

    A copy of the network is run once forward and backward, in the mode that it is in, and a few times forward; further
    copies are trained for the trial. Parameters, gradients, buffers, hooks, mode and the states of PyTorch's, NumPy's
    and Python's generators stay as they are, also if it fails. What runs are also the network's own hooks, on the copy.

    Seen are modules of ``torch.nn`` and common functions (``F.relu``, ``torch.flatten``); a module that has others
    inside, ends in a sum and whose two terms both depend on its input is a residual block. See docs/torch.md for what
    is not seen.

    Args:
        module: a ``torch.nn.Module``, on any device; float32 or float64. Half precision is measured in float32.
        x: inputs (N, ...), a tensor or an array of floating-point numbers, standardized; a few hundred. Moved to the
            network's device and dtype.
        y: labels, as the loss wants them.
        loss: ``loss(module(x), y)`` on tensors of PyTorch, with one number as result; default: cross entropy.
        optimizer: of ``torch.optim``; if given, the size of one update is judged too, made on copies.
        history: records of a training ({"train_loss": …} one for each epoch), if it was trained.
        trial: steps of the trial at each rate, see ``lab.diagnose``; made on copies too, with ``torch.optim.SGD``.

    Returns:
        A ``Diagnosis``, as from ``lab.diagnose``.

    Raises:
        TypeError: no ``torch.nn.Module``; inputs that are no floating-point numbers, such as numbers of words.
        ValueError: inputs that are not finite; a network that cannot be copied, has no layer with a weight, or whose
            output does not suit the loss.
    """
    torch = _torch_of(module)
    check_steps(trial)
    with np.errstate(all="ignore"), _same_chance(torch), torch.inference_mode(False), torch.enable_grad():
        network = _copied(torch, module)
        own = _copied_optimizer(torch, optimizer, module, network)
        start = copy.deepcopy(network)
        evidence = _gather(torch, network, x, y, loss, own)
        evidence.history = history
        found = settled(evidence, _tries(torch, start, x, y, loss, evidence.classes), trial)
    return in_torch(found, network)


# ------------------------------------------------------------------------------------------------- a copy to measure


def _torch_of(module: Any) -> Any:
    """The PyTorch that ``module`` is of."""
    torch = sys.modules.get("torch")
    if isinstance(module, nn.Module):
        raise TypeError(f"{type(module).__name__} is a network of minidl: call lab.diagnose(model, x, y)")
    if torch is None:
        raise TypeError(f"diagnose_torch takes a torch.nn.Module, and PyTorch is not imported; got {_kind(module)}")
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"diagnose_torch takes a torch.nn.Module, whose layers it can watch; got {_kind(module)}")
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError("a compiled torch.jit module cannot be watched; hand in the module that it was made of")
    return torch


def _kind(thing: Any) -> str:
    if isinstance(thing, type):
        return f"the class {thing.__name__}: make one, {thing.__name__}(...)"
    return f"the function {thing.__name__}" if hasattr(thing, "__name__") else f"a {type(thing).__name__}"


def _copied(torch: Any, module: Any) -> Any:
    """A copy whose layers do nothing in place: what they gave can then be looked at later."""
    module = getattr(module, "_orig_mod", module)  # inside torch.compile
    while isinstance(module, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
        module = module.module
    try:
        network = copy.deepcopy(module, dict(_results(torch, module)))
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} cannot be copied, and it is measured on a copy: {error}. "
            "Hand in one that copy.deepcopy takes: a new one, with load_state_dict"
        ) from error
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in network.parameters()):
        network.float()
    for p in network.parameters():
        p.grad = None
    for inner in network.modules():
        if getattr(inner, "inplace", False) is True:
            inner.inplace = False
    return network


def _results(torch: Any, module: Any) -> Iterator[tuple[int, Any]]:
    """What ``copy.deepcopy`` does not take: results of an earlier run that the modules keep, such as a last output."""
    for inner in module.modules():
        for value in vars(inner).values():
            inside = value.values() if isinstance(value, dict) else value
            for each in inside if isinstance(value, dict | list | tuple) else [value]:
                if isinstance(each, torch.Tensor) and not each.is_leaf:
                    yield id(each), each.detach().clone()


def _copied_optimizer(torch: Any, optimizer: Any, module: Any, network: Any) -> Any:
    """The optimizer, of the parameters of the copy."""
    if optimizer is None:
        return None
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be one of torch.optim; got {_kind(optimizer)}")
    memo = {id(p): q for p, q in zip(module.parameters(), network.parameters(), strict=True)}
    twin_of_it = copy.deepcopy(optimizer, memo)
    twin_of_it.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # in the dtype of the copy
    return twin_of_it


@contextmanager
def _same_chance(torch: Any) -> Iterator[None]:
    """Every generator that a layer may draw from goes on afterwards as if nothing had been."""
    numbers, own = np.random.get_state(), random.getstate()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            np.random.set_state(numbers)
            random.setstate(own)


def _placed(torch: Any, network: Any, x: Any) -> Any:
    """The inputs on the network's device and in its dtype."""
    if not isinstance(x, torch.Tensor):
        x = torch.as_tensor(np.asarray(x))
    if not x.is_floating_point():
        raise TypeError(
            f"the inputs are {x.dtype}; diagnose_torch follows signals that are real numbers. Images: x.float(), "
            "standardized; words: hand in the part behind the embedding, and embedded words"
        )
    placed(nn.Module(), host(x))  # raises if they are empty, or not all finite
    first = next((p for p in network.parameters() if p.is_floating_point()), x.float())
    return x.detach().to(first.device, first.dtype, copy=True)


def _labels(torch: Any, y: Any, inputs: Any) -> Any:
    """Class numbers as int64, other numbers in the dtype of the inputs; what is no array, as it is."""
    if not isinstance(y, torch.Tensor):
        if not isinstance(y, np.ndarray | list | tuple | int | float):
            return y
        y = torch.as_tensor(np.asarray(y))
    dtype = inputs.dtype if y.is_floating_point() else y.dtype if y.dtype == torch.bool else torch.int64
    return y.detach().to(inputs.device, dtype)


# -------------------------------------------------------------------------------------------------------- the evidence


def _gather(torch: Any, network: Any, x: Any, y: Any, loss: Any, optimizer: Any) -> Evidence:
    """What ``evidence.gather`` collects, of a network of PyTorch."""
    inputs = _placed(torch, network, x)
    labels = _labels(torch, y, inputs)
    run = _Run(torch, network)
    value = run.both_ways(inputs, labels, loss)
    report = Report(run.records(optimizer), value, title=f"{type(network).__name__}: signal and gradient by layer")
    watch, records = run.watch, {r["layer"]: r for r in reversed(report.records)}
    if not watch.order:
        raise ValueError(f"{type(network).__name__} has no layer with a weight that runs: there is nothing to diagnose")
    layers = [(path, run.twins[path]) for path in watch.order]
    weights = [described(path, layer, watch, records[path_of(path, layer)]) for path, layer in layers]
    mark_followers(weights, report)
    array = host(inputs)
    numbers = host(labels) if isinstance(labels, torch.Tensor) else np.zeros(0)
    prediction, why = run.predicted(array, numbers)
    if len(array) > 1:
        with suppress(RuntimeError, ValueError):  # it takes twice the inputs, which a forward may not take
            report.correlation = run.correlation(array)
    if affordable(weights):
        with suppress(RuntimeError, ValueError):  # a layer that cannot do float64, or one input; the rule says so
            report.jacobian = _jacobian(torch, network, inputs)
    return Evidence(
        report,
        {**moments(array), "examples": len(array)},
        weights,
        watch.blocks,
        _class_shares(numbers, weights),
        prediction,
        why,
        updated=optimizer is not None,
        unseen=_unseen(network, watch.order),
    )


def _class_shares(numbers: Any, weights: list[Weight]) -> list[float] | None:
    """As ``evidence.shares_of``; negative labels are those to be ignored."""
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not (numbers >= 0).any():
        return None
    return shares_of(numbers[numbers >= 0], weights[-1].record["shape"])


def _tries(torch: Any, network: Any, x: Any, y: Any, loss: Any, classes: int | None) -> Any:
    """``trial.attempt`` of a network; inputs whose label is to be ignored are left out."""
    inputs = _placed(torch, network, x)
    labels = _labels(torch, y, inputs)
    known = None
    if classes is not None:
        inputs, labels = inputs[labels >= 0], labels[labels >= 0]
        order = mixed(host(labels))
        if order is not None:
            inputs, labels = inputs[order], labels[order]
        known = host(labels)
    common = (inputs, labels, loss)
    return partial(
        attempt, partial(_losses, torch, network, *common), partial(_guess, torch, *common), known, classes or 0
    )


def _guess(torch: Any, x: Any, y: Any, loss: Any, classes: int) -> float:
    """As ``trial.guess``."""
    outputs = torch.zeros((len(x), classes), dtype=x.dtype, device=x.device, requires_grad=True)
    return float(_loss(torch, outputs, y, loss).detach())


def _losses(torch: Any, network: Any, x: Any, y: Any, loss: Any, rate: float) -> Losses:
    """As ``trial.losses``."""
    network = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=MOMENTUM)
    for rows in itertools.cycle(slices(len(x))):
        optimizer.zero_grad()
        value = _loss(torch, network(x[rows]), y[rows], loss)
        value.backward()
        optimizer.step()
        yield float(value.detach())


def _unseen(network: Any, judged: Sequence[str]) -> list[str]:
    """Matrices of the network that are no weight of one of these layers."""
    seen = {f"{path}.weight".lstrip(".") for path in judged}
    made = tuple(f"{path}.parametrizations.weight.".lstrip(".") for path in judged)
    matrices = [name for name, p in network.named_parameters() if p.ndim >= 2]
    return [name for name in matrices if name not in seen and not name.startswith(made)]


@dataclass(frozen=True)
class _Output:
    """A tensor of PyTorch, for ``measure._look``."""

    data: Any
    tensor: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def requires_grad(self) -> bool:
        return bool(self.tensor.requires_grad)

    def register_hook(self, look: Callable[[Any], Any]) -> None:
        self.tensor.register_hook(lambda g: look(host(g)))


@dataclass(eq=False)
class _Value:
    """What a tensor held between two changes in place, for the walk of the theory."""

    shape: tuple[int, ...]


@dataclass
class _Sum(Call):
    """A call of ``input + other``."""

    other: Any = field(default=None, kw_only=True)


class _Run:
    """One forward and backward pass with hooks."""

    def __init__(self, torch: Any, network: Any) -> None:
        self.torch, self.network = torch, network
        self.twins: dict[str, Any] = {}
        self.weights: dict[str, Any] = {}  # as they were used: parametrized ones are calculated
        self.raw: list[dict[str, Any]] = []
        self.watch = Watch(nn.Module())
        self.stack: list[tuple[str, Any, list[Call]]] = [("", None, [])]  # the modules that run: path, input, calls
        self.inside_leaf = 0
        self.counts: dict[str, int] = {}
        self.values: dict[tuple[int, int], _Value] = {}
        self.made = _Value(())
        self.alive: list[Any] = []  # so that no two tensors have one id
        self.sums: list[Any] = []

    # ---- hooks

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on all modules, and a look at every function that is called."""
        with ExitStack() as stack:
            for path, module in self.network.named_modules():
                if "parametrizations" not in path.split("."):
                    stack.callback(module.register_forward_pre_hook(self._enter(path)).remove)
                    stack.callback(module.register_forward_hook(self._made, prepend=True).remove)
                    stack.callback(module.register_forward_hook(self._leave(path)).remove)
            stack.enter_context(self.torch.nn.utils.parametrize.cached())
            stack.enter_context(_functions(self.torch, self))
            yield

    def _enter(self, path: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any) -> None:
            self.stack.append((path, self.value(inputs[0] if inputs else None), []))
            self.inside_leaf += _is_leaf(module)

        return hook

    def _made(self, _module: Any, _inputs: Any, output: Any) -> None:
        """Before hooks of the user, which may put something else in its place: theory does not know that."""
        self.made = self.value(output)

    def _leave(self, path: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            _, before, calls = self.stack.pop()
            self.inside_leaf -= _is_leaf(module)
            x = inputs[0] if inputs else None
            if self.inside_leaf or output is x:
                return
            if not _is_leaf(module):
                self._around(path, x, output)
                self._note(Call(path, standin(module), before, self.made, calls))
            elif isinstance(x, self.torch.Tensor):
                self._leaf(path, module, x, before, output)

        return hook

    def _leaf(self, path: str, module: Any, x: Any, before: _Value, output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) else output
        if path not in self.twins:
            self.twins[path] = twin(self.torch, module, tuple(x.shape), tuple(getattr(first, "shape", ())))
        layer = self.twins[path]
        self._look(path_of(path, layer), layer, output)
        self._note(Call(path, layer, before, self.made, []))
        if path not in self.watch.into and weight_of(layer) is not None:
            self.watch.order.append(path)
            self.watch.into[path] = moments(host(x))
            self.weights[path] = module.weight
            if module.weight.requires_grad:
                module.weight.retain_grad()

    def function(self, name: str, args: Sequence[Any], options: Mapping[str, Any], output: Any, before: Any) -> None:
        """A function that was called outside of the layers: a layer by another name."""
        if self.inside_leaf:
            return
        if name == "add":
            if len(args) == 2 and not options and getattr(args[1], "shape", None) == args[0].shape == output.shape:
                path = self.stack[-1][0]
                inside = standin(self.network.get_submodule(path))
                self._note(_Sum(path, inside, before, self.value(output), [], other=self.value(args[1])))
            return
        layer = called(name, args[1:], options, before.shape, tuple(output.shape))
        if layer is None:
            return
        inside = self.stack[-1][0]
        label = f"{inside}.{name}" if inside else name
        self.counts[label] = self.counts.get(label, 0) + 1
        path = label if self.counts[label] == 1 else f"{label}_{self.counts[label]}"
        self._look(path, layer, output)
        self._note(Call(path, layer, before, self.value(output), []))

    def _look(self, path: str, layer: Any, output: Any) -> None:
        for tensor in _real_tensors(self.torch, output):
            _look(self.raw, path, layer, _Output(host(tensor), tensor))  # type: ignore[arg-type]

    def _note(self, call: Call) -> None:
        self.stack[-1][2].append(call)

    def value(self, x: Any) -> _Value:
        """The same object for the same tensor, as long as nothing was written into it."""
        if not isinstance(x, self.torch.Tensor):
            return _Value(())
        self.alive.append(x)
        return self.values.setdefault((id(x), x._version), _Value(tuple(x.shape)))

    def _around(self, path: str, x: Any, output: Any) -> None:
        """Whether a module is a residual block; what enters and what leaves it."""
        both = isinstance(x, self.torch.Tensor) and isinstance(output, self.torch.Tensor)
        if not both or path in {block.layer for block in self.watch.blocks}:
            return
        added = _sum_of(x, output)
        if added is None or any(added is each for each in self.sums):
            return
        self.sums.append(added)
        before, after = (moments(host(t))["rms"] ** 2 for t in (x, output))
        block = Block(path, before, after)
        self.watch.blocks.append(block)
        places = math.sqrt(math.prod(output.shape[2:]))
        output.register_hook(lambda g: setattr(block, "delta", moments(host(g))["rms"] * places))

    # ---- the pass, and what came of it

    def both_ways(self, inputs: Any, labels: Any, loss: Any) -> float:
        """Run forward and backward; the loss."""
        start = inputs.clone().requires_grad_()  # so that layers whose weights are frozen have a gradient too
        with self.watching():
            outputs = self.network(start.clone())  # a leaf that needs a gradient must not be changed in place
        self.alive.clear()
        value = _loss(self.torch, outputs, labels, loss)
        value.backward()
        for path, weight in self.weights.items():
            if weight.grad is not None:
                self.twins[path].weight.grad = host(weight.grad)
                self.watch.gradients[path] = matrix_of(host(weight.grad))
        return float(value.detach())

    def records(self, optimizer: Any) -> list[dict[str, Any]]:
        """One per layer, as ``lab.probe`` has them."""
        updates = {} if optimizer is None else self._updates(optimizer)
        found = []
        for raw in self.raw:
            weight = raw["weight"]
            found.append(_read(raw | _of_gradient(weight, None) | {"update": updates.get(id(weight))}))
        return found

    def _updates(self, optimizer: Any) -> dict[int, Any]:
        """By id of a twin's weight, the size of the step that the optimizer makes; taken back afterwards."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in parameters]
        try:
            optimizer.step()
        except TypeError as error:
            raise TypeError(f"{type(optimizer).__name__} cannot make a step from gradients alone: {error}") from error
        sizes = {id(p): _size(host(p) - host(old)) for p, old in zip(parameters, before, strict=True)}
        with self.torch.no_grad():
            for p, old in zip(parameters, before, strict=True):
                p.copy_(old)
        known = {id(self.twins[path].weight): weight for path, weight in self.weights.items()}
        return {key: sizes[id(p)] for key, p in known.items() if id(p) in sizes and p.grad is not None}

    def correlation(self, array: Any) -> list[dict[str, Any]]:
        """As ``closer.correlation``."""
        found: list[dict[str, Any]] = []
        both = np.concatenate([array, closer.disturbed(array, 0)])
        names = {path: path_of(path, layer) for path, layer in self.twins.items()}

        def hook_of(path: str) -> Callable[..., None]:
            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                for t in _real_tensors(self.torch, output):
                    found.append({"layer": names[path], **closer.alike(rows_of(host(t)))})

            return hook

        modules = dict(self.network.named_modules())
        masks = [m for m in modules.values() if isinstance(m, self.torch.nn.modules.dropout._DropoutNd) and m.training]
        with ExitStack() as stack, self.torch.no_grad():
            for mask in masks:
                stack.callback(mask.train)
                mask.eval()
            for path in self.twins:
                stack.callback(modules[path].register_forward_hook(hook_of(path)).remove)
            self.network(_placed(self.torch, self.network, both))
        return found

    def predicted(self, array: Any, labels: Any) -> tuple[Any, str]:
        """The theory of this network, or why there is none."""
        calls = self.stack[0][2]
        if not calls:
            return None, "it returns what it gets"
        walk = _TorchWalk(len(array), calls[-1])
        try:
            with threads.limited(1):
                outputs = walk.through(calls[-1], signal_of(array))
                return walk.prediction(self.network, [outputs], calls[-1], labels), ""
        except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
            return None, str(error)


def _is_leaf(module: Any) -> bool:
    return all(name == "parametrizations" for name, _ in module.named_children())


def _real_tensors(torch: Any, output: Any) -> list[Any]:
    """The tensors of real numbers, and not empty, among what a layer gives."""
    outputs = output if isinstance(output, tuple | list) else (output,)
    return [t for t in outputs if isinstance(t, torch.Tensor) and t.numel() and t.is_floating_point()]


def _functions(torch: Any, run: _Run) -> Any:
    """A context in which a run sees every call of one of the functions that are layers by another name."""

    class Seen(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            options = kwargs or {}
            name = getattr(func, "__name__", "").rstrip("_")
            if name not in (*FUNCTIONS, "add") or not args or not isinstance(args[0], torch.Tensor):
                return func(*args, **options)
            before = run.value(args[0])
            output = func(*args, **options)
            if isinstance(output, torch.Tensor) and not (output is args[0] and output._version == 0):
                run.function(name, args, options, output, before)
            return output

    return Seen()


def _sum_of(x: Any, output: Any) -> Any:
    """The sum of two terms that both depend on ``x`` and of which ``output`` is made, one step after the other."""
    node, goal = output.grad_fn, x.grad_fn
    while node is not None and node is not goal:
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        if node.name().startswith("AddBackward") and len(parents) == 2:
            return node if goal is not None and all(_reaches(parent, goal) for parent in parents) else None
        node = parents[0] if len(parents) == 1 else None
    return None


def _reaches(node: Any, goal: Any) -> bool:
    stack, seen = [node], set()
    while stack:
        node = stack.pop()
        if node is goal:
            return True
        if node is not None and node not in seen:
            seen.add(node)
            stack += [parent for parent, _ in node.next_functions]
    return False


def _loss(torch: Any, outputs: Any, labels: Any, loss: Any) -> Any:
    if str(getattr(loss, "__module__", "")).split(".")[0] == "minidl":
        raise TypeError("loss is a function of minidl; take one of PyTorch, such as torch.nn.functional.cross_entropy")
    if loss is None and not isinstance(outputs, torch.Tensor):
        raise ValueError(
            f"the network returns a {type(outputs).__name__}: say what training makes small, "
            "loss=lambda output, y: F.cross_entropy(output[0], y)"
        )
    value = (loss or torch.nn.functional.cross_entropy)(outputs, labels)
    if not isinstance(value, torch.Tensor) or value.numel() != 1 or not value.requires_grad:
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"the loss must be one number that depends on the network's output; got {shape}")
    return value.reshape(())


class _TorchWalk(Recorder):
    """The walk of the theory, along the calls that the hooks saw."""

    def __init__(self, inputs: int, whole: Call) -> None:
        super().__init__(inputs)
        self.method, self.otherwise = "theory", "what is measured stands by itself"
        self.signals: dict[int, Any] = {}
        calls = list(_flat(whole))
        self.activations = {id(call.input): call.module for call in calls if hasattr(call.module, "function")}
        self.adds = any(isinstance(call, _Sum) for call in calls)

    def through(self, call: Call, signal: Signal) -> Any:
        """Sums are known here, too."""
        self.signals[id(call.input)] = signal
        found = self._added(call, signal) if isinstance(call, _Sum) else super().through(call, signal)
        self.signals[id(call.output)] = found
        return found

    def _added(self, call: _Sum, signal: Signal) -> Signal:
        """As ``nn.Residual``: taken as independent; an identity comes out of an activation that was on."""
        other = self.signals.get(id(call.other))
        if not isinstance(other, Signal):
            raise self._lost(call, "it adds something that neither went in nor came out of a layer")
        kept, added = (signal, other) if signal.slopes is not None else (other, signal)
        after = self.activations.get(id(call.output))
        favoured = 1.0 if after is None else kept_on(after, kept, added)
        total = sum_of(added, kept)
        self.steps.append((total, [(added, times(1.0), 1.0), (kept, times(1.0), favoured)]))
        return total

    def _lost(self, call: Call, why: str) -> ValueError:
        return ValueError(f"{call} that computes by itself, with more than layers and known functions: {why}")

    def _phase(self, model: Any, found: Any, hidden: Any) -> None:
        super()._phase(model, found, hidden)
        if self.adds:  # a fixed point of the variance is that of layers in a row
            found.q_star = found.xi = None


def _flat(call: Call) -> Iterator[Call]:
    yield call
    for inner in call.inside:
        yield from _flat(inner)


def _jacobian(torch: Any, network: Any, inputs: Any) -> list[dict[str, Any]]:
    """As ``closer.jacobian``, of the first input; the network is not used any more."""
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if any(m.running_mean is None for m in norms):
        raise ValueError("a batch normalization without running averages")
    fresh = [m for m in norms if m.training]
    for m in fresh:
        m.momentum = 1.0
    if fresh:
        with torch.no_grad():
            network(inputs)
    network.eval().double()
    found: list[tuple[str, Any]] = []

    def hook_of(path: str, module: Any) -> Callable[..., None]:
        return lambda _m, _x, output: found.append((path_of(path, module), output))

    with ExitStack() as stack:
        for path, m in network.named_modules():
            if _is_leaf(m) and getattr(getattr(m, "weight", None), "ndim", 0) >= 2:
                stack.callback(m.register_forward_hook(hook_of(path, m)).remove)
        with torch.no_grad():
            network(inputs[:1].double())
        sizes = [(path, output.numel()) for path, output in found]
        closer.check_size(sizes, inputs[0].numel())
        found.clear()
        most = max(size for _, size in sizes)
        copies = inputs[:1].double().repeat(most, *[1] * (inputs.ndim - 1)).requires_grad_()
        network(copies.clone())
    return [record for path, output in found for record in _singular(torch, path, output.reshape(most, -1), copies)]


def _singular(torch: Any, path: str, rows: Any, copies: Any) -> list[dict[str, Any]]:
    """Copy i of the input is led back from unit i."""
    size = rows.shape[1]
    value = rows.diagonal().sum()  # unit i of copy i
    (g,) = torch.autograd.grad(value, copies, retain_graph=True)
    values = closer.singular_values(host(g)[:size].reshape(size, -1))
    return [{"layer": path, "index": i, "value": v} for i, v in enumerate(values)]
