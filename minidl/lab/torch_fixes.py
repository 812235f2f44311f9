"""The fixes of the rules as lines of PyTorch. They work where ``model``, ``x``, ``optimizer``, ``torch`` and ``nn``
(``from torch import nn``) are in scope.

A rule knows one cure, written for minidl; here each of its calls has its counterpart. What has none is left out.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from minidl.lab.evidence import Evidence
from minidl.lab.explain import Diagnosis, Finding

__all__ = ["in_torch"]

MODULE = {"relu": "ReLU", "sigmoid": "Sigmoid", "tanh": "Tanh", "hard_tanh": "Hardtanh", "leaky_relu": "LeakyReLU"}
MODULE |= {"elu": "ELU", "selu": "SELU", "gelu": "GELU", "silu": "SiLU", "softplus": "Softplus", "softsign": "Softsign"}


def in_torch(diagnosis: Diagnosis, network: Any) -> Diagnosis:
    """The same diagnosis with fixes that are lines of PyTorch."""
    return replace(diagnosis, findings=[_translated(f, diagnosis.evidence, network) for f in diagnosis.findings])


def _translated(finding: Finding, e: Evidence, network: Any) -> Finding:
    if not finding.fix:
        return finding
    if "layerwise_lr" in finding.fix:
        fix = "optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)"
        return replace(finding, fix=fix, effect="Adam divides every layer's gradient by its own size")
    if finding.fix.startswith("optimizer = "):
        return replace(finding, fix=finding.fix.replace("optim.", "torch.optim."))
    if finding.fix.startswith(("x = ", "for group in")):
        return replace(finding, fix=finding.fix.replace("optimizer.groups", "optimizer.param_groups"))
    lines = list(_calls(finding.fix, e, network))
    return replace(finding, fix="; ".join(lines) if all(lines) else "", effect=finding.effect if all(lines) else "")


def _calls(fix: str, e: Evidence, network: Any) -> Iterator[str]:
    """The calls of a fix, one after the other; "" for one that has no counterpart."""
    for statement in ast.parse(fix).body:
        call = statement.value if isinstance(statement, ast.Expr) else None
        name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
        if isinstance(call, ast.Call) and name == "init.apply" and len(call.args) == 2:
            yield from _drawn(call.args[1], e, network)
        elif name == "init.scaled_residual":
            yield _in_blocks(_branch_ends(e), f"data.mul_({1 / math.sqrt(len(e.blocks)):.3g})", network)
        elif name == "init.zero_gamma":
            yield _in_blocks(_last_norms(e), "data.zero_()", network)
        elif name == "init.lsuv":
            yield _rescaled(e, network)
        elif isinstance(call, ast.Call) and name == "lab.replace_activations" and e.activation in MODULE:
            old, new = MODULE[e.activation], MODULE[ast.literal_eval(call.args[1])]
            yield (
                f"[setattr(m, k, nn.{new}()) for m in list(model.modules()) for k, c in list(m.named_children()) "
                f"if isinstance(c, nn.{old})]"
            )
        else:
            yield ""


def _drawn(how: ast.expr, e: Evidence, network: Any) -> Iterator[str]:
    """``init.apply`` with a scheme, or with zeros for single parameters."""
    if isinstance(how, ast.Call):
        scheme = _scheme(ast.unparse(how.func), {k.arg: ast.literal_eval(k.value) for k in how.keywords})
        yield _each(scheme, e, network) if scheme else ""
    if isinstance(how, ast.Dict):
        for key in how.keys:
            path = ast.literal_eval(key) if key is not None else ""
            if path.startswith("*."):
                ending = path[2:]
                yield f'[nn.init.zeros_(p) for name, p in model.named_parameters() if name.endswith("{ending}")]'
            else:
                yield f'nn.init.zeros_(model.get_parameter("{path}"))'


def _each(scheme: str, e: Evidence, network: Any) -> str:
    """Weights drawn by a scheme, and biases 0, in every layer of the kinds that the network has."""
    kinds = _kinds(e, network)
    biased = [getattr(m, "bias", None) is not None for m in network.modules() if _kind(m) in kinds]
    zero = "nn.init.zeros_(m.bias)" if all(biased) else "m.bias is None or nn.init.zeros_(m.bias)"
    action = f"({scheme}, {zero})" if any(biased) else scheme
    return f"[{action} {_layers(kinds)}]" if kinds else ""


def _rescaled(e: Evidence, network: Any) -> str:
    """One run in which every layer divides its parameters, and so its output, by the std of that output."""
    look = "lambda m, _, y: ([p.data.div_(y.std()) for p in m.parameters()], y / y.std())[1]"
    kinds = _kinds(e, network)
    hooks = f"hooks = [m.register_forward_hook({look}) {_layers(kinds)}]"
    return f"{hooks}; model(x); [hook.remove() for hook in hooks]" if kinds else ""


def _layers(kinds: list[str]) -> str:
    names = ", ".join(f"nn.{kind}" for kind in kinds)
    return f"for m in model.modules() if isinstance(m, {names if len(kinds) == 1 else f'({names})'})"


def _kinds(e: Evidence, network: Any) -> list[str]:
    """The kinds of the layers with weights, without layers of one's own."""
    modules = dict(network.named_modules())
    return sorted({_kind(modules.get(w.layer, network)) for w in e.weights} - {""})


