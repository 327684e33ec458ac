"""How the code of a kernel is linked: it calls only its own copies of functions, so that it always rounds the same."""

from __future__ import annotations

from typing import Any

from ablate.compiled.numba_internals import Compiler, JITCodeLibrary, Linkage


class KernelLibrary(JITCodeLibrary):
    """The code of a kernel and of all that it calls, isolated from code of the same name elsewhere in the process.

    Numba lets the linker choose which copy of a function is called. In the process that compiles a kernel, the linker
    takes copies that were compiled earlier, each on its own. If the kernel is loaded from the cache, it takes the
    kernel's own copies. The two are optimized differently, and so they round differently."""

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            if function.linkage == Linkage.linkonce_odr:
                function.linkage = Linkage.internal
                function.name += ".own"  # otherwise other kernels would find this copy, optimized for its callers here
        super()._optimize_final_module()


class KernelCompiler(Compiler):
    """Numba's compiler with a KernelLibrary."""

    def __init__(self, typing_context: Any, target_context: Any, _: None, *others: Any) -> None:
        library = KernelLibrary(target_context.codegen(), "kernel")
        library.enable_object_caching()
        super().__init__(typing_context, target_context, library, *others)
