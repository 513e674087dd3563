"""Checkpointing: memory against recomputation in the reverse sweep of many steps."""

from .plan import Plan as Plan
from .strategies import Action as Action
from .strategies import Layout as Layout
from .strategies import Memory as Memory
from .strategies import Online as Online
from .strategies import Revolve as Revolve
from .strategies import Schedule as Schedule
from .strategies import StoreAll as StoreAll
from .strategies import TwoLevel as TwoLevel
from .strategies import Uniform as Uniform
