"""The workloads that minidl's speed is measured with, beside PyTorch and other frameworks; see README.md.

Each framework runs in worker processes of its own, and the process that controls them imports none: only
``workloads_minidl.py`` needs minidl's rooms, only ``workloads_torch.py`` needs torch, and so on.
"""