def _kind(module: Any) -> str:
    """The class of ``torch.nn`` that a module is of."""
    return next(
        (
            k.__name__
            for k in type(module).__mro__
            if k.__module__.startswith("torch.nn.modules.") and k.__name__ != "Module"
        ),
        "",
    )


def _scheme(name: str, given: dict[str | None, Any]) -> str:
    gain = f", gain={given['gain']:g}" if "gain" in given else ""
    slope = given.get("negative_slope", 0.0)
    if name == "init.he_normal":
        how = f'a={slope:g}, nonlinearity="leaky_relu"' if slope else 'nonlinearity="relu"'
        return f"nn.init.kaiming_normal_(m.weight, {how})"
    if name == "init.lecun_normal":
        return 'nn.init.kaiming_normal_(m.weight, nonlinearity="linear")'
    if name == "init.variance_scaling" and given.keys() <= {"scale"}:
        return f"nn.init.normal_(m.weight, std=({given.get('scale', 1.0):g} / m.weight[0].numel()) ** 0.5)"
    known = {
        "init.glorot_normal": "xavier_normal_",
        "init.glorot_uniform": "xavier_uniform_",
        "init.orthogonal": "orthogonal_",
    }
    return f"nn.init.{known[name]}(m.weight{gain})" if name in known and given.keys() <= {"gain"} else ""


def _branch_ends(e: Evidence) -> dict[str, str]:
    """Block -> the last weight of its branch. A projection on the shortcut gets what the block gets."""
    found = {}
    for block in e.blocks:
        inside = [w for w in e.weights if w.block == block.layer]
        branch = [w for w in inside if not math.isclose(w.into["rms"] ** 2, block.before, rel_tol=1e-9)] or inside
        if branch:
            found[block.layer] = branch[-1].layer
    return found


def _last_norms(e: Evidence) -> dict[str, str]:
    """Block -> the batch normalization behind the last weight of its branch."""
    names, found = [r["layer"] for r in e.records], {}
    for block, weight in _branch_ends(e).items():
        behind = e.records[names.index(weight) + 1]
        if behind["kind"].startswith("BatchNorm") and behind["layer"].startswith(f"{block}."):
            found[block] = behind["layer"]
    return found


def _in_blocks(layers: dict[str, str], action: str, network: Any) -> str:
    """The same to the weight of one layer in every block."""
    modules = dict(network.named_modules())
    places = {(type(modules[block]).__name__, path.removeprefix(f"{block}.")) for block, path in layers.items()}
    if len(places) == 1:
        kind, path = places.pop()
        return f'[m.{_dotted(path)}.weight.{action} for m in model.modules() if type(m).__name__ == "{kind}"]'
    names = list(layers.values())
    return f"[model.get_submodule(name).weight.{action} for name in {names}]" if names else ""


def _dotted(path: str) -> str:
    """``branch.2`` as it is written: ``branch[2]``."""
    return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split(".")).lstrip(".")
