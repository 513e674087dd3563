"""tapejit: automatic differentiation of NumPy code.  Record once, replay compiled."""

from . import program as program
from . import testing as testing
from .api import grad as grad
from .api import hessian as hessian
from .api import hvp as hvp
from .api import jacfwd as jacfwd
from .api import jacobian as jacobian
from .api import jacrev as jacrev
from .api import jit as jit
from .api import jvp as jvp
from .api import linearize as linearize
from .api import stop_gradient as stop_gradient
from .api import trace as trace
from .api import value_and_grad as value_and_grad
from .api import vjp as vjp
from .checkpointing import Memory as Memory
from .checkpointing import Online as Online
from .checkpointing import Revolve as Revolve
from .checkpointing import StoreAll as StoreAll
from .checkpointing import TwoLevel as TwoLevel
from .checkpointing import Uniform as Uniform
from .control_flow import cond as cond
from .control_flow import fori_loop as fori_loop
from .control_flow import scan as scan
from .control_flow import switch as switch
from .control_flow import while_loop as while_loop
from .custom.functions import custom_jvp as custom_jvp
from .custom.functions import custom_vjp as custom_vjp
from .errors import GuardOverflowWarning as GuardOverflowWarning
from .errors import LoopLimitError as LoopLimitError
from .errors import ReplayMismatchError as ReplayMismatchError
from .errors import RuleError as RuleError
from .errors import ScheduleError as ScheduleError
from .errors import TapejitError as TapejitError
from .errors import TracedShapeError as TracedShapeError
from .errors import TraceError as TraceError
from .errors import TracerLeakError as TracerLeakError
from .errors import UnsupportedError as UnsupportedError
from .explain import explain as explain
from .tape import Tape as Tape

__version__ = "0.1.0"
