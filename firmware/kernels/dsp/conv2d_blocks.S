/* SPDX-License-Identifier: Apache-2.0
 *
 * Inner loops of conv2d: a block of four pixels by all channels, two channels at a time.
 *
 * Columns are what lies under the four pixels' windows, widened to 16 bits, four values of each pixel a time ("quad"):
 *   plain:   (x0 x2) of pixels 0 to 3, then (x1 x3) of pixels 0 to 3
 *   halves:  (x1 x3) of pixels 0 to 3, then (256 x0 + 127 - x1, 256 x2 + 127 - x3) of pixels 0 to 3
 *
 * Weights of channels a and b come in one of three forms:
 *   PAIRS   a0 b0 a2 b2, a1 b1 a3 b3: sxtb16 widens two weights of a, sxtb16 with ror 8 two of b. 26 instructions a quad.
 *   HALVES  the halves 256 a1 + a0, 256 a3 + a2, then b's. A half times x1, and its low byte, widened, times
 *           256 x0 + 127 - x1, is 256 (a0 x0 + a1 x1) + 127 a0 together: one widening for four weights, and the stream's
 *           bias takes the 127 a0 away. Sums are 256 times as large. 23 instructions a quad.
 *   INT4    bytes (a + 8) + 16 b: sxtb16 gives 16 b + (a + 8), a mask gives a + 8. The sums of b are 16 times as large
 *           and contain those of a; those of a contain 8 times the sum of x, which the caller gives. 27 a quad.
 *
 * Registers: r0 columns, r1 stream, r2-r5 sums of a for pixels 0-3, r6-r9 sums of b, r10 r11 two pixels' columns,
 * r12 lr weights. The loop is unrolled eight times and entered where k_quads leaves nothing over, by a computed jump.
 *
 * void f(const uint32_t *columns, const int32_t *stream, void *out, const block_facts *facts)
 */
#include "assembly.h"

/* block_facts */
    .equ BLOCK_STREAM_END, 0
    .equ BLOCK_COLUMNS_END, 4
    .equ BLOCK_OUT_STEP, 8
    .equ BLOCK_K_QUADS, 12
    .equ BLOCK_SUMS_OF_X, 16

/* on the stack */
    .equ AT_COLUMNS, 0
    .equ AT_COLUMNS_END, 4
    .equ AT_ENTRY, 8
    .equ AT_STREAM_END, 12
    .equ AT_OUT, 16
    .equ AT_OUT_STEP, 20
    .equ AT_SUMS_OF_X, 24
    .equ FRAME, 28

    .equ UNROLLED, 8

/* four pixels times widened weights of a and of b */
    .macro MULTIPLY_PIXELS weights_a, weights_b
    ldmia.w r0!, {r10, r11}
    smlad r2, r10, \weights_a, r2
    smlad r3, r11, \weights_a, r3
    smlad r6, r10, \weights_b, r6
    smlad r7, r11, \weights_b, r7
    ldmia.w r0!, {r10, r11}
    smlad r4, r10, \weights_a, r4
    smlad r5, r11, \weights_a, r5
    smlad r8, r10, \weights_b, r8
    smlad r9, r11, \weights_b, r9
    .endm

    .equ PAIRS_QUAD_BYTES, 104
    .macro PAIRS_QUAD
    .rept 2
    ldr.w r12, [r1], #4
    sxtb16 lr, r12
    sxtb16 r12, r12, ror #8
    MULTIPLY_PIXELS lr, r12
    .endr
    .endm

    .equ HALVES_QUAD_BYTES, 92
    .macro HALVES_QUAD
    ldmia.w r1!, {r12, lr}
    MULTIPLY_PIXELS r12, lr
    sxtb16 r12, r12
    sxtb16 lr, lr
    MULTIPLY_PIXELS r12, lr
    .endm

    .equ INT4_QUAD_BYTES, 108
    .macro INT4_QUAD
    ldr.w r12, [r1]
    sxtb16 lr, r12
    and.w r12, r12, #0x000f000f
    MULTIPLY_PIXELS r12, lr
    ldr.w r12, [r1], #4
    sxtb16 lr, r12, ror #8
    uxtb16 r12, r12, ror #8
    and.w r12, r12, #0x000f000f
    MULTIPLY_PIXELS r12, lr
    .endm

/* r2-r9 = the two biases */
    .macro BEGIN_SUMS
    ldmia r1!, {r2, r6}
    mov r3, r2
    mov r4, r2
    mov r5, r2
    mov r7, r6
    mov r8, r6
    mov r9, r6
    .endm

