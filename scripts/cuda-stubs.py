"""Stands in for CUDA's libraries at link time: archives whose functions load the true library when first called.

    python3 scripts/cuda-stubs.py CUDARC FOLDER

A program that is linked with a library does not start where the library is missing. One linked with these starts
anywhere; without the library, a function returns its library's error for "not there". CUDARC is the source of the
crate cudarc, whose declarations say which functions there are; FOLDER gets libcuda.a and the rest. x86-64 with a
C compiler only.
"""

import pathlib
import platform
import re
import subprocess
import sys

# Library: the folder of its declarations, the names it goes by, and what its functions return where it is missing.
LIBRARIES = {
    "cuda": ("driver", ["libcuda.so.1"], 100),
    "nvrtc": ("nvrtc", ["libnvrtc.so.13", "libnvrtc.so.12"], 11),
    "curand": ("curand", ["libcurand.so.10"], 203),
    "cublas": ("cublas", ["libcublas.so.13", "libcublas.so.12"], 1),
    "cublasLt": ("cublaslt", ["libcublasLt.so.13", "libcublasLt.so.12"], 1),
    "nccl": ("nccl", ["libnccl.so.2"], 2),
}

# All that may hold an argument is kept over the call that finds the function: rdi to r9, rax and xmm0 to xmm7.
SOURCE = r"""
#include <dlfcn.h>

static const char *const files[] = {%(files)s};
static const char *const names[] = {%(names)s};
__attribute__((used)) static void *found[sizeof names / sizeof *names];

static int missing(void) { return %(error)d; }

__attribute__((used)) static void *find(unsigned long at) {
    static void *library;
    for (unsigned i = 0; !library && i < sizeof files / sizeof *files; i++)
        library = dlopen(files[i], RTLD_NOW | RTLD_GLOBAL);
    void *function = library ? dlsym(library, names[at]) : 0;
    return found[at] = function ? function : (void *)missing;
}

__asm__(
    ".text\n"
    "lookup:\n"
    "  push %%rdi\n push %%rsi\n push %%rdx\n push %%rcx\n push %%r8\n push %%r9\n push %%rax\n"
    "  sub $136, %%rsp\n"
    "  movups %%xmm0, (%%rsp)\n movups %%xmm1, 16(%%rsp)\n movups %%xmm2, 32(%%rsp)\n movups %%xmm3, 48(%%rsp)\n"
    "  movups %%xmm4, 64(%%rsp)\n movups %%xmm5, 80(%%rsp)\n movups %%xmm6, 96(%%rsp)\n movups %%xmm7, 112(%%rsp)\n"
    "  mov 192(%%rsp), %%rdi\n"
    "  call find\n"
    "  mov %%rax, %%r11\n"
    "  movups (%%rsp), %%xmm0\n movups 16(%%rsp), %%xmm1\n movups 32(%%rsp), %%xmm2\n movups 48(%%rsp), %%xmm3\n"
    "  movups 64(%%rsp), %%xmm4\n movups 80(%%rsp), %%xmm5\n movups 96(%%rsp), %%xmm6\n movups 112(%%rsp), %%xmm7\n"
    "  add $136, %%rsp\n"
    "  pop %%rax\n pop %%r9\n pop %%r8\n pop %%rcx\n pop %%rdx\n pop %%rsi\n pop %%rdi\n"
    "  add $8, %%rsp\n"
    "  jmp *%%r11\n"
%(functions)s
);
"""
FUNCTION = r"""    ".globl {name}\n .type {name}, @function\n{name}:\n"
    "  mov found+8*{at}(%rip), %r11\n test %r11, %r11\n jz 1f\n jmp *%r11\n1: push ${at}\n jmp lookup\n"
"""


def main():
    cudarc, folder = map(pathlib.Path, sys.argv[1:])
    if platform.machine() != "x86_64":
        sys.exit(f"these stubs are for x86-64, this machine is {platform.machine()}")
    folder.mkdir(parents=True, exist_ok=True)
    for library, (declarations, files, error) in LIBRARIES.items():
        text = (cudarc / "src" / declarations / "sys" / "mod.rs").read_text()
        names = sorted(set(re.findall(r"\bfn ((?:cu|nvrtc|nccl)[a-z]*[A-Z]\w*)\s*\(", text)))
        if not names:
            sys.exit(f"{cudarc}: declares no function of {library}")
        quoted = lambda words: ", ".join(f'"{word}"' for word in words)
        source = SOURCE % {
            "files": quoted(files),
            "names": quoted(names),
            "error": error,
            "functions": "".join(FUNCTION.format(name=name, at=at) for at, name in enumerate(names)),
        }
        c, o, a = (folder / f"lib{library}.{end}" for end in ("c", "o", "a"))
        c.write_text(source)
        subprocess.run(["cc", "-c", "-O2", "-fPIC", "-o", o, c], check=True)
        a.unlink(missing_ok=True)
        subprocess.run(["ar", "rcs", a, o], check=True)
        print(f"{a}: {len(names)} functions")


main()
