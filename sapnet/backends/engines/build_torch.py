"""Builds TensorRT engines with torch-tensorrt, on the GPU that is to run them."""

from __future__ import annotations

import importlib
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache as cached
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from sapnet.backends.base import EngineShape, OnStep
from sapnet.backends.engines.build import BuildRequest
from sapnet.backends.engines.build_onnx import TENSORRT, TIMINGS, built_on, export, network_origin, refusal
from sapnet.backends.engines.cache import EngineCache, Key
from sapnet.errors import BackendError, first_line
from sapnet.model import DeployNet
from sapnet.model.deploy import FOR_ENGINE, load_deploy_network

OLDEST, NEWEST = (2, 10), (2, 14)
INSTALL = "install torch-tensorrt 2.10 to 2.14, of the same version as torch: see docs/tensorrt.md"
# Share of a build, roughly: the export is Python, the rest is TensorRT that tries kernels and does not report progress.
_EXPORTED = 0.2
# torch-tensorrt's own log, and TensorRT's messages through it.
_LOGS = ("torch_tensorrt", "torch_tensorrt [TensorRT Conversion Context]")


def load_library() -> Any:
    """The module ``tensorrt``, whose engines torch-tensorrt builds. Raises BackendError."""
    _load()
    try:
        return _tensorrt()
    except (ImportError, OSError) as err:
        raise BackendError(f"TensorRT cannot be loaded ({first_line(err)}); {INSTALL}") from err


def origin(request: BuildRequest) -> Key:
    """What an engine is made from and with. Raises SapnetError."""
    version = f"torch-tensorrt {_load().__version__}, TensorRT {_tensorrt().__version__}"
    return {"flavour": TENSORRT, **network_origin(request), "version": version, **built_on(request.options["device"])}


def build(request: BuildRequest, cache: EngineCache, on_step: OnStep) -> bytes:
    """The engine of a network, for one height and width and a batch of 1 to many. Raises SapnetError."""
    network = load_deploy_network(request.weights, request.stages, FOR_ENGINE)
    folder, device = cache.folder / "torch_tensorrt", request.options["device"]
    return build_engine(network, request.shape, request.precision, folder, on_step, device)


def build_engine(
    network: DeployNet, shape: EngineShape, precision: str, folder: Path, on_step: OnStep, device: str = "cuda:0"
) -> bytes:
    """The engine of a float32 deploy network, which is left as it is.

    precision: ``fp32`` (without TF32), ``bf16`` or ``fp16``. folder: for torch-tensorrt's files while it builds.
    on_step: gets shares of this build from 0 to 1. device: a GPU.
    The engine holds the whole network: input ``frames``, outputs ``output0`` (derained) and ``output1`` (streaks).
    Raises BackendError.
    """
    torch_tensorrt, gpu = _load(), torch.device(device)
    with _as_backend_error(f"torch-tensorrt cannot build the engine for {shape} in {precision}"), _current(gpu):
        on_step("exporting the network", 0.0)
        dynamic = shape.max_batch > 1
        # A batch of 1 in the example would be taken for a constant.
        example = torch.zeros(2 if dynamic else 1, shape.height, shape.width, 3, dtype=torch.uint8, device=gpu)
        sizes = {0: Dim("batch", min=1, max=shape.max_batch)} if dynamic else None
        program = export(network, precision, example, sizes)
        on_step("converting and building", _EXPORTED)
        _convert_uint8_outputs(torch_tensorrt, _tensorrt())
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as scratch:
            engine = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
                program, arg_inputs=[_input(torch_tensorrt, shape)], device=gpu, **_options(scratch)
            )
        if not engine:
            raise RuntimeError("it returned no engine")
    return bytes(engine)


