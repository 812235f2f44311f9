"""How much of a signal or gradient may be lost over the depth: ``L·|ln χ|``, χ the factor of E h², or E δ², per layer.

The two limits of the literature, for every figure and word of the laboratory. The rules of ``diagnose`` take the first
one too; where they *fail* is their own, measured on digits: what does not train within 300 steps.
"""

__all__ = ["HARMLESS", "STALLS"]

HARMLESS = 6.0  # six depth scales still train: Schoenholz et al. 2017
STALLS = 16.0  # the plain networks of He et al. 2015: of 22 layers (15) it converges late, of 30 (21) it stalls
