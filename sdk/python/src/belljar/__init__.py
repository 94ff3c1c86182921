"""Sealed Linux sandboxes, by API.

`Sandbox` here is asynchronous; `belljar.sync` has the same for code that is not.
"""

from ._async.client import Client
from ._async.commands import CommandStream, Process
from ._async.pty import Pty
from ._async.sandbox import Sandbox
from ._async.stream import EventStream
from .errors import *  # noqa: F403
from .errors import __all__ as _errors
from .models import *  # noqa: F403
from .models import __all__ as _models

__all__ = ["Client", "CommandStream", "EventStream", "Process", "Pty", "Sandbox", *_errors, *_models]
__version__ = "0.1.0"