def _load() -> Any:
    """The module torch_tensorrt. Raises BackendError if it is missing, broken, unsupported or of another flavour."""
    try:
        torch_tensorrt = importlib.import_module("torch_tensorrt")
    # The last two where TensorRT's libraries are missing or torch has no CUDA.
    except (ImportError, OSError, RuntimeError, AttributeError) as err:
        raise BackendError(f"torch-tensorrt cannot be loaded ({first_line(err)}); {INSTALL}") from err
    if torch_tensorrt.ENABLED_FEATURES.tensorrt_rtx:
        raise BackendError(
            "got torch-tensorrt-rtx, which builds for TensorRT-RTX, expected torch-tensorrt for TensorRT; "
            f"pip uninstall torch-tensorrt-rtx, then {INSTALL}"
        )
    # It ignores arguments that it does not know, so an unknown version might ignore the precision.
    if not OLDEST <= _release(torch_tensorrt) <= NEWEST:
        raise BackendError(f"got torch-tensorrt {torch_tensorrt.__version__}, expected 2.10 to 2.14; {INSTALL}")
    return torch_tensorrt


def _tensorrt() -> Any:
    """The module tensorrt, as torch_tensorrt has found it."""
    return importlib.import_module("tensorrt")


def _release(torch_tensorrt: Any) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", torch_tensorrt.__version__)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _options(scratch: str) -> dict[str, Any]:
    """The tensors' own types (networks are strongly typed), no TF32, no partial engine, no cache of its own."""
    return {
        "disable_tf32": True,
        "require_full_compilation": True,
        # Timings of a loaded GPU must not reach the next build; by default they do, through the temporary folder.
        "timing_cache_path": str(Path(scratch) / "timing.bin"),
        "num_avg_timing_iters": TIMINGS,
        # The key of its engine cache holds neither weights nor versions.
        "cache_built_engines": False,
        "reuse_cached_engines": False,
        "engine_cache_dir": scratch,
    }


def _input(torch_tensorrt: Any, shape: EngineShape) -> Any:
    one, most = ((batch, shape.height, shape.width, 3) for batch in (1, shape.max_batch))
    if one == most:
        return torch_tensorrt.Input(shape=one, dtype=torch.uint8)
    return torch_tensorrt.Input(min_shape=one, opt_shape=most, max_shape=most, dtype=torch.uint8)


@cached
def _convert_uint8_outputs(torch_tensorrt: Any, tensorrt: Any) -> None:
    """Register a converter for casts to uint8 outputs, which torch-tensorrt lacks; TensorRT allows no others."""
    conversion = torch_tensorrt.dynamo.conversion

    def gives_uint8_output(node: torch.fx.Node, settings: object = None) -> bool:
        return node.kwargs.get("dtype") is torch.uint8 and all(user.op == "output" for user in node.users)

    def cast(ctx: Any, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
        layer = ctx.net.add_cast(args[0], tensorrt.DataType.UINT8)
        layer.name = name
        return layer.get_output(0)

    conversion.dynamo_tensorrt_converter(
        torch.ops.aten._to_copy.default,
        capability_validator=gives_uint8_output,
        priority=conversion.ConverterPriority.HIGH,
        supports_dynamic_shapes=True,
    )(cast)


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Make the GPU current: TensorRT builds for the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def _as_backend_error(what: str) -> Iterator[None]:
    """Raise errors inside as a BackendError that says ``what`` and the first known cause."""
    errors = _FirstError()
    for name in _LOGS:
        logging.getLogger(name).addHandler(errors)
    try:
        yield
    # RuntimeError: torch.export's and most of torch-tensorrt's own; the others come from its converters.
    except (RuntimeError, AssertionError, ValueError, TypeError, NameError) as err:
        raise refusal(f"{what}: {errors.line or first_line(err)}; use backend 'torch' meanwhile") from err
    finally:
        for name in _LOGS:
            logging.getLogger(name).removeHandler(errors)


class _FirstError(logging.Handler):
    """Keeps the first logged error: TensorRT's causes are only logged, and up to 2.11 torch-tensorrt's too."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.line = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the exception where there is one, as the message may be a whole graph."""
        error = record.exc_info[1] if record.exc_info else None
        self.line = self.line or first_line(error or record.getMessage())
