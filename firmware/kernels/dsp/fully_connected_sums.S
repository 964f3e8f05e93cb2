/* SPDX-License-Identifier: Apache-2.0
 *
 * Inner loops of fully connected: one row of inputs by all outputs, four outputs at a time. They write 32-bit sums.
 *
 * Inputs are widened to two words a quad of k, weights come in three forms; conv2d_blocks.S explains both:
 *   PAIRS   inputs plain; four bytes of each of the four outputs. 18 instructions a quad.
 *   HALVES  inputs halves; two halves of each output; sums 256 times as large, until they are written. 14 a quad.
 *   INT4    inputs plain; four bytes of outputs 0 and 1, four of outputs 2 and 3. 18 a quad.
 *
 * Registers: r0 inputs, r1 stream, r2-r5 sums, r6-r9 weights, r10 r11 inputs, r12 spare, lr where inputs end.
 * INT4: r6 r7 weights, r8 widened, r9 mask. The loop is unrolled eight times, as in conv2d_blocks.S.
 *
 * void f(const uint32_t *inputs, const int32_t *stream, int32_t *sums, const row_facts *facts)
 */
#include "assembly.h"

/* row_facts: inputs_end, stream_step (bytes of a group behind its weights), groups, k_quads, sum_of_inputs */
    .equ AT_INPUTS, 0
    .equ AT_ENTRY, 4
    .equ AT_SUMS, 8
    .equ AT_GROUPS, 12
    .equ AT_STREAM_STEP, 16
    .equ AT_SUM_OF_INPUTS, 20
    .equ FRAME, 28

    .equ UNROLLED, 8

    .equ PAIRS_QUAD_BYTES, 72
    .macro PAIRS_QUAD
    ldrd r10, r11, [r0], #8
    ldmia.w r1!, {r6-r9}
    PAIRS_OUTPUT r2, r6
    PAIRS_OUTPUT r3, r7
    PAIRS_OUTPUT r4, r8
    PAIRS_OUTPUT r5, r9
    .endm

    .macro PAIRS_OUTPUT sum, weights
    sxtb16 r12, \weights
    sxtb16 \weights, \weights, ror #8
    smlad \sum, r10, r12, \sum
    smlad \sum, r11, \weights, \sum
    .endm

    .equ HALVES_QUAD_BYTES, 56
    .macro HALVES_QUAD
    ldrd r10, r11, [r0], #8
    ldmia.w r1!, {r6-r9}
    HALVES_OUTPUT r2, r6
    HALVES_OUTPUT r3, r7
    HALVES_OUTPUT r4, r8
    HALVES_OUTPUT r5, r9
    .endm

    .macro HALVES_OUTPUT sum, weights
    smlad \sum, r10, \weights, \sum
    sxtb16 \weights, \weights
    smlad \sum, r11, \weights, \sum
    .endm

    .equ INT4_QUAD_BYTES, 72
    .macro INT4_QUAD
    ldrd r10, r11, [r0], #8
    ldrd r6, r7, [r1], #8
    INT4_OUTPUTS r2, r3, r6
    INT4_OUTPUTS r4, r5, r7
    .endm

    .macro INT4_OUTPUTS a, b, weights
    sxtb16 r8, \weights
    and r12, r9, \weights
    smlad \b, r10, r8, \b
    smlad \a, r10, r12, \a
    sxtb16 r8, \weights, ror #8
    and r12, r9, \weights, lsr #8
    smlad \b, r11, r8, \b
    smlad \a, r11, r12, \a
    .endm

    .macro NOTHING
    .endm

    .macro PART_HALVES
    .irp sum, r2, r3, r4, r5
    asr \sum, \sum, #8
    .endr
    .endm

/* as conv2d's */
    .macro BEGIN_INT4
    ldr r12, [sp, #AT_SUM_OF_INPUTS]
    mov r9, #0x000f000f
    sub r2, r2, r12, lsl #3
    sub r4, r4, r12, lsl #3
    add r3, r2, r3, lsl #4
    add r5, r4, r5, lsl #4
    .endm

    .macro PART_INT4
    sub r3, r3, r2
    sub r5, r5, r4
    asr r3, r3, #4
    asr r5, r5, #4
    .endm

    .macro FULLY_CONNECTED name, quad, quad_bytes, begin, part
    FUNCTION \name
    push {r4-r11, lr}
    sub sp, #FRAME
    ldm r3, {r4-r8}
    rsb r7, r7, #0               /* skip -k_quads % 8 quads the first time */
    and r7, r7, #(UNROLLED - 1)
    movs r9, #\quad_bytes
    adr r10, 2f
    mla r7, r7, r9, r10
    orr r7, r7, #1
    strd r0, r7, [sp, #AT_INPUTS]
    strd r2, r6, [sp, #AT_SUMS]
    strd r5, r8, [sp, #AT_STREAM_STEP]
    mov lr, r4
1:  ldmia r1!, {r2-r5}
    \begin
    ldr r0, [sp, #AT_INPUTS]
    ldr pc, [sp, #AT_ENTRY]
    .balign 4
2:  .rept UNROLLED
    \quad
    .endr
    cmp r0, lr
    bne 2b
    \part
    ldrd r6, r7, [sp, #AT_SUMS]
    ldr r8, [sp, #AT_STREAM_STEP]
    stmia r6!, {r2-r5}
    add r1, r1, r8
    subs r7, r7, #1
    strd r6, r7, [sp, #AT_SUMS]
    bne 1b
    add sp, #FRAME
    pop {r4-r11, pc}
    END \name
    .endm

    FULLY_CONNECTED ef_fully_connected_sums, PAIRS_QUAD, PAIRS_QUAD_BYTES, NOTHING, NOTHING
    FULLY_CONNECTED ef_fully_connected_sums_halves, HALVES_QUAD, HALVES_QUAD_BYTES, NOTHING, PART_HALVES
    FULLY_CONNECTED ef_fully_connected_sums_int4, INT4_QUAD, INT4_QUAD_BYTES, BEGIN_INT4, PART_INT4
