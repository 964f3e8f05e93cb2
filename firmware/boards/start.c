/* SPDX-License-Identifier: Apache-2.0
 *
 * From reset to main: Cortex-M and RV32. Constants go to .data, zeros to .bss; what must outlive that (the counter's
 * markers, which a store of a zero would trip) lies in .noinit.
 */
#include "board.h"

__attribute__((section(".noinit"))) volatile uint32_t ef_marker[4];

extern uint32_t board_data_begin[], board_data_end[], board_bss_begin[], board_bss_end[], board_stack_top[];
extern const uint32_t board_data_load[];

__attribute__((used, noreturn)) void board_start(void) {
    const uint32_t *from = board_data_load;
    for (uint32_t *to = board_data_begin; to < board_data_end;) {
        *to++ = *from++;
        __asm__ volatile(""); /* or compilers make it a call of memcpy, which few images need */
    }
    for (uint32_t *to = board_bss_begin; to < board_bss_end;) {
        *to++ = 0;
        __asm__ volatile("");
    }
    board_exit(main());
}

__attribute__((used, noreturn)) void board_fault(void) {
    board_exit(BOARD_FAULT);
}

#if defined(__riscv)

/* Relaxation would make "la gp" relative to gp itself. */
__asm__(
    ".section .text.start, \"ax\"\n"
    ".globl board_reset\n"
    ".type board_reset, %function\n"
    "board_reset:\n"
    "la sp, board_stack_top\n"
    ".option push\n.option norelax\n"
    "la gp, __global_pointer$\n"
    ".option pop\n"
    "la t0, board_trap\n"
    ".option push\n.option arch, +zicsr\n"
    "csrw mtvec, t0\n"
    ".option pop\n"
    "j board_start\n"
    ".balign 4\n"
    "board_trap:\n"
    "la sp, board_stack_top\n" /* whatever happened, this one call has a stack */
    "j board_fault\n"
    ".size board_reset, . - board_reset\n"
    ".text\n");

#else

__attribute__((naked, used, section(".text.start"))) void board_reset(void) {
    __asm__ volatile(
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
        /* SCB->CPACR: let code use the coprocessors 10 and 11, which are the floating-point unit and Helium */
        "ldr r0, =0xE000ED88\n"
        "ldr r1, [r0]\n"
        "ldr r2, =0x00F00000\n"
        "orrs r1, r1, r2\n"
        "str r1, [r0]\n"
        "dsb\n"
        "isb\n"
#endif
        "ldr r0, =board_start\n"
        "bx r0\n"
        ".ltorg");
}

/* Initial stack pointer, reset, and the thirteen exceptions; boards that use interrupts add their own table. */
__attribute__((section(".vectors"), used)) const void *const board_vectors[16] = {
    board_stack_top, (void *)board_reset, (void *)board_fault, (void *)board_fault, (void *)board_fault,
    (void *)board_fault, (void *)board_fault, (void *)board_fault, (void *)board_fault, (void *)board_fault,
    (void *)board_fault, (void *)board_fault, (void *)board_fault, (void *)board_fault, (void *)board_fault,
    (void *)board_fault,
};

#endif