/* a's sums begin at bias - 8 sum(x), b's at that + 16 bias */
    .macro BEGIN_INT4_SUMS
    ldmia r1!, {r2, r6}
    add r6, r2, r6, lsl #4
    ldr r0, [sp, #AT_SUMS_OF_X]
    ldm r0, {r10, r11, r12, lr}
    sub r3, r2, r11, lsl #3
    sub r4, r2, r12, lsl #3
    sub r5, r2, lr, lsl #3
    sub r2, r2, r10, lsl #3
    sub r7, r6, r11, lsl #3
    sub r8, r6, r12, lsl #3
    sub r9, r6, lr, lsl #3
    sub r6, r6, r10, lsl #3
    .endm

    .macro PART_INT4_SUMS
    sub r6, r6, r2
    sub r7, r7, r3
    sub r8, r8, r4
    sub r9, r9, r5
    asr r6, r6, #4
    asr r7, r7, #4
    asr r8, r8, #4
    asr r9, r9, #4
    .endm

/* bytes of a and b side by side, to four pixels */
    .macro STORE_BYTES
    ldrd r10, r11, [sp, #AT_OUT]
    bfi r2, r6, #8, #8
    bfi r3, r7, #8, #8
    bfi r4, r8, #8, #8
    bfi r5, r9, #8, #8
    strh r3, [r10, r11]
    strh r4, [r10, r11, lsl #1]
    add r11, r11, r11, lsl #1
    strh r5, [r10, r11]
    strh r2, [r10], #2
    str r10, [sp, #AT_OUT]
    .endm

/* HALVES: one word is c << 8 | l; a shift by a register takes its lowest byte alone */
    .macro END_RELU_PACKED
    ldmia r1!, {r10, r12}
    asr r11, r12, #8
    .irp sum, r2, r3, r4, r5
    SCALE_RELU \sum, r10, r11, r12
    .endr
    ldmia r1!, {r10, r12}
    asr r11, r12, #8
    .irp sum, r6, r7, r8, r9
    SCALE_RELU \sum, r10, r11, r12
    .endr
    STORE_BYTES
    .endm

    .macro END_ANY_PACKED
    ldmia r1!, {r0, r10, r12}
    asr r11, r12, #8
    .irp sum, r2, r3, r4, r5
    SCALE_ANY \sum, r0, r10, r11, r12, lr
    .endr
    ldmia r1!, {r0, r10, r12}
    asr r11, r12, #8
    .irp sum, r6, r7, r8, r9
    SCALE_ANY \sum, r0, r10, r11, r12, lr
    .endr
    STORE_BYTES
    .endm

    .macro END_RELU
    ldmia r1!, {r10, r11, r12}
    .irp sum, r2, r3, r4, r5
    SCALE_RELU \sum, r10, r11, r12
    .endr
    ldmia r1!, {r10, r11, r12}
    .irp sum, r6, r7, r8, r9
    SCALE_RELU \sum, r10, r11, r12
    .endr
    STORE_BYTES
    .endm

    .macro END_ANY
    ldmia r1!, {r0, r10, r11, r12}
    .irp sum, r2, r3, r4, r5
    SCALE_ANY \sum, r0, r10, r11, r12, lr
    .endr
    ldmia r1!, {r0, r10, r11, r12}
    .irp sum, r6, r7, r8, r9
    SCALE_ANY \sum, r0, r10, r11, r12, lr
    .endr
    STORE_BYTES
    .endm

/* Exact scaling is the caller's: the sums as they are, a of pixels 0-3, b of pixels 0-3. */
    .macro END_SUMS
    ldr r10, [sp, #AT_OUT]
    stmia r10!, {r2-r9}
    str r10, [sp, #AT_OUT]
    adds r1, #16
    .endm

    .macro CONV2D_BLOCK name, quad, quad_bytes, begin, part, end
    FUNCTION \name
    push {r4-r11, lr}
    sub sp, #FRAME
    ldm r3, {r4-r8}              /* stream_end, columns_end, out_step, k_quads, sums_of_x */
    strd r0, r5, [sp, #AT_COLUMNS]
    strd r2, r6, [sp, #AT_OUT]
    str r8, [sp, #AT_SUMS_OF_X]
    rsb r7, r7, #0               /* skip -k_quads % 8 quads the first time */
    and r7, r7, #(UNROLLED - 1)
    movs r5, #\quad_bytes
    adr r6, 2f
    mla r7, r7, r5, r6
    orr r7, r7, #1
    strd r7, r4, [sp, #AT_ENTRY]
1:  \begin
    ldr r0, [sp, #AT_COLUMNS]
    ldr pc, [sp, #AT_ENTRY]
    .balign 4
2:  .rept UNROLLED
    \quad
    .endr
    ldr lr, [sp, #AT_COLUMNS_END]
    cmp r0, lr
    bne 2b
    \part
    \end
    ldr r12, [sp, #AT_STREAM_END]
    cmp r1, r12
    bne 1b
    add sp, #FRAME
    pop {r4-r11, pc}
    END \name
    .endm

    .macro NOTHING
    .endm

    CONV2D_BLOCK ef_conv2d_block_relu, PAIRS_QUAD, PAIRS_QUAD_BYTES, BEGIN_SUMS, NOTHING, END_RELU
    CONV2D_BLOCK ef_conv2d_block_any, PAIRS_QUAD, PAIRS_QUAD_BYTES, BEGIN_SUMS, NOTHING, END_ANY
    CONV2D_BLOCK ef_conv2d_block_sums, PAIRS_QUAD, PAIRS_QUAD_BYTES, BEGIN_SUMS, NOTHING, END_SUMS
    CONV2D_BLOCK ef_conv2d_block_relu_halves, HALVES_QUAD, HALVES_QUAD_BYTES, BEGIN_SUMS, NOTHING, END_RELU_PACKED
    CONV2D_BLOCK ef_conv2d_block_any_halves, HALVES_QUAD, HALVES_QUAD_BYTES, BEGIN_SUMS, NOTHING, END_ANY_PACKED
    CONV2D_BLOCK ef_conv2d_block_relu_int4, INT4_QUAD, INT4_QUAD_BYTES, BEGIN_INT4_SUMS, PART_INT4_SUMS, END_RELU
    CONV2D_BLOCK ef_conv2d_block_any_int4, INT4_QUAD, INT4_QUAD_BYTES, BEGIN_INT4_SUMS, PART_INT4_SUMS, END_ANY
    CONV2D_BLOCK ef_conv2d_block_sums_int4, INT4_QUAD, INT4_QUAD_BYTES, BEGIN_INT4_SUMS, PART_INT4_SUMS, END_SUMS

/* Rows of bytes under four windows -> columns: whole words of each row. Returns where the columns end.
 *
 * uint32_t *f(const windows *w, uint32_t *columns, int32_t words, int32_t rows)
 *
 * windows: the first row of each window, then the bytes from a row to the next one of each window.
 * Registers: r0-r3 rows, r4-r7 four bytes of each, r8-r11 widened, r12 columns, lr pairs of quads left. */
    .equ AT_PITCH_LEFT, 0        /* of each window: pitch less the row's words */
    .equ AT_WORDS, 16
    .equ AT_ROWS, 20
    .equ WIDEN_FRAME, 28

    .macro LOAD_QUAD
    ldr r4, [r0], #4
    ldr r5, [r1], #4
    ldr r6, [r2], #4
    ldr r7, [r3], #4
    .endm

    .macro EVEN_BYTES
    sxtb16 r8, r4
    sxtb16 r9, r5
    sxtb16 r10, r6
    sxtb16 r11, r7
    stmia r12!, {r8-r11}
    .endm

    .macro ODD_BYTES
    sxtb16 r8, r4, ror #8
    sxtb16 r9, r5, ror #8
    sxtb16 r10, r6, ror #8
    sxtb16 r11, r7, ror #8
    stmia r12!, {r8-r11}
    .endm

    .macro WIDEN_PLAIN
    LOAD_QUAD
    EVEN_BYTES
    ODD_BYTES
    .endm

    .macro WIDEN_HALVES
    LOAD_QUAD
    ODD_BYTES
    rev16 r8, r4
    rev16 r9, r5
    rev16 r10, r6
    rev16 r11, r7
    .irp half, r8, r9, r10, r11
    eor \half, \half, #0x007f007f
    .endr
    stmia r12!, {r8-r11}
    .endm

    .macro WIDEN name, quad
    FUNCTION \name
    push {r4-r11, lr}
    sub sp, #WIDEN_FRAME
    strd r2, r3, [sp, #AT_WORDS]
    mov r12, r1
    mov lr, r2
    ldm r0, {r0-r7}
    .irp pitch, r4, r5, r6, r7
    sub \pitch, \pitch, lr, lsl #2
    .endr
    stm sp, {r4-r7}
1:  lsrs lr, lr, #1
    bcc 2f
    \quad
2:  cmp lr, #0
    beq 4f
3:  \quad
    \quad
    subs lr, lr, #1
    bne 3b
4:  ldrd r8, r9, [sp, #AT_WORDS]
    subs r9, r9, #1
    beq 5f
    str r9, [sp, #AT_ROWS]
    mov lr, r8
    ldm sp, {r4-r7}
    add r0, r0, r4
    add r1, r1, r5
    add r2, r2, r6
    add r3, r3, r7
    b 1b
5:  mov r0, r12
    add sp, #WIDEN_FRAME
    pop {r4-r11, pc}
    END \name
    .endm

    WIDEN ef_conv2d_widen, WIDEN_PLAIN
    WIDEN ef_conv2d_widen_halves, WIDEN_HALVES
