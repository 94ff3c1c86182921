"""The same as `belljar`, without `async` and `await`."""

from ._sync.client import Client
from ._sync.commands import CommandStream, Process
from ._sync.pty import Pty
from ._sync.sandbox import Sandbox
from ._sync.stream import EventStream
from .errors import *  # noqa: F403
from .errors import __all__ as _errors
from .models import *  # noqa: F403
from .models import __all__ as _models

__all__ = ["Client", "CommandStream", "EventStream", "Process", "Pty", "Sandbox", *_errors, *_models]
