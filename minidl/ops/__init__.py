"""Every operation, its forward and its derivative in one place; each is a Tensor method of the same name."""

from minidl.ops.arithmetic import *
from minidl.ops.conv import *
from minidl.ops.loss import *
from minidl.ops.matmul import *
from minidl.ops.nonlinear import *
from minidl.ops.norm import *
from minidl.ops.pool import *
from minidl.ops.reduce import *
from minidl.ops.shape import *
