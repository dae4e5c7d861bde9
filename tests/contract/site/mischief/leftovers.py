"""Attacks that leave something behind in their process, and one that draws from every global
stream."""

import builtins
import gc
import os
import random
import resource
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from bench.api import Attack
from bench.errors import DiskError
from bench.image import project

Kind = Literal[
    "autocast", "folder", "device", "dtype", "method", "threads", "random", "error", "late-exit",
    "environment", "inference", "no-gradients", "hook", "warnings", "builtin", "module", "garbage",
    "limits",
]  # fmt: skip

kept = []
"""Contexts that were entered and never left."""


@dataclass(frozen=True, kw_only=True)
class Leftover(Attack):
    """Changes nothing in the images, and one thing in the process.

    Attributes:
        kind: what it leaves behind.
    """

    kind: Kind

    def perturb(self, view, images, labels, job):
        getattr(self, "_" + self.kind.replace("-", "_"))()
        return images.clone()

    def _enter(self, context):
        context.__enter__()
        kept.append(context)

    def _autocast(self):
        self._enter(torch.autocast("cpu", dtype=torch.bfloat16))

    def _folder(self):
        os.chdir("/")

    def _device(self):
        torch.set_default_device("meta")

    def _dtype(self):
        torch.set_default_dtype(torch.float64)

    def _method(self):
        forward = torch.nn.Conv2d.forward
        torch.nn.Conv2d.forward = lambda self, x: forward(self, x) * 1.01

    def _threads(self):
        torch.set_num_threads(2)

    def _random(self):
        torch.manual_seed(99)
        np.random.seed(99)
        random.seed(99)

    def _error(self):
        raise DiskError("the disk is said to be full")

    def _late_exit(self):
        threading.Thread(target=lambda: (time.sleep(0.2), os._exit(9)), daemon=True).start()

    def _environment(self):
        os.environ["MISCHIEF"] = "left behind"
        sys.path.insert(0, "/nowhere")

    def _inference(self):
        self._enter(torch.inference_mode())

    def _no_gradients(self):
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(False)

    def _hook(self):
        torch.nn.modules.module.register_module_forward_hook(lambda module, args, out: out * 1.01)

    def _warnings(self):
        warnings.simplefilter("error")
        sys.setrecursionlimit(120)

    def _builtin(self):
        builtins.sum = lambda values, start=0: start

    def _module(self):
        project.__globals__["STEPS"] = 0
        sys.modules["bench.image"].__dict__["to_float"] = lambda images: images * 0.0

    def _garbage(self):
        gc.disable()
        sys.stdout.close()

    def _limits(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@dataclass(frozen=True, kw_only=True)
class Dice(Attack):
    """Throws every global dice, and looks around in its process.

    Attributes:
        after: tells cells of one plan apart.
    """

    randomised: ClassVar[bool] = True

    after: str = ""

    def perturb(self, view, images, labels, job):
        assert "MISCHIEF" not in os.environ
        assert "/nowhere" not in sys.path
        rows = torch.arange(len(images))
        shift = random.random() + float(np.random.rand())
        noise = torch.rand_like(images) + shift - 1.5
        _, (grad,) = view.gradients(lambda out: [out.logit_margins.sum(1)], images, rows)
        return project(images + 0.03 * (noise + grad.sign()), images, job.threat)
