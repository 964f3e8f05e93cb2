/* SPDX-License-Identifier: Apache-2.0
 *
 * Inner loop of depthwise 3x3 for Helium: one channel of a chunk of rows, four neighbouring outputs in the lanes. The
 * nine weights stay in general registers, the scale in vectors; dlstp and letp switch off the lanes behind a row's end.
 *
 * Registers: r0 out, r1-r3 the three rows of the plane, r4-r12 weights, lr outputs left (the loop's); q0 sums, q1
 * inputs, q2 bias, q3 m, q4 c, q5 l, q6 where the outputs go, q7 how far the next four are.
 *
 * void f(const int8_t *plane, const int32_t *channel, int8_t *out, const rows_facts *facts)
 */
    .syntax unified
    .thumb

    .equ AT_OUT_STEPS, 0         /* 0, 1, 2, 3 times the step of an output column */
    .equ AT_K, 16                /* in all lanes */
    .equ AT_COLUMNS, 32
    .equ AT_ROW_REST, 36         /* from where a row of the plane was left to the next one */
    .equ AT_OUT, 40
    .equ AT_OUT_Y_STEP, 44
    .equ AT_ROWS, 48
    .equ FRAME, 60

    .equ ODD_COLUMNS, 64         /* stride 2: odd columns of a plane's row lie behind the even ones */

    .macro TAPS row, w0, w1, w2, stride
    .if \stride == 1
    vldrb.s32 q1, [\row, #1]
    vmla.s32 q0, q1, \w1
    vldrb.s32 q1, [\row, #2]
    .else
    vldrb.s32 q1, [\row, #ODD_COLUMNS]
    vmla.s32 q0, q1, \w1
    vldrb.s32 q1, [\row, #1]
    .endif
    vmla.s32 q0, q1, \w2
    vldrb.s32 q1, [\row], #4
    vmla.s32 q0, q1, \w0
    .endm

    .macro ROWS name, stride, relu
#ifdef EF_FAST_CODE_SECTION
    .section EF_FAST_CODE_SECTION, "ax", %progbits
#else
    .section .text.\name, "ax", %progbits
#endif
    .balign 4
    .global \name
    .type \name, %function
    .thumb_func
\name:
    push {r4-r11, lr}
    vpush {d8-d15}
    sub sp, #FRAME
    ldm r3, {r4-r9}              /* pitch, row_step, columns, rows, out_x_step, out_y_step */
    add r10, r6, #3
    bic r10, r10, #3
    sub r5, r5, r10
    strd r6, r5, [sp, #AT_COLUMNS]
    strd r2, r9, [sp, #AT_OUT]
    str r7, [sp, #AT_ROWS]
    mov r10, #0
    vidup.u32 q6, r10, #1
    vmul.i32 q6, q6, r8
    vstrw.32 q6, [sp, #AT_OUT_STEPS]
    lsl r8, r8, #2
    vdup.32 q7, r8
    .if \relu
    ldmia r1!, {r9-r12}          /* bias, m, c, l */
    .else
    ldmia r1!, {r9, r10}         /* bias, k */
    vdup.32 q0, r10
    vstrw.32 q0, [sp, #AT_K]
    ldmia r1!, {r10-r12}
    .endif
    vdup.32 q2, r9
    vdup.32 q3, r10
    vdup.32 q4, r11
    vdup.32 q5, r12
    mov lr, r1
    mov r1, r0
    add r2, r1, r4
    add r3, r2, r4
    ldrsb r4, [lr]
    ldrsb r5, [lr, #1]
    ldrsb r6, [lr, #2]
    ldrsb r7, [lr, #3]
    ldrsb r8, [lr, #4]
    ldrsb r9, [lr, #5]
    ldrsb r10, [lr, #6]
    ldrsb r11, [lr, #7]
    ldrsb r12, [lr, #8]
1:  ldr r0, [sp, #AT_OUT]
    vldrw.u32 q6, [sp, #AT_OUT_STEPS]
    ldr lr, [sp, #AT_COLUMNS]
    dlstp.32 lr, lr
2:  vmov q0, q2
    TAPS r1, r4, r5, r6, \stride
    TAPS r2, r7, r8, r9, \stride
    TAPS r3, r10, r11, r12, \stride
    vshl.s32 q0, q0, q5
    vmulh.s32 q0, q0, q3
    .if !\relu
    vldrw.u32 q1, [sp, #AT_K]
    vpt.s32 lt, q0, zr           /* m > 0: the product is negative where the sum is */
    vaddt.i32 q0, q0, q1
    .endif
    vadd.i32 q0, q0, q4
    vshr.s32 q0, q0, #15
    vqmovnb.s32 q0, q0           /* to 16 bits, then to 8: the lowest byte of each lane is right */
    vqmovnb.s16 q0, q0
    vstrb.32 q0, [r0, q6]
    vadd.i32 q6, q6, q7
    letp lr, 2b
    ldr r0, [sp, #AT_ROW_REST]
    add r1, r1, r0
    add r2, r2, r0
    add r3, r3, r0
    ldrd r0, lr, [sp, #AT_OUT]
    add r0, r0, lr
    str r0, [sp, #AT_OUT]
    ldr lr, [sp, #AT_ROWS]
    subs lr, lr, #1
    str lr, [sp, #AT_ROWS]
    bne 1b
    add sp, #FRAME
    vpop {d8-d15}
    pop {r4-r11, pc}
    .size \name, . - \name
    .endm

    ROWS ef_depthwise_3x3_rows_relu_s1, 1, 1
    ROWS ef_depthwise_3x3_rows_relu_s2, 2, 1
    ROWS ef_depthwise_3x3_rows_any_s1, 1, 0
    ROWS ef_depthwise_3x3_rows_any_s2, 2, 0
