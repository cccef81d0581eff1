/* Hides AVX-512 and VNNI from a process: preloaded, it answers CPUID and /proc/cpuinfo as an AVX2 machine does.
 *
 *   cc -O2 -shared -fPIC -o without_vnni.so without_vnni.c -ldl
 *   LD_PRELOAD=$PWD/without_vnni.so WITHOUT_VNNI_CPUINFO=FILE python ...
 *
 * Linux on x86-64 alone. The kernel makes CPUID trap (arch_prctl(2), ARCH_SET_CPUID; Intel since Ivy Bridge, AMD
 * since Zen 4), and the handler gives the real answer without the bits below. Engines then take the kernels
 * that such a CPU gets, at its speed. Bits: Intel's manual, volume 2, CPUID, leaf 7.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <cpuid.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define BIT(n) (1u << (n))

static struct sigaction others;

static int real_sigaction(int number, const struct sigaction *new, struct sigaction *old) {
    static int (*real)(int, const struct sigaction *, struct sigaction *);
    if (!real)
        real = (int (*)(int, const struct sigaction *, struct sigaction *))dlsym(RTLD_NEXT, "sigaction");
    return real(number, new, old);
}

/* The fault comes again, and ends the process as it would have. */
static void end_by(int number) {
    struct sigaction action = {.sa_handler = SIG_DFL};
    real_sigaction(number, &action, NULL);
}

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *at = (const uint8_t *)r[REG_RIP];
    if (info->si_code != SI_KERNEL || at[0] != 0x0f || at[1] != 0xa2) { /* not CPUID: a real fault */
        if (others.sa_flags & SA_SIGINFO && others.sa_sigaction)
            others.sa_sigaction(number, info, context);
        else if (others.sa_handler != SIG_DFL && others.sa_handler != SIG_IGN)
            others.sa_handler(number);
        else
            end_by(number);
        return;
    }
    uint32_t leaf = (uint32_t)r[REG_RAX], sub = (uint32_t)r[REG_RCX], a, b, c, d;
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    __cpuid_count(leaf, sub, a, b, c, d);
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    if (leaf == 7 && sub == 0) {
        /* F, DQ, IFMA, PF, ER, CD, BW, VL; VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ; 4VNNIW, 4FMAPS,
         * VP2INTERSECT, AMX-BF16, FP16, AMX-TILE, AMX-INT8 */
        b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
        d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
    }
    if (leaf == 7 && sub == 1) { /* AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA; AVX-VNNI-INT8, -INT16, AVX10 */
        a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));
        d &= ~(BIT(4) | BIT(5) | BIT(10) | BIT(19));
    }
    r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
    r[REG_RIP] += 2;
}

/* Whoever else handles faults (Python's faulthandler, compilers) is called by the handler above. */
int sigaction(int number, const struct sigaction *new, struct sigaction *old) {
    if (number != SIGSEGV)
        return real_sigaction(number, new, old);
    if (old)
        *old = others;
    if (new)
        others = *new;
    return 0;
}

sighandler_t signal(int number, sighandler_t handler) {
    static sighandler_t (*real)(int, sighandler_t);
    if (!real)
        real = (sighandler_t (*)(int, sighandler_t))dlsym(RTLD_NEXT, "signal");
    if (number != SIGSEGV)
        return real(number, handler);
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    sigaction(number, &action, &before);
    return before.sa_flags & SA_SIGINFO ? SIG_DFL : before.sa_handler;
}

static const char *instead_of(const char *path) {
    const char *file = getenv("WITHOUT_VNNI_CPUINFO");
    return file && !strcmp(path, "/proc/cpuinfo") ? file : path;
}

#define OPEN(name)                                                            \
    int name(const char *path, int flags, ...) {                              \
        static int (*real)(const char *, int, ...);                           \
        if (!real)                                                            \
            real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name);  \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                         \
        return real(instead_of(path), flags, mode);                           \
    }
OPEN(open)
OPEN(open64)

__attribute__((constructor)) static void hide(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    if (real_sigaction(SIGSEGV, &action, NULL) || syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) {
        fputs("without_vnni: this CPU or kernel cannot have CPUID trap\n", stderr);
        _exit(77);
    }
}
