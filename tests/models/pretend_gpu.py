"""A GPU that is not there: tensors that say `cuda`, hold their values on the CPU, and never mix.

Code that a GPU will run is tested so without one: an operation on tensors of both devices raises as
CUDA does. Not for gradients: torch's engine asks the device itself.
"""

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten

# Operations that CUDA, too, takes with tensors of both devices: copies, and indices on the CPU.
MIXED = {aten.copy_, aten._to_copy, aten.index, aten.index_put_, aten._index_put_impl_}


class OnGPU(Tensor):
    """A tensor that says it is on a GPU; `values` is the same on the CPU.

    To torch's own code it is on `meta`, a device without a driver.
    """

    @staticmethod
    def __new__(cls, values: Tensor):
        """Wrap a tensor of the CPU."""
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset()}
        wrapped = Tensor._make_wrapper_subclass(
            cls, values.shape, **layout, dtype=values.dtype, device="meta"
        )
        wrapped.values = values
        return wrapped

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)

    def new_tensor(self, data):
        """Return numbers on the GPU; torch's own makes them on the CPU and asks no mode."""
        return OnGPU(self.values.new_tensor(data))

    def __repr__(self):
        """Show the values."""
        return f"OnGPU({self.values!r})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        """Run an operation outside of `PretendGPU`."""
        with PretendGPU():
            return function(*args, **(kwargs or {}))


class PretendGPU(TorchDispatchMode):
    """Within it, `device="cuda"` is the GPU that is not there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Run an operation on the values, and wrap what it returns."""
        kwargs = dict(kwargs or {})
        devices = set()

        def unwrap(tensor):
            on_gpu = isinstance(tensor, OnGPU)
            if on_gpu or tensor.dim():  # numbers of the CPU go with all devices
                devices.add(on_gpu)
            return tensor.values if on_gpu else tensor

        plain_args, plain_kwargs = tree_map_only(Tensor, unwrap, (args, kwargs))
        packet = function.overloadpacket
        if len(devices) == 2 and packet not in MIXED:
            raise RuntimeError(f"{function}: tensors of the CPU and of the GPU")
        on_gpu = True in devices
        if kwargs.get("device") is not None:
            on_gpu = torch.device(kwargs["device"]).type != "cpu"
            plain_kwargs["device"] = torch.device("cpu")
        result = function(*plain_args, **plain_kwargs)
        if function._schema.name.endswith("_"):
            return args[0]  # in place
        return tree_map_only(Tensor, OnGPU, result) if on_gpu else result


def move(module: nn.Module) -> None:
    """Move the parameters and buffers of a module to the GPU, in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(OnGPU(parameter.data), False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = OnGPU(buffer)
