"""A model of the user's own: `model.name = "package.module:Class"`.

The class extends `training.models.base.Model`. Its annotation `config` names the class of its
section [model]:

    class MyModel(NextItem):
        config: MyConfig
"""

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, get_type_hints

from pydantic import BeforeValidator, SerializeAsAny
from pydantic_core import PydanticCustomError

from mdsrec.config.model_base import ModelConfig, NetworkConfig
from mdsrec.errors import InputError

OWN = "own"  # tag of these models, and the type of an error in their name
BASE = ("training.models.base", "Model")  # the kernel does not import it


def is_own(name: str) -> bool:
    return ":" in name


def class_named(name: str) -> type:
    """Return the class that `name` means; InputError if there is none, or if it is not a model."""
    where = f'model.name = "{name}"'
    if not re.fullmatch(r"\w[\w.]*:\w+", name):
        raise InputError(f"{where}: expected package.module:Class")
    module, _, class_name = name.partition(":")
    try:
        found = getattr(import_module(module), class_name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists, and misses one that it imports
        raise InputError(
            f"{where}: no module {error.name}: put it on PYTHONPATH, or install it"
        ) from None
    if found is None:
        raise InputError(f"{where}: the module {module} has no class {class_name}")
    bases = getattr(found, "__mro__", ())
    if BASE not in [(base.__module__, base.__name__) for base in bases]:
        raise InputError(f"{where}: not a model: the class must extend {'.'.join(BASE)}")
    return found  # type: ignore[no-any-return]


def own_section(name: str) -> type[ModelConfig]:
    """Return the class of the section [model] of a model of the user's own."""
    section = get_type_hints(class_named(name)).get("config", NetworkConfig)
    if not (isinstance(section, type) and issubclass(section, NetworkConfig)):
        raise InputError(
            f'model.name = "{name}": the annotation `config` must be a class that extends '
            f"{NetworkConfig.__module__}.{NetworkConfig.__name__}, found {section}"
        )
    return section


def _validated(values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    try:
        section = own_section(str(values["name"]))
    except InputError as error:
        raise PydanticCustomError(OWN, "{message}", {"message": str(error)}) from None
    return section.model_validate(values)


OwnModelConfig = Annotated[SerializeAsAny[ModelConfig], BeforeValidator(_validated)]
