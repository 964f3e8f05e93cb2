/* SPDX-License-Identifier: Apache-2.0
 *
 * Semihosting, as Arm's and RISC-V's specifications of it say: an operation's number and a block of arguments.
 */
#include "board.h"

enum { SYS_OPEN = 0x01, SYS_WRITE0 = 0x04, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20 };
enum { STOPPED_APPLICATION_EXIT = 0x20026 };

#if defined(__riscv)

/* Three uncompressed instructions that must not lie across a page: hence a function that begins at 16 bytes. */
uintptr_t board_semihosting(uintptr_t operation, const void *arguments);
__asm__(
    ".section .text.board_semihosting, \"ax\"\n"
    ".option push\n.option norvc\n.option norelax\n"
    ".balign 16\n"
    ".globl board_semihosting\n"
    ".type board_semihosting, %function\n"
    "board_semihosting:\n"
    "slli x0, x0, 0x1f\n"
    "ebreak\n"
    "srai x0, x0, 7\n"
    "ret\n"
    ".size board_semihosting, . - board_semihosting\n"
    ".option pop\n"
    ".text\n");

#else

static uintptr_t board_semihosting(uintptr_t operation, const void *arguments) {
    register uintptr_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

#endif

int board_open(const char *name, int mode) {
    uintptr_t length = 0;
    while (name[length]) length++;
    uintptr_t arguments[3] = {(uintptr_t)name, (uintptr_t)mode, length};
    return (int)board_semihosting(SYS_OPEN, arguments);
}

uint32_t board_read(int file, void *to, uint32_t n) {
    uintptr_t arguments[3] = {(uintptr_t)file, (uintptr_t)to, n};
    return (uint32_t)board_semihosting(SYS_READ, arguments);
}

uint32_t board_write(int file, const void *from, uint32_t n) {
    uintptr_t arguments[3] = {(uintptr_t)file, (uintptr_t)from, n};
    return (uint32_t)board_semihosting(SYS_WRITE, arguments);
}

void board_print(const char *text) {
    board_semihosting(SYS_WRITE0, text);
}

void board_exit(int code) {
    uintptr_t arguments[2] = {STOPPED_APPLICATION_EXIT, (uintptr_t)code};
    board_semihosting(SYS_EXIT_EXTENDED, arguments);
    for (;;) {
    }
}
