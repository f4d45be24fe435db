"""Updates from a checkpoint that names them as git-theta does: `<parameter>/R`, `<parameter>/C`, `<parameter>/data` ...

The keys of that checkpoint are names like those of the model's parameters, one component longer or with the last one
longer; git-theta joins the components by "/" and looks the result up, and so does this. So `("a.b/R",)`, the key of a
flat file, and `("a.b", "R")`, of a nested one, are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.errors import CorruptObject, UnsupportedError, UsageError
from theta_daemon.updates.kinds import IA3, LOW_RANK, SPARSE
from theta_daemon.updates.listing import listed, quoted
from theta_daemon.updates.steps import prepare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from theta_daemon.updates.array import Array

    Name = tuple[str, ...]

# The arrays of an update of each type. The second kind of low-rank update is git-theta's of parameters with one axis.
_SETS = {
    SPARSE: (("data", "indices", "indptr", "shape"),),
    LOW_RANK: (("R", "C"), ("parameter",)),
    IA3: (("ia3",),),
}


def named(
    update_type: str,
    arrays: Mapping[tuple[str, ...], Array],
    parameters: Mapping[Name, tuple[str, tuple[int, ...]]],
) -> dict[Name, dict[str, Array]]:
    """Return the arrays of each parameter group that `arrays` name, as `prepare` takes them.

    `parameters` are the dtype and shape of every parameter group of the checkpoint. Each update is one that its group
    can have: `prepare` has checked it.

    Raises UsageError, which lists the names of all arrays and parameters that are wrong, and what is wrong with them.
    """
    if update_type not in _SETS:
        raise UsageError(f"updates of type {quoted(update_type)} cannot be taken from a file, only {', '.join(_SETS)}")
    found: dict[str, dict[str, Array]] = {}
    odd: list[str] = []
    known = {array for names in _SETS[update_type] for array in names}
    for key, array in arrays.items():
        text, _, last = "/".join(key).rpartition("/")
        if last not in known or last in found.get(text, ()):
            odd.append(quoted("/".join(key)))
        else:
            found.setdefault(text, {})[last] = array
    names: dict[str, list[Name]] = {}
    for name in parameters:
        names.setdefault("/".join(name), []).append(name)
    updates = {names[text][0]: update for text, update in found.items() if len(names.get(text, ())) == 1}
    faults = {
        f"the file holds arrays that are not of a {update_type} update": odd,
        "the checkpoint has no parameter": [quoted(text) for text in found if text not in names],
        "the checkpoint has more than one parameter": [quoted(text) for text in found if len(names.get(text, ())) > 1],
        "wrong updates": [
            f"{quoted('/'.join(name))} ({fault})"
            for name, update in updates.items()
            if (fault := _fault(update_type, update, *parameters[name]))
        ],
    }
    if any(faults.values()):
        raise UsageError("; ".join(f"{what}: {listed(names)}" for what, names in faults.items() if names))
    if not updates:
        raise UsageError(f"the file holds no {update_type} updates")
    return updates


def _fault(update_type: str, update: Mapping[str, Array], dtype: str, shape: tuple[int, ...]) -> str:
    if not any(update.keys() == set(names) for names in _SETS[update_type]):
        return f"it has {', '.join(update)} alone"
    try:
        prepare(update_type, update, dtype, shape)
    except (CorruptObject, UnsupportedError) as error:
        return error.message
    return ""
