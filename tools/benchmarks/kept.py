"""Memory of the teachers that is alive while the losses wait for their backward pass."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from benchmarks.measure import Result


def kept_of_teachers(name: str, distiller: Any, data: dict[str, Any]) -> Result:
    """Measure the MiB of outputs of the teachers' modules that are alive.

    Only the maps that students regress may be. Memory counts, not tensors: a view keeps all of the
    tensor that it was cut from.
    """
    storages: dict[int, tuple[StorageWeakRef, int]] = {}
    targets: set[int] = set()

    def record(path: str, output: Any, wanted: set[str]) -> None:
        for tap, tensor in _tensors(path, output):
            storage = tensor.untyped_storage()
            reference = StorageWeakRef(storage)
            storages[reference.cdata] = reference, storage.nbytes()
            if tap in wanted:
                targets.add(reference.cdata)

    handles = []
    for teacher in distiller.teachers:
        teacher.fast_form = None  # it would copy its maps, and the outputs of modules are followed
        wanted = teacher.observed_taps
        for path, module in teacher.model.named_modules():
            handles.append(
                module.register_forward_hook(
                    lambda _, __, output, path=path, wanted=wanted: record(path, output, wanted)
                )
            )
    batch = distiller.data_preprocessor(data, training=True)
    loss, _ = distiller.parse_losses(distiller(**batch, mode='loss'))
    for handle in handles:
        handle.remove()
    alive = {key: size for key, (reference, size) in storages.items() if not reference.expired()}
    loss.backward()
    distiller.zero_grad(set_to_none=True)
    kept, total = (
        sum(sizes) / 2**20 for sizes in (alive.values(), (size for _, size in storages.values()))
    )
    return Result(
        name, kept, f'{kept:.3g} of {total:.3g} MiB', 'targets alone', alive.keys() <= targets
    )


def _tensors(path: str, output: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of an output by tap."""
    if isinstance(output, Tensor):
        yield path, output
    elif isinstance(output, (tuple, list)):
        for index, item in enumerate(output):
            yield from _tensors(f'{path}[{index}]', item)
