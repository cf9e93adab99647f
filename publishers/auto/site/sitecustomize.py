"""What a Python interpreter under ``trainbus run`` does first: installs a lazy import hook.

Python imports ``sitecustomize`` at its start from the first folder of PYTHONPATH that has one,
which is ours. It first makes that unseen: our folder leaves ``sys.path`` (children find it in their
environment), and the ``sitecustomize`` Python would have taken is imported in our place; what that
raises is raised, so that Python says about it what it always says.

After that a finder in front of ``sys.meta_path`` waits for the modules named in ``TRAINBUS_HOOKS``
(``module=package.module:function,…``) and calls each function with its module once that has been
imported. A hook that fails is passed over in silence, or told on standard error when
``TRAINBUS_VERBOSE`` is set. No other module of trainbus is imported until a hook is due: this runs
in every interpreter a command starts, whatever it is for.

Written for Python 3.6 and later, since an old one may be among them.
"""

import sys

__all__ = []  # type: list[str]


def _parse(text: str) -> "dict[str, list[str]]":
    """The functions to call, by the name of the module they wait for."""
    hooks = {}  # type: dict[str, list[str]]
    for part in text.split(","):
        module, _, function = part.strip().partition("=")
        if module and function:
            hooks.setdefault(module, []).append(function)
    return hooks


def _call(function: str, module: object) -> None:
    """Call one hook; nothing it raises gets out, but for what the user or the system asks for."""
    try:
        from importlib import import_module

        path, _, name = function.partition(":")
        target = import_module(path)  # type: object
        for part in name.split("."):
            target = getattr(target, part)
        target(module)  # type: ignore[operator]  # an entry point names a function
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001  # the bus must never stop a training
        _tell(function, error)


def _tell(function: str, error: BaseException) -> None:
    import os

    if not os.environ.get("TRAINBUS_VERBOSE"):
        return
    try:
        text = f"trainbus: hook {function}: {type(error).__name__}: {error}\n"
        sys.stderr.write(text)
    except Exception:  # noqa: BLE001  # standard error may be closed, and an error may not be text
        return


class _Loader:
    """Loads a module as its own loader does, then calls the hooks; leaves no trace in it."""

    def __init__(self, loader: "object", functions: "list[str]") -> None:
        self._trainbus_loader = loader
        self._trainbus_functions = functions

    def __getattr__(self, name: str) -> "object":
        return getattr(self._trainbus_loader, name)

    def create_module(self, spec: "object") -> "object":
        """As the loader itself does."""
        create = getattr(self._trainbus_loader, "create_module", None)
        return None if create is None else create(spec)

    def exec_module(self, module: "object") -> None:
        """As the loader itself does; then the hooks."""
        loader = self._trainbus_loader
        try:
            module.__spec__.loader = loader  # type: ignore[attr-defined]  # every module has one
            module.__loader__ = loader  # type: ignore[attr-defined]  # set like any attribute
        except AttributeError:
            pass
        loader.exec_module(module)  # type: ignore[attr-defined]  # looked for in find_spec
        for function in self._trainbus_functions:
            _call(function, module)


class _Finder:
    """Finds the modules that hooks wait for, by asking the finders behind it."""

    def __init__(self, hooks: "dict[str, list[str]]") -> None:
        self._hooks = hooks

    def find_spec(self, name: str, path: "object" = None, target: "object" = None) -> "object":
        """The spec that Python would find, with our loader around its own."""
        functions = self._hooks.get(name)
        if functions is None:
            return None
        for finder in list(sys.meta_path):
            if isinstance(finder, _Finder):
                continue
            find = getattr(finder, "find_spec", None)
            spec = find and find(name, path, target)
            if spec:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, functions)
                return spec
        return None


def _install() -> None:
    import os

    hooks = _parse(os.environ.get("TRAINBUS_HOOKS", ""))
    if not hooks:
        return
    sys.meta_path.insert(0, _Finder(hooks))  # type: ignore[arg-type]  # loose for old Pythons
    for name in hooks:
        module = sys.modules.get(name)
        if module is not None:
            for function in hooks[name]:
                _call(function, module)


def _step_aside() -> None:
    """Let the ``sitecustomize`` be imported that Python would have found without us.

    Raises whatever that raises.
    """
    # As it stands in sys.path; asking for the working folder fails when that is gone.
    here = __file__.rpartition("/")[0]
    sys.path[:] = [path for path in sys.path if path != here]
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401  # for what it does
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        # The import under way expects to find an entry.
        if "sitecustomize" not in sys.modules and ours is not None:
            sys.modules["sitecustomize"] = ours


if __name__ == "sitecustomize":
    try:
        _step_aside()
    finally:
        try:  # noqa: SIM105  # contextlib takes its time to import
            _install()
        except Exception:  # noqa: BLE001  # the command must not suffer
            pass
