/* SPDX-License-Identifier: Apache-2.0
 *
 * Semihosting, as Arm's and RISC-V's specifications of it say: an operation's number and a block of arguments.
 */
#include "board.h"

enum { SYS_OPEN = 0x01, SYS_WRITE0 = 0x04, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20 };
enum { STOPPED_APPLICATION_EXIT = 0x20026 };

static uintptr_t semihosting(uintptr_t operation, const void *arguments) {
#if defined(__riscv)
    register uintptr_t a0 __asm__("a0") = operation;
    register const void *a1 __asm__("a1") = arguments;
    /* three uncompressed instructions that must not lie across a page */
    __asm__ volatile(
        ".option push\n.option norvc\n.balign 16\n"
        "slli x0, x0, 0x1f\nebreak\nsrai x0, x0, 7\n"
        ".option pop"
        : "+r"(a0) : "r"(a1) : "memory");
    return a0;
#else
    register uintptr_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
#endif
}

int board_open(const char *name, int mode) {
    uintptr_t length = 0;
    while (name[length]) length++;
    uintptr_t arguments[3] = {(uintptr_t)name, (uintptr_t)mode, length};
    return (int)semihosting(SYS_OPEN, arguments);
}

uint32_t board_read(int file, void *to, uint32_t n) {
    uintptr_t arguments[3] = {(uintptr_t)file, (uintptr_t)to, n};
    return (uint32_t)semihosting(SYS_READ, arguments);
}

uint32_t board_write(int file, const void *from, uint32_t n) {
    uintptr_t arguments[3] = {(uintptr_t)file, (uintptr_t)from, n};
    return (uint32_t)semihosting(SYS_WRITE, arguments);
}

void board_print(const char *text) {
    semihosting(SYS_WRITE0, text);
}

void board_exit(int code) {
    uintptr_t arguments[2] = {STOPPED_APPLICATION_EXIT, (uintptr_t)code};
    semihosting(SYS_EXIT_EXTENDED, arguments);
    for (;;) {
    }
}
