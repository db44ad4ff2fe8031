"""Better image classifiers of ordinary size: LLM-written descriptions at training time, nothing extra at inference.

`__init__.pyi` lists the public names. Each is imported when it is first used, so that neither `import gpt4image` nor
the help of the command line loads torch.
"""

import os

import lazy_loader

from gpt4image.core.waiting import wait_passively

wait_passively(os.environ)
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
