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
    if "lsuv" in finding.fix:
        fix = _each('nn.init.kaiming_normal_(m.weight, nonlinearity="relu")', e, network)
        effect = "keeps the size of the signal where half of every output is cut off" if fix else ""
        return replace(finding, fix=fix, effect=effect)
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
            yield _shrunk(e, network)
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
    modules = dict(network.named_modules())
    kinds = sorted({_kind(modules.get(w.layer, network)) for w in e.weights} - {""})  # without layers of one's own
    like = [m for m in modules.values() if _kind(m) in kinds]
    biased = [getattr(m, "bias", None) is not None for m in like]
    zero = "nn.init.zeros_(m.bias)" if all(biased) else "m.bias is None or nn.init.zeros_(m.bias)"
    action = f"({scheme}, {zero})" if any(biased) else scheme
    names = ", ".join(f"nn.{kind}" for kind in kinds)
    which = names if len(kinds) == 1 else f"({names})"
    return f"[{action} for m in model.modules() if isinstance(m, {which})]" if kinds else ""


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


def _shrunk(e: Evidence, network: Any) -> str:
    """The last weight of every branch times 1/√n, so that each of n blocks adds 1/n of what it gets."""
    kinds = {path: type(module).__name__ for path, module in network.named_modules()}
    ends: list[tuple[str, str]] = []  # class of the block, path of the weight in it
    for block in e.blocks:
        inside = [w for w in e.weights if w.block == block.layer]
        branch = [w for w in inside if not math.isclose(w.into["rms"] ** 2, block.before, rel_tol=1e-9)] or inside
        if branch:
            ends.append((kinds[block.layer], branch[-1].layer.removeprefix(f"{block.layer}.")))
    if not ends:
        return ""
    factor = f"{1 / math.sqrt(len(e.blocks)):.3g}"
    if len(set(ends)) == 1:
        kind, path = ends[0]
        return (
            f'[m.{_dotted(path)}.weight.data.mul_({factor}) for m in model.modules() if type(m).__name__ == "{kind}"]'
        )
    names = [f"{block.layer}.{path}" for block, (_, path) in zip(e.blocks, ends, strict=False)]
    return f"[model.get_submodule(name).weight.data.mul_({factor}) for name in {names}]"


def _dotted(path: str) -> str:
    """``branch.2`` as it is written: ``branch[2]``."""
    return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split(".")).lstrip(".")
