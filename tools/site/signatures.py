"""Shows signatures of the reference without names that only our sources have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import griffe

__all__ = ["Signatures"]


class Signatures(griffe.Extension):  # type: ignore[misc]  # the tests' environment has no griffe
    """Rewrites the signature of every function once a package is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Griffe calls this for a package whose sources it has read."""
        for each in [*exported(pkg), *exported(pkg["checkpoint"]), *exported(pkg["errors"])]:
            if each.is_class and each.docstring is not None and "\nArgs:" not in each.docstring.value:
                each.members.pop("__init__", None)  # users get its instances, and make none
        for each in everything_in(pkg):
            if each.is_attribute and each.labels >= {"instance-attribute"} and "class-attribute" not in each.labels:
                each.value = None  # the code of a constructor
        known = {each.path for module in public_modules(pkg) for each in exported(module)}

        def spell(annotation: object) -> object:
            return spelled(annotation, pkg, known)

        for function in (each for each in everything_in(pkg) if each.is_function):
            for each in [function, *(function.overloads or ())]:
                each.returns = spell(each.returns)
                for parameter in list(each.parameters):
                    if is_refusal(parameter):
                        del each.parameters[parameter.name]
                    parameter.annotation = spell(parameter.annotation)
                    if (default := found(parameter.default, pkg)) and default.name.strip("_").isupper():
                        parameter.default = default.value


def everything_in(obj: griffe.Object) -> Iterator[griffe.Object]:
    """What is defined in an object, at any depth."""
    for member in obj.members.values():
        if not member.is_alias:
            yield member
            yield from everything_in(member)


def is_refusal(parameter: griffe.Parameter) -> bool:
    """Whether it collects unknown arguments, for an error that names the right one."""
    return parameter.kind is griffe.ParameterKind.var_keyword and str(parameter.annotation) == "Never"


def public_modules(pkg: griffe.Module) -> list[griffe.Module]:
    """The modules that users import from."""
    return [
        pkg,
        *(each for name, each in pkg.members.items() if name[0] != "_" and not each.is_alias and each.is_module),
    ]


def exported(module: griffe.Module) -> list[griffe.Object]:
    """What a module makes public, where it is defined."""
    members = [module[name] for name in module.exports or () if name in module.members]
    return [each.final_target if each.is_alias else each for each in members]


def spelled(annotation: object, pkg: griffe.Module, known: set[str]) -> object:
    """The annotation with what an alias stands for that users cannot import."""
    alias = found(annotation, pkg)
    if alias is not None:
        is_variable = isinstance(alias.value, griffe.ExprCall)  # TypeVar(...)
        return annotation if is_variable or alias.path in known else alias.value
    if isinstance(annotation, griffe.Expr):
        for field in fields(annotation):
            inner = getattr(annotation, field.name)
            if isinstance(inner, list):
                setattr(annotation, field.name, [spelled(each, pkg, known) for each in inner])
            elif isinstance(inner, griffe.Expr):
                setattr(annotation, field.name, spelled(inner, pkg, known))
    return annotation


def found(name: object, pkg: griffe.Module) -> griffe.Attribute | None:
    """The alias or constant of ours that an expression names."""
    if not isinstance(name, griffe.ExprName):
        return None
    module, _, rest = name.canonical_path.partition(".")
    try:
        thing = pkg[rest] if module == pkg.name and rest else None
        thing = thing.final_target if thing is not None and thing.is_alias else thing
    except (KeyError, griffe.AliasResolutionError):
        return None
    return thing if thing is not None and thing.is_attribute and thing.value is not None else None
