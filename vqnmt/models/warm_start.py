"""A student's start from a teacher's weights."""

from torch import nn

from vqnmt.errors import VqnmtError


def copy_weights(student: nn.Module, teacher: nn.Module) -> int:
    """Copy the weights of `teacher` that have a namesake in `student`.

    Returns:
        The number of weights copied.

    Raises:
        VqnmtError: A weight of the same name has another shape.
    """
    own = student.state_dict()
    found = {name: value for name, value in teacher.state_dict().items() if name in own}
    for name, value in found.items():
        if value.shape != own[name].shape:
            raise VqnmtError(
                f"warm_start is true, but {name} has shape {tuple(value.shape)} in the teacher "
                f"and {tuple(own[name].shape)} in the student: give both the same "
                "transformer settings, or set warm_start=false"
            )
    student.load_state_dict(found, strict=False)
    return sum(value.numel() for value in found.values())
