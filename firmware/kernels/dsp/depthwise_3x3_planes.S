/* SPDX-License-Identifier: Apache-2.0
 *
 * Inner loops of depthwise 3x3: one channel of a chunk of rows, two outputs at a time.
 *
 * A plane holds a channel's values in words of two neighbours of a row; the words of one pair of columns for ROWS rows
 * lie one after the other, so that one ldm brings three rows. Weights stay in registers: of each row (w0 w1) and
 * (w1 w2), from the bytes w0 w1 w1 w2.
 *
 * Registers: r0 plane, r1 out, r2 r3 two sums, r4-r6 three rows, then the scale; r7 r8, r9 r10, r11 r12 weights of the
 * three rows, lr step of an output column.
 *
 * void f(const uint32_t *plane, const int32_t *channel, int8_t *out, const chunk_facts *facts)
 */
#include "assembly.h"

    .equ PITCH, 40               /* bytes from a pair of columns to the next: ROWS * 4 */

/* on the stack */
    .equ AT_SCALE, 0             /* m, c, l */
    .equ AT_BIAS, 12             /* twice: one ldrd for two sums */
    .equ AT_K, 20
    .equ AT_ROW_END, 24
    .equ AT_ROW, 28              /* plane's row, then out's */
    .equ AT_ROWS_LEFT, 36        /* rows left, step of an output row */
    .equ AT_PAIRS, 44            /* pairs of outputs in a row, 1 where one more follows */
    .equ AT_ROW_STEP, 52
    .equ FRAME, 60

/* two outputs from the pairs of columns at r0; r0 moves to the next two outputs */
    .macro TWO_OUTPUTS stride
    ldrd r2, r3, [sp, #AT_BIAS]
    ldm r0, {r4-r6}
    .if \stride == 1
    smlad r2, r4, r7, r2
    smlatb r3, r4, r7, r3
    smlad r2, r5, r9, r2
    smlatb r3, r5, r9, r3
    smlad r2, r6, r11, r2
    smlatb r3, r6, r11, r3
    adds r0, #PITCH
    ldm r0, {r4-r6}
    smlabt r2, r4, r8, r2
    smlad r3, r4, r8, r3
    smlabt r2, r5, r10, r2
    smlad r3, r5, r10, r3
    smlabt r2, r6, r12, r2
    smlad r3, r6, r12, r3
    .else
    smlad r2, r4, r7, r2
    smlad r2, r5, r9, r2
    smlad r2, r6, r11, r2
    adds r0, #PITCH
    ldm r0, {r4-r6}
    smlabt r2, r4, r8, r2
    smlad r3, r4, r7, r3
    smlabt r2, r5, r10, r2
    smlad r3, r5, r9, r3
    smlabt r2, r6, r12, r2
    smlad r3, r6, r11, r3
    adds r0, #PITCH
    ldm r0, {r4-r6}
    smlabt r3, r4, r8, r3
    smlabt r3, r5, r10, r3
    smlabt r3, r6, r12, r3
    .endif
    .endm

    .macro ONE_OUTPUT
    ldr r2, [sp, #AT_BIAS]
    ldm r0, {r4-r6}
    smlad r2, r4, r7, r2
    smlad r2, r5, r9, r2
    smlad r2, r6, r11, r2
    adds r0, #PITCH
    ldm r0, {r4-r6}
    smlabt r2, r4, r8, r2
    smlabt r2, r5, r10, r2
    smlabt r2, r6, r12, r2
    .endm

/* r4 m, r5 c; the sum has been shifted left by l; r6 is overwritten */
    .macro SCALE_SHIFTED sum, relu
    .if \relu
    smmla \sum, \sum, r4, r5
    .else
    ldr r6, [sp, #AT_K]
    and r6, r6, \sum, asr #31
    smmla \sum, \sum, r4, r5
    add \sum, \sum, r6
    .endif
    ssat \sum, #8, \sum, asr #15
    .endm

    .macro PLANES name, stride, relu
    FUNCTION \name
    push {r4-r11, lr}
    sub sp, #FRAME
    ldm r3, {r4-r9}              /* out_x_step, out_y_step, rows, pairs, odd, row_step */
    mov lr, r4
    strd r6, r5, [sp, #AT_ROWS_LEFT]
    strd r7, r8, [sp, #AT_PAIRS]
    str r9, [sp, #AT_ROW_STEP]
    strd r0, r2, [sp, #AT_ROW]
    .if \relu
    ldmia r1!, {r3, r4, r6}      /* bias, m, c << 8 | l */
    .else
    ldmia r1!, {r3, r7}          /* bias, k */
    ldmia r1!, {r4, r6}
    str r7, [sp, #AT_K]
    .endif
    asr r5, r6, #8               /* a shift by r6 takes its lowest byte alone, l */
    stm sp, {r4-r6}
    strd r3, r3, [sp, #AT_BIAS]
    ldm r1, {r8, r10, r12}
    sxtb16 r7, r8
    sxtb16 r8, r8, ror #8
    sxtb16 r9, r10
    sxtb16 r10, r10, ror #8
    sxtb16 r11, r12
    sxtb16 r12, r12, ror #8
1:  ldrd r0, r1, [sp, #AT_ROW]
    ldr r4, [sp, #AT_PAIRS]
    movs r5, #(PITCH * \stride)
    cmp r4, #0                   /* too far for cbz */
    beq 3f
    mla r4, r4, r5, r0
    str r4, [sp, #AT_ROW_END]
2:  TWO_OUTPUTS \stride
    ldm sp, {r4-r6}
    lsl r2, r2, r6
    lsl r3, r3, r6
    SCALE_SHIFTED r2, \relu
    SCALE_SHIFTED r3, \relu
    ldr r4, [sp, #AT_ROW_END]
    strb r2, [r1]
    strb r3, [r1, lr]
    add r1, r1, lr, lsl #1
    cmp r0, r4
    bne 2b
3:  ldr r4, [sp, #AT_PAIRS + 4]
    cbz r4, 4f
    ONE_OUTPUT
    ldm sp, {r4-r6}
    lsl r2, r2, r6
    SCALE_SHIFTED r2, \relu
    strb r2, [r1]
4:  ldr r6, [sp, #AT_ROW_STEP]
    ldrd r0, r1, [sp, #AT_ROW]
    ldrd r4, r5, [sp, #AT_ROWS_LEFT]
    add r0, r0, r6
    add r1, r1, r5
    strd r0, r1, [sp, #AT_ROW]
    subs r4, r4, #1
    str r4, [sp, #AT_ROWS_LEFT]
    bne 1b
    add sp, #FRAME
    pop {r4-r11, pc}
    END \name
    .endm

    PLANES ef_depthwise_3x3_planes_relu_s1, 1, 1
    PLANES ef_depthwise_3x3_planes_relu_s2, 2, 1
    PLANES ef_depthwise_3x3_planes_any_s1, 1, 0
    PLANES ef_depthwise_3x3_planes_any_s2, 2, 0
